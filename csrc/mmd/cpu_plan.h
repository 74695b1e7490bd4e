// Which way a problem is taken, by its sizes and by how far its points reach; and how it is cut into tasks,
// by the same alone, so that results do not depend on the number of threads.
#pragma once

#include "mmd/cpu_points.h"

namespace pykernels {
namespace {

enum class Way { direct, shared, occupied };

constexpr int64_t kMostSharedNodes = 2048;
constexpr int64_t kStripRows = 64;  // rows of pairs at a time: a multiple of every number of lanes

struct Plan {
  Way way;
  double cost;            // what it may take, in nanoseconds
  int64_t parts;          // of each dimension's pairs
  int64_t panels, nodes;  // of each dimension, if they share panels
  int64_t tasks[2];       // of x and of y
};

template <class T> double farthest_panel() {
  // Below, numbers divided by the width have a fraction, and go through round_to_int.
  return sizeof(T) == 4 ? 0x1p21 : 0x1p50;
}

// Panels that hold every dimension, counted from each one's first; even, so that they have a middle. 0: too
// many.
template <class T> int64_t shared_panels(const MmdProblem& problem, const double* ranges) {
  double most = 1;
  for (int64_t d = 0; d < problem.dims; ++d) {
    const double first = ::nearbyint(ranges[2 * d] / problem.width),
                 last = ::nearbyint(ranges[2 * d + 1] / problem.width);
    if (first != first) continue;
    if (!(first >= -farthest_panel<T>() && last <= farthest_panel<T>())) return 0;
    most = last - first + 1 > most ? last - first + 1 : most;
  }
  if (most * problem.order > kMostSharedNodes) return 0;
  const int64_t panels = static_cast<int64_t>(most);
  return panels + panels % 2;
}

// Costs in nanoseconds on one thread, measured with AVX-512 and taken for as much longer as vectors are
// shorter. Only their ratios matter. With slopes all takes twice as long.
constexpr double kVectorCost = 64.0 / kVectorBytes;

static inline double passes(bool slopes) { return slopes ? 2 : 1; }

// Sums over all pairs: of each pair, and of each point, for the sums that begin and end with it.
template <class T> double direct_cost(const MmdProblem& problem, bool slopes) {
  constexpr double kPair = sizeof(T) == 4 ? 0.12 : 0.235, kPoint = 9, kStart = 2000;
  const double points = static_cast<double>(problem.n) + static_cast<double>(problem.m);
  const double each = points * points / 2 * kPair * kVectorCost + points * kPoint;
  return (static_cast<double>(problem.dims) * each + kStart) * passes(slopes);
}

// Sums over shared panels: of each point, moved to its panel and read from it; of each node, for its kernels;
// and of the node stage's rows and multiplications.
static inline double shared_cost(const MmdProblem& problem, int64_t nodes, bool slopes) {
  constexpr double kPoint = 2.3, kNode = 45, kRow = 1.6, kMultiplication = 0.022 * kVectorCost, kStart = 3000;
  const double points = static_cast<double>(problem.n + problem.m) * static_cast<double>(problem.dims);
  const double columns = static_cast<double>(problem.dims) * (problem.unbiased ? 2 : 1);
  const double count = static_cast<double>(nodes);
  return ((points * kPoint + count * kNode) * problem.order / 8 +
          count * columns * (kRow + count / 2 * kMultiplication)) *
             passes(slopes) +
         kStart;
}

// How many nodes one dimension's occupied panels may have for the sums over them to be the faster; 0: none.
template <class T> double most_occupied_nodes(const MmdProblem& problem, bool slopes) {
  constexpr double kPoint = 25, kNodePair = 0.17 * kVectorCost;
  const double of_points = static_cast<double>(problem.n + problem.m) * kPoint * passes(slopes);
  const double left = direct_cost<T>(problem, slopes) / static_cast<double>(problem.dims) - of_points;
  return left > 0 ? ::sqrt(left / (kNodePair * problem.num_scales)) : 0;
}

// Enough tasks for many threads; each has fields of its own, which must stay small beside the pairs.
static inline int64_t direct_parts(const MmdProblem& problem, int64_t strips) {
  const int64_t wanted = ceil_div(64, problem.dims);
  const double points = static_cast<double>(problem.n) + static_cast<double>(problem.m);
  return at_least(1, at_most(at_most(wanted, strips), static_cast<int64_t>(points * points) >> 17));
}

template <class T> Plan plan_of(const MmdProblem& problem, const double* ranges, bool slopes) {
  const double direct = direct_cost<T>(problem, slopes);
  Plan plan{Way::direct, direct, 1, 0, 0, {}};
  const bool automatic = problem.method == MmdMethod::automatic;
  if (problem.method != MmdMethod::direct && problem.order != 0) {
    plan.panels = shared_panels<T>(problem, ranges);
    plan.nodes = plan.panels * problem.order;
    const double shared = shared_cost(problem, plan.nodes, slopes);
    // How many panels are occupied is known only once they are counted: see cpu_occupied.h.
    if (plan.panels == 0 && !(automatic && most_occupied_nodes<T>(problem, slopes) < 2 * problem.order)) {
      plan.way = Way::occupied;
    } else if (plan.panels != 0 && !(automatic && direct < shared)) {
      plan.way = Way::shared;
      plan.cost = shared;
    }
  }
  if (plan.way == Way::direct)
    plan.parts = direct_parts(problem, ceil_div(problem.n, kStripRows) + ceil_div(problem.m, kStripRows));
  for (int s = 0; s < 2 && plan.way == Way::shared; ++s) {
    const int64_t count = s == 0 ? problem.n : problem.m;
    const int64_t wanted = at_most(32, count * problem.dims >> 18);
    // Each task has sums of its own, which must stay small beside the points.
    plan.tasks[s] = at_least(1, at_most(wanted, count / (2 * plan.nodes)));
  }
  return plan;
}

// One thread for what takes less than it costs to wake others.
static inline int threads_for(double cost, int threads) { return cost < 2e5 ? 1 : threads; }

}  // namespace
}  // namespace pykernels
