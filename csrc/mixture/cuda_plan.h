// How a call of the CUDA variant is cut into blocks, and what memory it takes. Everything here follows from
// the sizes of the problem alone, never from the device, so that results are the same on every GPU.
#pragma once

#include "core/arena.h"
#include "mixture/cuda_gradients.h"
#include "mixture/cuda_marginal.h"
#include "mixture/cuda_tile_gradients.h"

namespace pykernels {

constexpr int kFewDims = 16;                // up to here a row fits in a thread's registers
constexpr int64_t kWantedBlocks = 2640;     // a few waves of blocks on the largest GPUs
constexpr int64_t kMostMemory = 256 << 20;  // for batch elements that could as well follow one another
constexpr int64_t kMostDims = kMaxDims * kMostGridRows;

static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

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

template <class T> struct ForwardPlan {
  int rows_per_thread;      // few dimensions
  int64_t row_blocks;       // of the joint density
  bool tiles, slope_tiles;  // many dimensions
  Splits joint;             // units: tiles of components, or pairs of them
  MarginalPlan marginal;
  int64_t marginal_row_blocks;
  Splits marginal_splits;
  int64_t step;  // batch elements at a time
};

template <class T> int64_t padded_tiles(int64_t count) { return 2 * divide_up(count, 2 * kSide<T>); }

template <class T> ForwardPlan<T> plan_forward(const MixtureForward& args) {
  const MixtureProblem& p = args.problem;
  const int64_t batch = batch_count(p.batch);
  ForwardPlan<T> plan{};
  plan.tiles = p.dims > kFewDims;
  plan.slope_tiles = plan.tiles && args.joint_slope;
  const bool many_rows = sizeof(T) == 8 || p.rows > 2 * kThreads;
  plan.rows_per_thread = args.joint_slope ? kSlopeRows<T> : many_rows ? kManyRows<T> : 1;
  if (plan.tiles) {
    const int64_t units = padded_tiles<T>(p.components) / (plan.slope_tiles ? 1 : 2);
    plan.row_blocks = padded_tiles<T>(p.rows) / (plan.slope_tiles ? 1 : 2);
    plan.joint = split(units, plan.row_blocks * batch);
  } else {
    plan.row_blocks = divide_up(p.rows, kThreads * plan.rows_per_thread);
    const bool small =
        p.components * (2 * p.dims + 5) <= 8192;  // not worth the launch that puts parts together
    plan.joint = small ? Splits{1, divide_up(p.components, kTile<T>)}
                       : split(divide_up(p.components, kTile<T>), plan.row_blocks * batch);
  }
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
  JointOutput<T> joint;
  MarginalOutput<T> marginal;
  PackedMarginals<T> marginals;
  PackedComponents<T> components;
  PackedRows<T> rows;
};

template <class T> PackedComponents<T> take_components(Arena& arena, const MixtureProblem& p, int64_t step) {
  PackedComponents<T> packed{};
  packed.tiles = padded_tiles<T>(p.components);
  packed.count = p.components;
  packed.s = take<T>(arena, step * packed.tiles * p.dims * kSide<T>);
  packed.m = take<T>(arena, step * packed.tiles * p.dims * kSide<T>);
  packed.constant = take<T>(arena, step * packed.tiles * kSide<T>);
  packed.accurate = take<int>(arena, step * packed.tiles / 2);
  return packed;
}

template <class T>
PackedRows<T> take_rows(Arena& arena, const MixtureProblem& p, int64_t step, bool backward) {
  PackedRows<T> packed{};
  packed.tiles = padded_tiles<T>(p.rows);
  packed.count = p.rows;
  packed.z = take<T>(arena, step * packed.tiles * p.dims * kSide<T>);
  if (backward) {
    packed.minus_log2 = take<T>(arena, step * packed.tiles * kSide<T>);
    packed.gradient = take<T>(arena, step * packed.tiles * kSide<T>);
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
  memory.joint.joint = static_cast<T*>(args.joint);
  memory.joint.joint_log2 = static_cast<T*>(args.joint_log2);
  memory.joint.slope = static_cast<T*>(args.joint_slope);
  memory.marginal.marginal = static_cast<T*>(args.marginal);
  memory.marginal.marginal_log2 = static_cast<T*>(args.marginal_log2);
  memory.marginal.slope = static_cast<T*>(args.marginal_slope);
  if (args.joint && plan.tiles) {
    memory.components = take_components<T>(arena, p, plan.step);
    memory.rows = take_rows<T>(arena, p, plan.step, false);
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

// The backward pass: gradients of loc, scale and log-weights. That of value follows from the slopes.

template <class T> struct BackwardPlan {
  bool tiles;
  int64_t component_blocks;
  Splits joint;
  MarginalPlan marginal;
  int64_t marginal_component_blocks;
  Splits marginal_splits;
  int64_t step;
};

// Whether a gradient is a sum over anything.
static inline bool is_summed(const MixtureProblem& p, const StridedTensor& gradient, int64_t dims) {
  const int64_t* inner = gradient.strides + p.batch.ndim;
  return gradient.data && (batch_is_shared(p.batch, gradient) || (p.components > 1 && inner[0] == 0) ||
                           (dims > 1 && inner[1] == 0));
}

template <class T> BackwardPlan<T> plan_backward(const MixtureBackward& args) {
  const MixtureProblem& p = args.problem;
  const int64_t batch = batch_count(p.batch);
  BackwardPlan<T> plan{};
  plan.tiles = p.dims > kFewDims;
  plan.component_blocks =
      plan.tiles ? padded_tiles<T>(p.components) : divide_up(p.components, kThreads * kOwnComponents<T>);
  const int64_t units = plan.tiles ? padded_tiles<T>(p.rows) : divide_up(p.rows, kTile<T>);
  const bool small = !plan.tiles && p.rows * (5 * p.dims + 6) <= 8192;
  plan.joint = small ? Splits{1, units} : split(units, plan.component_blocks * batch);
  plan.marginal = plan_marginal(p.dims);
  plan.marginal_component_blocks =
      divide_up(p.components, static_cast<int64_t>(plan.marginal.groups) * kMarginalComponents<T>);
  plan.marginal_splits = split(divide_up(p.rows, kMarginalTile<T>),
                               plan.marginal_component_blocks * plan.marginal.dim_blocks * batch);

  int64_t bytes = 6 * p.components * p.dims * sizeof(T);
  if (plan.tiles)
    bytes += ((2 * p.dims + 1) * padded_tiles<T>(p.components) + (p.dims + 2) * padded_tiles<T>(p.rows)) *
             kSide<T> * sizeof(T);
  if (args.grad_joint) bytes += plan.joint.count * (2 * p.dims + 1) * p.components * sizeof(T);
  if (args.grad_marginal) bytes += plan.marginal_splits.count * 3 * p.dims * p.components * sizeof(T);
  plan.step = at_most(at_most(batch, kMostGridRows / plan.marginal.dim_blocks), 1 + kMostMemory / bytes);
  return plan;
}

template <class T> struct BackwardMemory {
  T *joint_sums, *marginal_sums;
  GradientOutput<T> loc, scale, log_weights;
  PackedMarginals<T> marginals;
  PackedComponents<T> components;
  PackedRows<T> rows;
};

template <class T>
GradientOutput<T> take_gradient(Arena& arena, const MixtureProblem& p, const StridedTensor& gradient,
                                int64_t dims, int64_t step) {
  return {gradient, is_summed(p, gradient, dims) ? take<T>(arena, step * dims * p.components) : nullptr};
}

template <class T>
BackwardMemory<T> take_backward(Arena& arena, const MixtureBackward& args, const BackwardPlan<T>& plan) {
  const MixtureProblem& p = args.problem;
  BackwardMemory<T> memory{};
  if (args.grad_joint)
    memory.joint_sums = take<T>(arena, plan.step * plan.joint.count * (2 * p.dims + 1) * p.components);
  if (args.grad_marginal)
    memory.marginal_sums = take<T>(arena, plan.step * plan.marginal_splits.count * 3 * p.dims * p.components);
  if (args.grad_marginal) memory.marginals = take_marginals<T>(arena, p, plan.marginal, plan.step);
  memory.loc = take_gradient<T>(arena, p, args.grad_loc, p.dims, plan.step);
  memory.scale = take_gradient<T>(arena, p, args.grad_scale, p.dims, plan.step);
  memory.log_weights = take_gradient<T>(arena, p, args.grad_log_weights, 1, plan.step);
  if (args.grad_joint && plan.tiles) {
    memory.components = take_components<T>(arena, p, plan.step);
    memory.rows = take_rows<T>(arena, p, plan.step, true);
  }
  return memory;
}

}  // namespace pykernels
