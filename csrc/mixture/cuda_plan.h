// How a call of the CUDA variant is cut into blocks, and what memory it takes. Everything here follows from
// the sizes of the problem alone, never from the device, so that results are the same on every GPU.
#pragma once

#include "core/arena.h"
#include "mixture/cuda_marginal.h"
#include "mixture/cuda_statistics_gradients.h"

namespace pykernels {

constexpr int kFewDims = 16;                // up to here a row fits in a thread's registers
constexpr int64_t kWantedBlocks = 2640;     // a few waves of blocks on the largest GPUs
constexpr int64_t kSmallWork = 2048;        // instructions of a thread that are not worth a second launch
constexpr int64_t kMostMemory = 256 << 20;  // for batch elements that could as well follow one another
constexpr int64_t kMostDims = kMaxDims * kMostGridRows;

static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// Hardly one wave: a problem that gives no more blocks is cut finer.
static inline bool are_few(int64_t blocks) { return blocks <= kWantedBlocks / 10; }

// Blocks that share what they compute, each taking `units` of it.
struct Splits {
  int64_t count, units;
};

static inline Splits split(int64_t units, int64_t other_blocks) {
  const int64_t wanted = divide_up(kWantedBlocks, other_blocks);
  const int64_t per_split = divide_up(units, at_most(at_most(wanted, units), kMostGridRows));
  return {divide_up(units, per_split), per_split};
}

struct MarginalPlan {
  int dims_per_block, dim_blocks, groups;
};

static inline MarginalPlan plan_marginal(int64_t dims) {
  const int blocks = static_cast<int>(divide_up(dims, kMaxDims));
  const int per_block = static_cast<int>(divide_up(dims, blocks));
  return {per_block, static_cast<int>(divide_up(dims, per_block)), kMarginalThreads / per_block};
}

template <class T> int64_t padded_tiles(int64_t count) { return 2 * divide_up(count, 2 * kSide<T>); }

// Of the joint density, with many dimensions.
template <class T> TileShape tile_shape(const MixtureProblem& p, int64_t batch) {
  const int64_t pairs = padded_tiles<T>(p.rows) / 2 * (padded_tiles<T>(p.components) / 2) * batch;
  if (p.rows <= kSide<T> || p.components <= kSide<T> || are_few(pairs)) return kNarrowTiles;
  return p.dims > kSummedDims ? kLongTiles : kWideTiles;
}

// Whether several threads share what is a thread's own: where it would leave a quarter of a block idle, or
// too few blocks for a GPU.
static inline bool shares_own(int64_t own, int64_t own_per_block, int64_t others, int64_t tile,
                              int64_t batch) {
  return 4 * own <= 3 * own_per_block ||
         are_few(divide_up(own, own_per_block) * divide_up(others, tile) * batch);
}

template <class T> struct ForwardPlan {
  bool tiles, slope_tiles;  // many dimensions
  TileShape shape;          // then, without slopes
  bool few_rows;            // few dimensions: kFewWays threads for a row
  int64_t row_blocks;       // of the joint density
  int64_t units;            // of components, for the splits: tiles, or groups of them
  Splits joint;
  MarginalPlan marginal;
  int64_t marginal_row_blocks;
  Splits marginal_splits;
  int64_t step;  // batch elements at a time
};

template <class T> void plan_joint(const MixtureForward& args, int64_t batch, ForwardPlan<T>& plan) {
  const MixtureProblem& p = args.problem;
  plan.tiles = p.dims > kFewDims;
  plan.slope_tiles = plan.tiles && args.joint_slope;
  if (plan.tiles) {
    plan.shape = plan.slope_tiles ? kNarrowTiles : tile_shape<T>(p, batch);
    plan.row_blocks = divide_up(p.rows, plan.shape.rows * kSide<T>);
    plan.units = divide_up(p.components, plan.shape.components * kSide<T>);
    plan.joint = split(plan.units, plan.row_blocks * batch);
    return;
  }
  const int64_t block_rows = kThreads * (args.joint_slope ? kManyRows<T, true> : kManyRows<T, false>);
  plan.few_rows = shares_own(p.rows, block_rows, p.components, kTile<T>, batch);
  plan.row_blocks = divide_up(p.rows, plan.few_rows ? kThreads / kFewWays : block_rows);
  plan.units = divide_up(p.components, kTile<T>);
  const bool small = plan.few_rows && p.components * (2 * p.dims + 5) <= kFewWays * kSmallWork;
  plan.joint = small ? Splits{1, plan.units} : split(plan.units, plan.row_blocks * batch);
}

template <class T> ForwardPlan<T> plan_forward(const MixtureForward& args) {
  const MixtureProblem& p = args.problem;
  const int64_t batch = batch_count(p.batch);
  ForwardPlan<T> plan{};
  plan_joint(args, batch, plan);
  plan.marginal = plan_marginal(p.dims);
  plan.marginal_row_blocks = divide_up(p.rows, static_cast<int64_t>(plan.marginal.groups) * kMarginalRows<T>);
  plan.marginal_splits = split(divide_up(p.components, kMarginalTile<T>),
                               plan.marginal_row_blocks * plan.marginal.dim_blocks * batch);

  int64_t bytes = 1;
  if (args.joint && plan.tiles)
    bytes += ((2 * p.dims + 1) * padded_tiles<T>(p.components) + p.dims * padded_tiles<T>(p.rows)) *
             kSide<T> * sizeof(T);
  if (args.joint) bytes += plan.joint.count * p.rows * (2 + (args.joint_slope ? p.dims : 0)) * sizeof(T);
  if (args.marginal) bytes += (plan.marginal_splits.count * p.rows + p.components) * p.dims * 3 * sizeof(T);
  plan.step = at_most(at_most(batch, kMostGridRows / plan.marginal.dim_blocks), 1 + kMostMemory / bytes);
  return plan;
}

template <class T> struct ForwardMemory {
  DensityOutput<T> joint, marginal;
  PackedMarginals<T> marginals;
  PackedComponents<T> components;
  PackedRows<T> rows;
};

template <class T> PackedComponents<T> take_components(Arena& arena, const MixtureProblem& p, int64_t step) {
  PackedComponents<T> packed{};
  packed.tiles = padded_tiles<T>(p.components);
  packed.used = divide_up(p.components, kSide<T>);
  packed.count = p.components;
  packed.s = take<T>(arena, step * packed.tiles * p.dims * kSide<T>);
  packed.m = take<T>(arena, step * packed.tiles * p.dims * kSide<T>);
  packed.constant = take<T>(arena, step * packed.tiles * kSide<T>);
  packed.accurate = take<int>(arena, step * packed.tiles);
  return packed;
}

template <class T>
PackedRows<T> take_rows(Arena& arena, const MixtureProblem& p, int64_t step, bool backward = false,
                        bool statistics = false) {
  PackedRows<T> packed{};
  packed.tiles = padded_tiles<T>(p.rows);
  packed.used = divide_up(p.rows, kSide<T>);
  packed.count = p.rows;
  packed.z = take<T>(arena, step * packed.tiles * p.dims * kSide<T>);
  if (backward) {
    packed.minus_log2 = take<T>(arena, step * packed.tiles * kSide<T>);
    packed.gradient = take<T>(arena, step * packed.tiles * kSide<T>);
  }
  if (statistics) {
    packed.of_log = take<T>(arena, step * packed.tiles * kSide<T>);
    packed.of_share = take<T>(arena, step * packed.tiles * kSide<T>);
  }
  return packed;
}

template <class T>
PackedMarginals<T> take_marginals(Arena& arena, const MixtureProblem& p, const MarginalPlan& plan,
                                  int64_t step) {
  PackedMarginals<T> packed{};
  packed.count = divide_up(p.components, kMarginalTile<T>) * kMarginalTile<T>;
  packed.dims = plan.dims_per_block;
  packed.dim_blocks = plan.dim_blocks;
  const int64_t size = step * plan.dim_blocks * packed.count * packed.dims;
  packed.s = take<T>(arena, size);
  packed.m = take<T>(arena, size);
  packed.constant = take<T>(arena, size);
  return packed;
}

template <class T>
ForwardMemory<T> take_forward(Arena& arena, const MixtureForward& args, const ForwardPlan<T>& plan) {
  const MixtureProblem& p = args.problem;
  ForwardMemory<T> memory{};
  memory.joint = {static_cast<T*>(args.joint), static_cast<T*>(args.joint_log2),
                  static_cast<T*>(args.joint_slope), nullptr, nullptr};
  memory.marginal = {static_cast<T*>(args.marginal), static_cast<T*>(args.marginal_log2),
                     static_cast<T*>(args.marginal_slope), nullptr, nullptr};
  if (args.joint && plan.tiles) {
    memory.components = take_components<T>(arena, p, plan.step);
    memory.rows = take_rows<T>(arena, p, plan.step);
  }
  if (args.joint && (plan.joint.count > 1 || plan.slope_tiles)) {
    const int64_t parts = plan.step * plan.joint.count * p.rows;
    memory.joint.part = take<ExpSum<T>>(arena, parts);
    if (args.joint_slope) memory.joint.part_slope = take<T>(arena, parts * p.dims);
  }
  if (args.marginal) memory.marginals = take_marginals<T>(arena, p, plan.marginal, plan.step);
  if (args.marginal && plan.marginal_splits.count > 1) {
    const int64_t parts = plan.step * plan.marginal_splits.count * p.rows * p.dims;
    memory.marginal.part = take<ExpSum<T>>(arena, parts);
    if (args.marginal_slope) memory.marginal.part_slope = take<T>(arena, parts);
  }
  return memory;
}

// The backward pass.

template <class T> struct BackwardPlan {
  bool for_components;  // whether any gradient but that of value is asked for
  bool tiles;           // many dimensions, or statistics
  bool few_components;  // few dimensions: kFewWays threads for a component; always so with weights of pairs
  bool direct;          // they write the gradients; there is no need of finish_gradients
  int64_t component_blocks;
  Splits joint;
  int64_t value_blocks;  // of statistics_row_tiles; 0: there is no need of it
  Splits value;
  MarginalPlan marginal;
  int64_t marginal_component_blocks;
  Splits marginal_splits;
  FinishPlan finish;
  int64_t step;
};

// Whether a gradient is a sum over anything.
static inline bool is_summed(const MixtureProblem& p, const StridedTensor& gradient, int64_t rows,
                             int64_t columns) {
  const int64_t* inner = gradient.strides + p.batch.ndim;
  return gradient.data && (batch_is_shared(p.batch, gradient) || (rows > 1 && inner[0] == 0) ||
                           (columns > 1 && inner[1] == 0));
}

// Dimensions of a block: as many as leave enough blocks, and up to a sector of memory.
template <class T> FinishPlan plan_finish(const MixtureProblem& p, int64_t splits, int64_t batch) {
  FinishPlan plan{};
  plan.ways = merge_ways(splits);
  plan.component_blocks = divide_up(p.components, kMergeOutputs);
  const int64_t sector = 32 / static_cast<int64_t>(sizeof(T));
  const int64_t wanted = divide_up(p.dims * plan.component_blocks * batch, kWantedBlocks);
  plan.dims = static_cast<int>(at_most(at_most(wanted, p.dims), plan.ways > 4 ? 1 : sector));
  plan.columns = 3 * plan.dims + 1;
  plan.dim_blocks = divide_up(p.dims, plan.dims);
  return plan;
}

template <class T> void plan_joint_sums(const MixtureBackward& args, int64_t batch, BackwardPlan<T>& plan) {
  const MixtureProblem& p = args.problem;
  plan.tiles = p.dims > kFewDims || args.grad_statistics;
  if (args.grad_statistics && args.grad_value.data) {
    plan.value_blocks = divide_up(p.rows, kSide<T>);
    plan.value = split(divide_up(p.components, kSide<T>), plan.value_blocks * batch);
  }
  if (plan.tiles) {
    plan.component_blocks = divide_up(p.components, kSide<T>);
    plan.joint = split(divide_up(p.rows, kSide<T>), plan.component_blocks * batch);
    return;
  }
  constexpr int64_t kBlock = kBlockComponents<T, 1>;
  plan.few_components = depend_on_pair(p.pairs) || shares_own(p.components, kBlock, p.rows, kTile<T>, batch);
  plan.component_blocks = divide_up(p.components, plan.few_components ? kBlock / kFewWays : kBlock);
  const int64_t units = divide_up(p.rows, kTile<T>);
  const bool small = plan.few_components && p.rows * (5 * p.dims + 6) <= kFewWays * kSmallWork;
  plan.joint = small ? Splits{1, units} : split(units, plan.component_blocks * batch);
}

template <class T> BackwardPlan<T> plan_backward(const MixtureBackward& args) {
  const MixtureProblem& p = args.problem;
  const int64_t batch = batch_count(p.batch);
  BackwardPlan<T> plan{};
  plan.for_components = args.grad_loc.data || args.grad_scale.data || args.grad_log_weights.data;
  plan_joint_sums(args, batch, plan);
  plan.direct = plan.few_components && plan.joint.count == 1 && !args.grad_marginal;
  plan.marginal = plan_marginal(p.dims);
  plan.marginal_component_blocks =
      divide_up(p.components, static_cast<int64_t>(plan.marginal.groups) * kMarginalComponents<T>);
  plan.marginal_splits = split(divide_up(p.rows, kMarginalTile<T>),
                               plan.marginal_component_blocks * plan.marginal.dim_blocks * batch);
  const int64_t joint_splits = args.grad_joint ? plan.joint.count : 0,
                marginal_splits = args.grad_marginal ? plan.marginal_splits.count : 0;
  const int64_t most_splits = at_least(plan.value.count, at_least(joint_splits, marginal_splits));
  plan.finish = plan_finish<T>(p, most_splits, batch);

  int64_t bytes = 6 * p.components * p.dims * sizeof(T) + p.rows * p.dims * sizeof(T);
  if (plan.tiles)
    bytes += ((2 * p.dims + 1) * padded_tiles<T>(p.components) + (p.dims + 4) * padded_tiles<T>(p.rows)) *
             kSide<T> * sizeof(T);
  bytes += plan.value.count * p.rows * p.dims * sizeof(T);
  if (args.grad_joint) bytes += plan.joint.count * (2 * p.dims + 1) * p.components * sizeof(T);
  if (args.grad_marginal) bytes += plan.marginal_splits.count * 3 * p.dims * p.components * sizeof(T);
  plan.step = at_most(at_most(batch, kMostGridRows / plan.marginal.dim_blocks), 1 + kMostMemory / bytes);
  return plan;
}

template <class T> struct BackwardMemory {
  T *joint_sums, *marginal_sums, *slope_sums;
  GradientOutputs<T> gradients;
  ValueGradient<T> value;
  PackedMarginals<T> marginals;
  PackedComponents<T> components;
  PackedRows<T> rows;
};

// How the terms of a gradient follow one another in a batch element: in `rows` of `length`, of which each has
// a sum, or, if length is 0, in order of the gradient.
struct TermRows {
  int64_t rows, length, runs;
};

static inline TermRows term_rows(const MixtureProblem& p, const StridedTensor& gradient, int64_t dims) {
  const int64_t* inner = gradient.strides + p.batch.ndim;
  if (p.components == 1 || inner[0] != 0) return {0, 0, 0};
  const bool keeps_dims = dims == 1 || inner[1] != 0;
  const int64_t length = keeps_dims ? p.components : p.components * dims;
  return {keeps_dims ? dims : 1, length, divide_up(length, kRun)};
}

template <class T>
GradientOutput<T> take_gradient(Arena& arena, const MixtureProblem& p, const StridedTensor& gradient,
                                int64_t dims, int64_t step) {
  GradientOutput<T> out{gradient, nullptr, nullptr};
  if (!is_summed(p, gradient, p.components, dims)) return out;
  out.terms = take<T>(arena, step * dims * p.components);
  const TermRows rows = term_rows(p, gradient, dims);
  if (rows.runs > 1) out.runs = take<double>(arena, step * rows.rows * rows.runs);
  return out;
}

template <class T>
BackwardMemory<T> take_backward(Arena& arena, const MixtureBackward& args, const BackwardPlan<T>& plan) {
  const MixtureProblem& p = args.problem;
  BackwardMemory<T> memory{};
  if (args.grad_value.data && batch_is_shared(p.batch, args.grad_value))
    memory.value.out.terms = take<T>(arena, plan.step * p.rows * p.dims);
  memory.value = {{args.grad_value, memory.value.out.terms, nullptr},
                  static_cast<const T*>(args.joint_log2),
                  static_cast<const T*>(args.joint_slope),
                  static_cast<const T*>(args.grad_joint),
                  static_cast<const T*>(args.marginal_log2),
                  static_cast<const T*>(args.marginal_slope),
                  static_cast<const T*>(args.grad_marginal),
                  nullptr,
                  static_cast<int>(plan.value.count)};
  if (plan.value_blocks) memory.slope_sums = take<T>(arena, plan.step * plan.value.count * p.rows * p.dims);
  memory.value.slope_sums = memory.slope_sums;
  if (args.grad_joint && plan.tiles && (plan.for_components || plan.value_blocks)) {
    memory.components = take_components<T>(arena, p, plan.step);
    memory.rows = take_rows<T>(arena, p, plan.step, true, args.grad_statistics != nullptr);
  }
  if (!plan.for_components) return memory;
  memory.gradients = {take_gradient<T>(arena, p, args.grad_loc, p.dims, plan.step),
                      take_gradient<T>(arena, p, args.grad_scale, p.dims, plan.step),
                      take_gradient<T>(arena, p, args.grad_log_weights, 1, plan.step)};
  if (args.grad_joint && !plan.direct)
    memory.joint_sums = take<T>(arena, plan.step * plan.joint.count * (2 * p.dims + 1) * p.components);
  if (args.grad_marginal) {
    memory.marginal_sums = take<T>(arena, plan.step * plan.marginal_splits.count * 3 * p.dims * p.components);
    memory.marginals = take_marginals<T>(arena, p, plan.marginal, plan.step);
  }
  return memory;
}

}  // namespace pykernels
