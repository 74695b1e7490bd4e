// One batch element by panels that all dimensions share: moments of the points, sums over nodes, slopes at
// the points.
#pragma once

#include "mmd/cpu_moments.h"
#include "mmd/cpu_nodes.h"
#include "mmd/cpu_plan.h"

namespace pykernels {
namespace {

constexpr int64_t kPanelRows = 512;  // whose moments are summed in T before they go on in double
constexpr int64_t kBlockDims = 64;

template <class T> struct PanelScratch {
  T* rows;    // [kPanelRows][dims], in each of these
  T* masses;  // null: equal ones
  T* sums;    // [dims][nodes]; null in double, which adds to the task's moments
};

template <class T> struct PanelMemory {
  Places<T> places;
  double* moments;  // [tasks of x and y][dims][nodes]; the first of each sample becomes their sum
  KernelTable table;
  double *weights, *even, *odd, *sums;  // [nodes][columns] each
  double* tiles;                        // [threads][2][nodes / 2][kTileRows]
  T* series[2];                         // [dims][nodes]
  PanelScratch<T>* scratch;             // [threads]
};

static inline int64_t block_dims(int64_t dims) { return ceil_div(dims, ceil_div(dims, kBlockDims)); }

template <class T>
PanelMemory<T> take_panels(Arena& arena, const MmdProblem& problem, const Plan& plan,
                           const Element<T>& element, int threads) {
  const int64_t dims = problem.dims, size = dims * plan.nodes;
  const int64_t columns = padded_columns(2 * block_dims(dims));
  PanelMemory<T> memory{};
  memory.places.offsets = take<int64_t>(arena, dims * kUnit<T>);
  memory.moments = take<double>(arena, (plan.tasks[0] + plan.tasks[1]) * size);
  memory.table.panels = plan.panels;
  memory.table.order = problem.order;
  memory.table.kappa = take<double>(arena, memory.table.size());
  memory.table.derivative = take<double>(arena, memory.table.size());
  memory.weights = take<double>(arena, plan.nodes * columns);
  memory.even = take<double>(arena, plan.nodes / 2 * columns);
  memory.odd = take<double>(arena, plan.nodes / 2 * columns);
  memory.sums = take<double>(arena, plan.nodes * columns);
  memory.tiles = take<double>(arena, threads * plan.nodes * kTileRows);
  for (int s = 0; s < 2; ++s) memory.series[s] = element.slopes[s] ? take<T>(arena, size) : nullptr;
  memory.scratch = take<PanelScratch<T>>(arena, threads);
  for (int thread = 0; thread < threads; ++thread) {
    PanelScratch<T> scratch;
    scratch.rows = take<T>(arena, kPanelRows * dims);
    scratch.masses =
        element.samples[0].masses || element.samples[1].masses ? take<T>(arena, kPanelRows * dims) : nullptr;
    scratch.sums = sizeof(T) < sizeof(double) ? take<T>(arena, size) : nullptr;
    if (arena.base) memory.scratch[thread] = scratch;
  }
  return memory;
}

// The masses of rows, times a factor, one for each of the rows' numbers.
template <class T>
void spread_masses(const Points<T>& points, int64_t first, int64_t count, double factor, T* masses) {
  for (int64_t i = 0; i < count; ++i) {
    const T mass = static_cast<T>(factor * points.mass(first + i));
    for (int64_t d = 0; d < points.dims; ++d) masses[i * points.dims + d] = mass;
  }
}

template <class T, int kOrder>
void moments_task(const Points<T>& points, const Places<T>& places, int64_t size, int64_t first, int64_t last,
                  const PanelScratch<T>& scratch, double* moments) {
  const bool in_place = points.dense() && points.all_defined();
  for (int64_t at = 0; at < size; ++at) moments[at] = 0;
  for (; first < last; first += kPanelRows) {
    const int64_t count = at_most(kPanelRows, last - first);
    const T* const rows = rows_of(points, in_place, first, count, scratch.rows);
    T* sums;
    if constexpr (sizeof(T) < sizeof(double)) {
      sums = scratch.sums;
      for (int64_t at = 0; at < size; ++at) sums[at] = 0;
    } else {
      sums = moments;
    }
    if (points.masses) {
      spread_masses(points, first, count, 1, scratch.masses);
      add_moments<T, kOrder, true>(rows, count, points.dims, places, scratch.masses, sums);
    } else {
      add_moments<T, kOrder, false>(rows, count, points.dims, places, nullptr, sums);
    }
    if constexpr (sizeof(T) < sizeof(double))
      for (int64_t at = 0; at < size; ++at) moments[at] += static_cast<double>(sums[at]);
  }
}

// First row of a task; tasks begin where the lanes do.
template <class T> int64_t first_row(int64_t count, int64_t task, int64_t tasks) {
  return at_most(count, ceil_div(count, kUnit<T>) * task / tasks * kUnit<T>);
}

template <class T, int kOrder>
void sum_moments(const Element<T>& element, const Plan& plan, const PanelMemory<T>& memory, int threads,
                 Interrupt& interrupt) {
  const int64_t size = element.samples[0].dims * plan.nodes;
  parallel_tasks(plan.tasks[0] + plan.tasks[1], threads, interrupt, [&](int64_t index, int thread) {
    const int s = index >= plan.tasks[0];
    const int64_t task = s ? index - plan.tasks[0] : index;
    const Points<T>& points = element.samples[s];
    moments_task<T, kOrder>(points, memory.places, size, first_row<T>(points.count, task, plan.tasks[s]),
                            first_row<T>(points.count, task + 1, plan.tasks[s]), memory.scratch[thread],
                            memory.moments + index * size);
  });
  for (int s = 0; s < 2; ++s) {
    double* const total = memory.moments + (s ? plan.tasks[0] * size : 0);
    for (int64_t task = 1; task < plan.tasks[s]; ++task)
      for (int64_t at = 0; at < size; ++at) total[at] += total[task * size + at];
  }
}

// The moments of the points of all processes, in place of those of this one's.
template <class T>
void share_moments(const Element<T>& element, const Plan& plan, const PanelMemory<T>& memory,
                   Interrupt& interrupt) {
  const int64_t size = element.samples[0].dims * plan.nodes;
  for (int s = 0; s < 2 && !interrupted(interrupt, 0); ++s) {
    double* const moments = memory.moments + (s ? plan.tasks[0] * size : 0);
    if (!element.share->sum(element.share->context, moments, size))
      __atomic_store_n(&interrupt.raised, 1, __ATOMIC_RELAXED);
  }
}

static inline void split_columns(const double* weights, Columns& columns) {
  const int64_t stride = columns.stride;
  for (int64_t r = 0; r < columns.nodes / 2; ++r) {
    const double* const row = weights + r * stride;
    const double* const mirror = weights + (columns.nodes - 1 - r) * stride;
    for (int64_t c = 0; c < stride; ++c) {
      columns.even[r * stride + c] = row[c] + mirror[c];
      columns.odd[r * stride + c] = row[c] - mirror[c];
    }
  }
}

// Combines columns of w and u into those whose sums with kappa' are the slopes of x and of y:
// w + c_u u and -w + c_v v, with v = u - w.
static inline void slope_columns(Columns& columns, int64_t dims, const double (&excess)[2],
                                 const bool (&asked)[2], bool unbiased) {
  double* const parts[] = {columns.even, columns.odd};
  for (double* const part : parts) {
    for (int64_t r = 0; r < columns.nodes / 2; ++r) {
      double* const row = part + r * columns.stride;
      for (int64_t d = 0; d < dims && unbiased; ++d) {
        const double w = row[d], u = row[dims + d];
        const double x = w + excess[0] * u, y = excess[1] * (u - w) - w;
        row[d] = asked[0] ? x : y;
        row[dims + d] = y;
      }
    }
  }
}

static inline void multiply_all(const KernelTable& table, const double* entries, double mirror,
                                const Columns& columns, double* tiles, int threads, Interrupt& interrupt,
                                double* out) {
  const bool large = columns.nodes * columns.nodes * columns.count > (int64_t(1) << 25);
  parallel_tasks(
      columns.nodes / 2 / kTileRows, large ? threads : 1, interrupt, [&](int64_t tile, int thread) {
        multiply_rows(table, entries, mirror, columns, tile, tiles + thread * columns.nodes * kTileRows, out);
      });
}

// Sums over the nodes of dimensions [first, first + dims): adds their values, and leaves the series of their
// slopes.
template <class T>
double node_block(const MmdProblem& problem, const ChebyshevRule& rule, const Plan& plan,
                  const Element<T>& element, const PanelMemory<T>& memory, int64_t first, int64_t dims,
                  int threads, Interrupt& interrupt) {
  const int64_t size = problem.dims * plan.nodes;
  const int64_t used = problem.unbiased ? 2 * dims : dims, count = padded_columns(used);
  double factor[2];
  for (int s = 0; s < 2; ++s) {
    const Points<T>& points = element.samples[s];
    factor[s] = points.masses ? 1 : 1 / element.counts[s];
  }
  for (int64_t row = 0; row < plan.nodes; ++row)
    for (int64_t c = used; c < count; ++c) memory.weights[row * count + c] = 0;
  for (int64_t d = 0; d < dims; ++d) {
    const double* const of_x = memory.moments + (first + d) * plan.nodes;
    const double* const of_y = of_x + plan.tasks[0] * size;
    double* const w = memory.weights + d;
    for (int64_t at = 0; at < plan.nodes; ++at) memory.sums[at] = factor[0] * of_x[at] - factor[1] * of_y[at];
    moments_to_nodes(rule, memory.sums, plan.panels, 1, w, count);
    if (problem.unbiased) moments_to_nodes(rule, of_x, plan.panels, factor[0], w + dims, count);
  }
  Columns columns{plan.nodes, count, count, memory.even, memory.odd};
  split_columns(memory.weights, columns);
  multiply_all(memory.table, memory.table.kappa, 1, columns, memory.tiles, threads, interrupt, memory.sums);
  double value = 0;
  for (int64_t d = 0; d < dims; ++d) {
    double of_w = 0, of_u = 0, of_both = 0, mass_u = 0, mass_w = 0;
    for (int64_t row = 0; row < plan.nodes; ++row) {
      const double* const weight = memory.weights + row * count;
      const double* const sum = memory.sums + row * count;
      of_w += weight[d] * sum[d];
      if (problem.unbiased) {
        of_u += weight[dims + d] * sum[dims + d];
        of_both += weight[dims + d] * sum[d];
        mass_u += weight[dims + d];
        mass_w += weight[d];
      }
    }
    value += value_of_forms({of_w, of_u, of_u - 2 * of_both + of_w, mass_u, mass_u - mass_w},
                            problem.num_scales, element.excess[0], element.excess[1]);
  }
  if (!element.any_slopes()) return value;
  const bool asked[] = {element.slopes[0] != nullptr, element.slopes[1] != nullptr};
  slope_columns(columns, dims, element.excess, asked, problem.unbiased);
  if (!(asked[0] && asked[1])) columns.count = padded_columns(dims);
  multiply_all(memory.table, memory.table.derivative, -1, columns, memory.tiles, threads, interrupt,
               memory.sums);
  for (int s = 0; s < 2; ++s) {
    if (!asked[s]) continue;
    const double sign = !problem.unbiased && s == 1 ? -1 : 1;
    const int64_t column = problem.unbiased && asked[0] && s == 1 ? dims : 0;
    for (int64_t d = 0; d < dims; ++d)
      nodes_to_series(rule, memory.sums + column + d, count, plan.panels, 2 * sign * factor[s],
                      memory.series[s] + (first + d) * plan.nodes);
  }
  return value;
}

template <class T, int kOrder>
void slopes_at_points(const Element<T>& element, int s, const PanelMemory<T>& memory, int threads,
                      Interrupt& interrupt) {
  const Points<T>& points = element.samples[s];
  const bool all_defined = points.all_defined(), in_place = points.dense() && all_defined;
  parallel_tasks(ceil_div(points.count, kPanelRows), threads, interrupt, [&](int64_t task, int thread) {
    const int64_t first = task * kPanelRows, count = at_most(kPanelRows, points.count - first);
    const PanelScratch<T>& scratch = memory.scratch[thread];
    const T* const rows = rows_of(points, in_place, first, count, scratch.rows);
    T* const out = element.slopes[s] + first * points.dims;
    if (points.masses) {
      spread_masses(points, first, count, 1, scratch.masses);
      evaluate_series<T, kOrder, true>(rows, count, points.dims, memory.places, memory.series[s],
                                       scratch.masses, out);
    } else {
      evaluate_series<T, kOrder, false>(rows, count, points.dims, memory.places, memory.series[s], nullptr,
                                        out);
    }
    for (int64_t d = 0; d < points.dims && !all_defined; ++d)
      for (int64_t i = 0; i < count && !points.defined(d); ++i)
        out[i * points.dims + d] = static_cast<T>(__builtin_nan(""));
  });
}

template <class T, int kOrder>
double panels_of_order(const MmdProblem& problem, const Plan& plan, const Element<T>& element,
                       PanelMemory<T>& memory, int threads, Interrupt& interrupt) {
  const ChebyshevRule rule = chebyshev_rule(kOrder);
  fill_places(problem, element.samples[0].ranges, plan.panels, memory.places);
  fill_table(problem, rule, memory.table);
  sum_moments<T, kOrder>(element, plan, memory, threads, interrupt);
  if (element.share) share_moments(element, plan, memory, interrupt);
  double value = 0;
  const int64_t step = block_dims(problem.dims);
  for (int64_t first = 0; first < problem.dims && !interrupted(interrupt, 0); first += step)
    value += node_block(problem, rule, plan, element, memory, first, at_most(step, problem.dims - first),
                        threads, interrupt);
  for (int s = 0; s < 2; ++s)
    if (element.slopes[s]) slopes_at_points<T, kOrder>(element, s, memory, threads, interrupt);
  return value;
}

template <class T>
double run_panels(const MmdProblem& problem, const Plan& plan, const Element<T>& element,
                  PanelMemory<T>& memory, int threads, Interrupt& interrupt) {
  return problem.order == 8 ? panels_of_order<T, 8>(problem, plan, element, memory, threads, interrupt)
                            : panels_of_order<T, 16>(problem, plan, element, memory, threads, interrupt);
}

}  // namespace
}  // namespace pykernels
