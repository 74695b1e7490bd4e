// One batch element by the sums over all pairs of points. Each dimension is cut into parts, which are tasks:
// strips of rows, with every later point. Masses stand for numbers near 1, so that they may be as exact in T
// as the points; what they sum to divides the results.
#pragma once

#include "mmd/cpu_pairs.h"

namespace pykernels {
namespace {

template <class T> struct DirectMemory {
  int64_t parts, padded[2];  // of each dimension; points of x and of y, in whole vectors
  T *points[2], *masses[2];  // [dims][padded], [padded]
  double* fields[2];         // [dims][parts][padded], if slopes are asked for
  double* values;            // [dims][parts]
  Fractions<T>* fractions;
  double total_mass[2];
};

static inline int64_t strips_of(int64_t count) { return ceil_div(count, kStripRows); }

// For the dimensions that are there at a time.
template <class T>
DirectMemory<T> take_direct(Arena& arena, const MmdProblem& problem, const Element<T>& element, int64_t dims,
                            int64_t parts) {
  DirectMemory<T> memory{};
  memory.parts = parts;
  for (int s = 0; s < 2; ++s) {
    const int64_t padded = ceil_div(s == 0 ? problem.n : problem.m, kLanes<T>) * kLanes<T>;
    memory.padded[s] = padded;
    memory.points[s] = take<T>(arena, dims * padded);
    memory.masses[s] = take<T>(arena, padded);
    memory.fields[s] = element.any_slopes() ? take<double>(arena, dims * parts * padded) : nullptr;
  }
  memory.values = take<double>(arena, dims * parts);
  memory.fractions = take<Fractions<T>>(arena, 1);
  return memory;
}

template <class T>
void prepare_direct(const MmdProblem& problem, const Element<T>& element, DirectMemory<T>& memory) {
  *memory.fractions = fractions_of<T>(problem);
  for (int s = 0; s < 2; ++s) {
    const Points<T>& points = element.samples[s];
    double total = 0;
    for (int64_t i = 0; i < memory.padded[s]; ++i) {
      const double mass = i >= points.count ? 0
                          : points.masses   ? points.mass(i) * static_cast<double>(points.count)
                                            : 1;
      memory.masses[s][i] = static_cast<T>(mass);
      total += static_cast<double>(memory.masses[s][i]);
    }
    memory.total_mass[s] = total;
  }
}

// Whether the points of a dimension are near enough to each other for one fraction.
template <class T> bool is_near(const Fractions<T>& fractions, const double* range, bool slopes) {
  if (fractions.degree == 0) return false;
  const double lowest = range[0] * fractions.factor, highest = range[1] * fractions.factor;
  const double most = ::ldexp(1.0, kExponents<T>);
  return lowest >= -most && highest <= most &&
         highest - lowest <= (fractions.degree == 3 ? reach<T, 3>(slopes) : reach<T, 6>(slopes));
}

// Rows [first, last) of dimensions [first_dim, last_dim) as columns from `out`; those after the last row as
// it.
template <class T>
void gather_points(const Points<T>& points, const Fractions<T>& fractions, bool slopes, int64_t first,
                   int64_t last, int64_t first_dim, int64_t last_dim, int64_t padded, T* out) {
  for (int64_t d = first_dim; d < last_dim; ++d) {
    T* const column = out + (d - first_dim) * padded;
    const bool near = is_near(fractions, points.ranges + 2 * d, slopes);
    const T factor = near ? static_cast<T>(fractions.factor) : T(1);
    for (int64_t i = first; i < last; ++i) column[i] = factor * points.at(i, d);
    for (int64_t i = points.count; i < padded && last == points.count; ++i) column[i] = column[last - 1];
  }
}

// Slopes of rows [first, last) from the fields.
template <class T>
void scatter_slopes(const Element<T>& element, const DirectMemory<T>& memory, int s, int64_t first,
                    int64_t last, int64_t first_dim, int64_t last_dim) {
  const Points<T>& points = element.samples[s];
  for (int64_t d = first_dim; d < last_dim; ++d) {
    const int64_t padded = memory.padded[s];
    const double* const fields = memory.fields[s] + (d - first_dim) * memory.parts * padded;
    const bool near = is_near(*memory.fractions, points.ranges + 2 * d, true);
    const double factor = near ? -4 * memory.fractions->slope_factor : -4;
    for (int64_t i = first; i < last; ++i) {
      double field = points.defined(d) ? 0 : __builtin_nan("");
      for (int64_t part = 0; part < memory.parts && points.defined(d); ++part)
        field += fields[part * padded + i];
      element.slopes[s][i * points.dims + d] = static_cast<T>(factor * points.mass(i) * field);
    }
  }
}

// The mean of kappa over a few pairs: sums of what kappa exceeds it by are more exact.
template <class T, class Kernel> T typical_kappa(Kernel kernel, const Column<T> (&samples)[2]) {
  constexpr int kRows = 4;
  kernel.centre = 0;
  Vector<T> total{};
  for (int row = 0; row < kRows; ++row) {
    const Vector<T> x = splat(samples[0].points[samples[0].count * row / kRows]);
    const int64_t at = samples[1].count * row / kRows / kLanes<T> * kLanes<T>;
    Vector<T> kappa, slope;
    kernel(x - load(samples[1].points + at), kappa, slope);
    total += kappa;
  }
  return static_cast<T>(wide_sum(total) / (kRows * kLanes<T>));
}

// One part of one dimension: its share of the value. Sums over the parts, less what an excess counts of pairs
// of a point with itself.
template <class T, bool kSlopes, class Kernel>
double sum_part(Kernel kernel, const Column<T> (&samples)[2], const double (&excess)[2],
                const double (&total_mass)[2], int64_t part, int64_t parts, Interrupt& interrupt,
                int thread) {
  kernel.centre = typical_kappa(kernel, samples);
  double within[2] = {}, between = 0, of_others[2];
  for (int s = 0; s < 2; ++s) of_others[s] = (1 + excess[s]) / total_mass[s];
  const int64_t strips[] = {strips_of(samples[0].count), strips_of(samples[1].count)};
  for (int64_t strip = part; strip < strips[0] + strips[1] && !interrupted(interrupt, thread);
       strip += parts) {
    const int s = strip >= strips[0];
    const int64_t first = (strip - (s ? strips[0] : 0)) * kStripRows;
    const int64_t last = at_most(first + kStripRows, samples[s].count);
    within[s] += sum_within<T, kSlopes>(kernel, samples[s], first, last, of_others[s]);
    if (s == 0)
      between += sum_strip<T, kSlopes>(kernel, samples[0], first, last, samples[1], 0, -1 / total_mass[1],
                                       -1 / total_mass[0]);
  }
  Vector<T> kappa, slope;
  kernel(Vector<T>{}, kappa, slope);
  double value = -2 * between / (total_mass[0] * total_mass[1]);
  for (int s = 0; s < 2; ++s) {
    value += (1 + excess[s]) * within[s] / (total_mass[s] * total_mass[s]);
    if (part == 0) value -= excess[s] * static_cast<double>(kappa[0]);
  }
  return value;
}

template <class T, bool kSlopes>
double sum_dimension(const Fractions<T>& fractions, bool near, const Column<T> (&samples)[2],
                     const double (&excess)[2], const double (&total_mass)[2], int64_t part, int64_t parts,
                     Interrupt& interrupt, int thread) {
  const auto by = [&](const auto& kernel) {
    return sum_part<T, kSlopes>(kernel, samples, excess, total_mass, part, parts, interrupt, thread);
  };
  if (near && fractions.degree == 3) return by(NearKernel<T, 3, kSlopes>{fractions.three, 0});
  if (near) return by(NearKernel<T, 6, kSlopes>{fractions.six, 0});
  const T farthest = static_cast<T>(reach<T, kShared>(true));
  return by(FarKernel<T, kSlopes>{fractions.far, fractions.count, farthest, 0});
}

// One part of dimension d, which is the one numbered `held` in memory.
template <class T>
void direct_part(const Element<T>& element, const DirectMemory<T>& memory, int64_t d, int64_t held,
                 int64_t part, Interrupt& interrupt, int thread) {
  const bool slopes = element.any_slopes();
  Column<T> columns[2];
  for (int s = 0; s < 2; ++s) {
    const Points<T>& points = element.samples[s];
    const int64_t padded = memory.padded[s];
    double* const fields = slopes ? memory.fields[s] + (held * memory.parts + part) * padded : nullptr;
    for (int64_t i = 0; i < padded && slopes; ++i) fields[i] = 0;
    columns[s] = {memory.points[s] + held * padded, memory.masses[s], points.count, points.masses != nullptr,
                  fields};
  }
  const bool near = is_near(*memory.fractions, element.samples[0].ranges + 2 * d, slopes);
  const auto sum = slopes ? sum_dimension<T, true> : sum_dimension<T, false>;
  memory.values[held * memory.parts + part] = sum(*memory.fractions, near, columns, element.excess,
                                                  memory.total_mass, part, memory.parts, interrupt, thread);
}

// Dimension d by itself, in memory of one.
template <class T>
double direct_dimension(const Element<T>& element, const DirectMemory<T>& memory, int64_t d,
                        Interrupt& interrupt, int thread) {
  for (int s = 0; s < 2; ++s)
    gather_points(element.samples[s], *memory.fractions, element.any_slopes(), 0, element.samples[s].count, d,
                  d + 1, memory.padded[s], memory.points[s]);
  direct_part(element, memory, d, 0, 0, interrupt, thread);
  for (int s = 0; s < 2; ++s)
    if (element.slopes[s]) scatter_slopes(element, memory, s, 0, element.samples[s].count, d, d + 1);
  return memory.values[0];
}

template <class T>
double run_direct(const MmdProblem& problem, const Element<T>& element, DirectMemory<T>& memory, int threads,
                  Interrupt& interrupt) {
  prepare_direct(problem, element, memory);
  const int64_t dims = problem.dims;
  const int64_t blocks[] = {strips_of(problem.n), strips_of(problem.m)};
  const auto for_blocks = [&](const auto& body) {
    parallel_tasks(blocks[0] + blocks[1], threads, interrupt, [&](int64_t block, int) {
      const int s = block >= blocks[0];
      const int64_t first = (block - (s ? blocks[0] : 0)) * kStripRows;
      body(s, first, at_most(first + kStripRows, element.samples[s].count));
    });
  };
  for_blocks([&](int s, int64_t first, int64_t last) {
    gather_points(element.samples[s], *memory.fractions, element.any_slopes(), first, last, 0, dims,
                  memory.padded[s], memory.points[s]);
  });
  parallel_tasks(dims * memory.parts, threads, interrupt, [&](int64_t task, int thread) {
    const int64_t d = task / memory.parts;
    memory.values[task] = 0;
    if (element.samples[0].defined(d))
      direct_part(element, memory, d, d, task % memory.parts, interrupt, thread);
  });
  for_blocks([&](int s, int64_t first, int64_t last) {
    if (element.slopes[s]) scatter_slopes(element, memory, s, first, last, 0, dims);
  });
  double value = 0;
  for (int64_t task = 0; task < dims * memory.parts; ++task) value += memory.values[task];
  return value;
}

}  // namespace
}  // namespace pykernels
