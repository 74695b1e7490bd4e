// How a problem is cut into tasks: by its sizes alone, so that results do not depend on the number of
// threads.
#pragma once

#include <cstdint>

namespace pykernels {

constexpr int kGroup = 8;  // rows that a kernel holds in registers at once

struct MixturePlan {
  int64_t splits, components_per_split;  // partial results of different splits are merged in order
  int64_t row_blocks, rows_per_block;    // rows_per_block is a multiple of kGroup
};

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static inline double at_least_real(double a, double b) { return a < b ? b : a; }
static inline int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }

// A task should take about a tenth of a millisecond or more: then a small problem is a single task and stays
// on one thread. Each split costs a partial result per row, each row block one per component (backward) or a
// second packing of the components (forward); `copies` bounds those to a few times the inputs.
static inline MixturePlan plan_mixture(int64_t rows, int64_t components, int64_t dims, bool backward,
                                       bool marginal) {
  constexpr double kTaskWork = 3e6;
  constexpr int64_t kMostTasks = 64, kLeastComponents = 256, kLeastRows = 512;
  const double per_pair = (dims + 3.0) * (backward ? 2.5 : 1.0) + (marginal ? 4.0 * dims : 0.0);
  const double wanted = static_cast<double>(rows) * static_cast<double>(components) * per_pair / kTaskWork;
  const int64_t tasks = wanted < 1 ? 1 : wanted > kMostTasks ? kMostTasks : static_cast<int64_t>(wanted);
  const int64_t copies = backward || marginal ? 2 : 4;

  MixturePlan plan;
  plan.splits =
      at_most(tasks, at_most(ceil_div(components, kLeastComponents), copies * (components + rows) / rows));
  plan.components_per_split = round_up(ceil_div(components, plan.splits), kLeastComponents);
  plan.splits = ceil_div(components, plan.components_per_split);
  plan.row_blocks = at_most(ceil_div(tasks, plan.splits), ceil_div(rows, kLeastRows));
  if (backward)
    plan.row_blocks = at_most(plan.row_blocks, at_least(1, copies * (components + rows) / components));
  plan.rows_per_block = round_up(ceil_div(rows, plan.row_blocks), kGroup);
  plan.row_blocks = ceil_div(rows, plan.rows_per_block);
  return plan;
}

}  // namespace pykernels
