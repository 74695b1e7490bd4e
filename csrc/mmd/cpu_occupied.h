// One batch element whose points reach too far for shared panels: each dimension by the panels that hold
// points. One that holds fewer points than it would have nodes keeps them, so that there are never more nodes
// than points. All in double; positions are pairs (panel, place in it), whose differences are exact enough
// however far away they are.
#pragma once

#include "mmd/cpu_direct.h"
#include "mmd/cpu_nodes.h"

namespace pykernels {
namespace {

constexpr double kFarthest = 0x1p51;  // in panels; beyond, a point stands for itself
constexpr double kLargest = 1e150;    // whose square is finite

// Of one dimension. A point's slot is the panel that holds it, by order of appearance.
struct OccupiedScratch {
  int64_t capacity;                 // of the hash table: a power of two, at least twice as many as points
  double* keys;                     // [capacity]: panels
  int32_t* held;                    // [capacity]: slot + 1; 0: free
  int32_t* node;                    // [points]: slot, and then the first node
  int32_t *count, *start, *filled;  // [points], by slot
  double *panel, *place;            // [nodes]
  double *w, *u, *of_x, *of_y;      // [nodes]: masses, and then fields
};

static inline int64_t padded_nodes(int64_t points) {
  return ceil_div(points, kLanes<double>) * kLanes<double> + kMostOrder;
}

static inline OccupiedScratch take_scratch(Arena& arena, int64_t points) {
  OccupiedScratch scratch{};
  scratch.capacity = 16;
  while (scratch.capacity < 2 * points) scratch.capacity *= 2;
  scratch.keys = take<double>(arena, scratch.capacity);
  scratch.held = take<int32_t>(arena, scratch.capacity);
  int32_t** const by_point[] = {&scratch.node, &scratch.count, &scratch.start, &scratch.filled};
  for (int32_t** const array : by_point) *array = take<int32_t>(arena, points);
  double** const by_node[] = {&scratch.panel, &scratch.place, &scratch.w,
                              &scratch.u,     &scratch.of_x,  &scratch.of_y};
  for (double** const array : by_node) *array = take<double>(arena, padded_nodes(points));
  return scratch;
}

template <class T> struct OccupiedMemory {
  double* by_dim;
  OccupiedScratch* scratch;  // [threads]
  DirectMemory<T>* direct;   // [threads]: of one dimension each
};

template <class T>
OccupiedMemory<T> take_occupied(Arena& arena, const MmdProblem& problem, const Element<T>& element,
                                int threads) {
  OccupiedMemory<T> memory{};
  memory.by_dim = take<double>(arena, problem.dims);
  memory.scratch = take<OccupiedScratch>(arena, threads);
  memory.direct = take<DirectMemory<T>>(arena, threads);
  for (int thread = 0; thread < threads; ++thread) {
    const OccupiedScratch scratch = take_scratch(arena, problem.n + problem.m);
    const DirectMemory<T> direct = take_direct(arena, problem, element, 1, 1);
    if (!arena.base) continue;
    memory.scratch[thread] = scratch;
    memory.direct[thread] = direct;
  }
  return memory;
}

static inline uint64_t hash_of(double key) {
  uint64_t bits;
  std::memcpy(&bits, &key, sizeof bits);
  bits *= 0x9e3779b97f4a7c15u;
  return bits ^ (bits >> 32);
}

// The panel of a point; NaN for one that is too far to have one.
static inline double panel_of(double x, double width) {
  const double scaled = x / width;
  return scaled >= -kFarthest && scaled <= kFarthest ? ::nearbyint(scaled) + 0.0 : __builtin_nan("");
}

struct Occupied {
  int64_t nodes, slots;
};

// Fills node with slots, or -1 for a point without a panel, and start with each slot's first node. Gives up
// once there are more than so many nodes.
template <class T>
Occupied find_panels(const MmdProblem& problem, const Element<T>& element, int64_t d, double most,
                     OccupiedScratch& scratch) {
  for (int64_t at = 0; at < scratch.capacity; ++at) scratch.held[at] = 0;
  int64_t slots = 0, point = 0, nodes = 0, without = 0;
  for (const Points<T>& points : element.samples) {
    for (int64_t i = 0; i < points.count && static_cast<double>(nodes) <= most; ++i, ++point) {
      const double key = panel_of(static_cast<double>(points.at(i, d)), problem.width);
      if (key != key) {
        scratch.node[point] = -1;
        ++without;
        ++nodes;
        continue;
      }
      uint64_t at = hash_of(key) & (scratch.capacity - 1);
      while (scratch.held[at] && scratch.keys[at] != key) at = (at + 1) & (scratch.capacity - 1);
      if (!scratch.held[at]) {
        scratch.keys[at] = key;
        scratch.held[at] = static_cast<int32_t>(slots + 1);
        scratch.count[slots++] = 0;
      }
      scratch.node[point] = scratch.held[at] - 1;
      if (scratch.count[scratch.held[at] - 1]++ < problem.order) ++nodes;
    }
  }
  int64_t start = without;  // after the points without a panel
  for (int64_t slot = 0; slot < slots; ++slot) {
    scratch.start[slot] = static_cast<int32_t>(start);
    start += at_most(scratch.count[slot], problem.order);
  }
  return {nodes, slots};
}

// Masses at the nodes, and their places; node becomes the first node of each point's panel, or, for one that
// is a node itself, -1 - that.
template <class T>
void place_nodes(const MmdProblem& problem, const ChebyshevRule& rule, const Element<T>& element, int64_t d,
                 Occupied found, OccupiedScratch& scratch) {
  const int order = rule.order;
  const int64_t padded = ceil_div(found.nodes, kLanes<double>) * kLanes<double>;
  for (int64_t at = 0; at < padded; ++at)
    scratch.panel[at] = scratch.place[at] = scratch.w[at] = scratch.u[at] = scratch.of_x[at] =
        scratch.of_y[at] = 0;
  for (int64_t slot = 0; slot < found.slots; ++slot) scratch.filled[slot] = 0;
  int64_t point = 0, lone = 0;
  for (int s = 0; s < 2; ++s) {
    const Points<T>& points = element.samples[s];
    double* const masses = s == 0 ? scratch.of_x : scratch.of_y;
    for (int64_t i = 0; i < points.count; ++i, ++point) {
      const double x = static_cast<double>(points.at(i, d)), mass = points.mass(i);
      const double panel = panel_of(x, problem.width);
      const int32_t slot = scratch.node[point];
      if (slot < 0 || scratch.count[slot] < order) {
        const int64_t own = slot < 0 ? lone++ : scratch.start[slot] + scratch.filled[slot]++;
        scratch.panel[own] = slot < 0 ? 0 : panel;
        scratch.place[own] = slot < 0 ? x : x - panel * problem.width;
        masses[own] = mass;
        scratch.node[point] = static_cast<int32_t>(-1 - own);
        continue;
      }
      const int64_t first = scratch.start[slot];
      if (scratch.filled[slot]++ == 0) {
        for (int a = 0; a < order; ++a) {
          scratch.panel[first + a] = panel;
          scratch.place[first + a] = problem.width / 2 * rule.root[a];
        }
      }
      scratch.node[point] = static_cast<int32_t>(first);
      const double xi = 2 * (x / problem.width - panel);
      double previous = mass, current = mass * xi;
      for (int k = 0; k < order; ++k) {
        masses[first + k] += previous;
        const double next = 2 * xi * current - previous;
        previous = current;
        current = next;
      }
    }
  }
  // Moments to masses; w holds those of y for now.
  for (int64_t at = 0; at < found.nodes; ++at) {
    scratch.u[at] = scratch.of_x[at];
    scratch.w[at] = scratch.of_y[at];
  }
  for (int64_t slot = 0; slot < found.slots; ++slot) {
    if (scratch.count[slot] < order) continue;
    const int64_t first = scratch.start[slot];
    moments_to_nodes(rule, scratch.of_x + first, 1, 1, scratch.u + first, 1);
    moments_to_nodes(rule, scratch.of_y + first, 1, 1, scratch.w + first, 1);
  }
  for (int64_t at = 0; at < found.nodes; ++at) scratch.w[at] = scratch.u[at] - scratch.w[at];
}

// Sums over all nodes; leaves in of_x and of_y the fields that the slopes are, and returns the value.
static inline double node_pairs(const MmdProblem& problem, const double (&excess)[2], int64_t nodes,
                                OccupiedScratch& scratch) {
  const VectorD largest = splat(kLargest);
  double of_w = 0, of_u = 0, of_both = 0;
  for (int64_t first = 0; first < nodes; first += kLanes<double>) {
    const VectorD panel = load(scratch.panel + first), place = load(scratch.place + first);
    VectorD sum_w{}, sum_u{}, slope_w{}, slope_u{};
    for (int64_t b = 0; b < nodes; ++b) {
      VectorD t = problem.width * (panel - splat(scratch.panel[b])) + (place - splat(scratch.place[b]));
      t = t < -largest ? -largest : t > largest ? largest : t;
      VectorD kappa, derivative;
      cauchy_kernel(t, problem.scales, problem.num_scales, kappa, derivative);
      const VectorD w = splat(scratch.w[b]), u = splat(scratch.u[b]);
      sum_w = fma(kappa, w, sum_w);
      sum_u = fma(kappa, u, sum_u);
      slope_w = fma(derivative, w, slope_w);
      slope_u = fma(derivative, u, slope_u);
    }
    // Lanes beyond the last node have no mass.
    const VectorD w = load(scratch.w + first), u = load(scratch.u + first);
    of_w += sum(w * sum_w);
    of_u += sum(u * sum_u);
    of_both += sum(u * sum_w);
    store(scratch.of_x + first, slope_w + excess[0] * slope_u);
    store(scratch.of_y + first, excess[1] * (slope_u - slope_w) - slope_w);
  }
  return value_of_forms({of_w, of_u, of_u - 2 * of_both + of_w}, problem.num_scales, excess[0], excess[1]);
}

template <class T>
void slopes_of_dimension(const MmdProblem& problem, const ChebyshevRule& rule, const Element<T>& element,
                         int64_t d, Occupied found, OccupiedScratch& scratch) {
  int64_t point = 0;
  for (int s = 0; s < 2; ++s) {
    const Points<T>& points = element.samples[s];
    double* const field = s == 0 ? scratch.of_x : scratch.of_y;
    for (int64_t slot = 0; slot < found.slots; ++slot) {
      if (scratch.count[slot] < rule.order) continue;
      nodes_to_series(rule, field + scratch.start[slot], 1, 1, 1, field + scratch.start[slot]);
    }
    for (int64_t i = 0; i < points.count; ++i, ++point) {
      const int64_t node = scratch.node[point];
      double slope;
      if (node < 0) {
        slope = field[-1 - node];
      } else {
        const double x = static_cast<double>(points.at(i, d));
        const double xi = 2 * (x / problem.width - panel_of(x, problem.width));
        double later = 0, latest = 0;
        for (int k = rule.order - 1; k > 0; --k) {
          const double next = field[node + k] - later + 2 * xi * latest;
          later = latest;
          latest = next;
        }
        slope = field[node] - later + xi * latest;
      }
      if (element.slopes[s])
        element.slopes[s][i * problem.dims + d] = static_cast<T>(2 * points.mass(i) * slope);
    }
  }
}

template <class T> void undefined_slopes(const Element<T>& element, int64_t d) {
  for (int s = 0; s < 2; ++s)
    for (int64_t i = 0; element.slopes[s] && i < element.samples[s].count; ++i)
      element.slopes[s][i * element.samples[s].dims + d] = static_cast<T>(__builtin_nan(""));
}

template <class T>
double run_occupied(const MmdProblem& problem, const Element<T>& element, OccupiedMemory<T>& memory,
                    int threads, Interrupt& interrupt) {
  const ChebyshevRule rule = chebyshev_rule(problem.order);
  double* const by_dim = memory.by_dim;
  const double most = problem.method == MmdMethod::automatic
                          ? most_occupied_nodes<T>(problem, element.any_slopes())
                          : __builtin_inf();
  for (int thread = 0; thread < threads; ++thread) prepare_direct(problem, element, memory.direct[thread]);
  parallel_tasks(problem.dims, threads, interrupt, [&](int64_t d, int thread) {
    by_dim[d] = 0;
    if (!element.samples[0].defined(d)) return undefined_slopes(element, d);
    OccupiedScratch& scratch = memory.scratch[thread];
    const Occupied found = find_panels(problem, element, d, most, scratch);
    if (static_cast<double>(found.nodes) > most) {
      by_dim[d] = direct_dimension(element, memory.direct[thread], d, interrupt, thread);
      return;
    }
    place_nodes(problem, rule, element, d, found, scratch);
    by_dim[d] = node_pairs(problem, element.excess, found.nodes, scratch);
    if (element.any_slopes()) slopes_of_dimension(problem, rule, element, d, found, scratch);
  });
  double value = 0;
  for (int64_t d = 0; d < problem.dims; ++d) value += by_dim[d];
  return value;
}

}  // namespace
}  // namespace pykernels
