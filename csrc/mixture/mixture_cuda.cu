// The CUDA variant: which kernels a call takes.
#include "core/cuda_launch.h"
#if !defined(PYKERNELS_EMULATED)
#include "core/cuda_device.h"
#endif
#include "mixture/cuda_plan.h"
#include "mixture/mixture.h"

namespace pykernels {
namespace {

unsigned grid(int64_t size) { return static_cast<unsigned>(size); }

template <int size> struct Int {
  static constexpr int kValue = size;
};

// Calls launch(Int<D>) with the smallest D that is compiled and not below `dims`: for float64, few, as it is
// rarer.
template <class T, class Launch> void with_dims(int64_t dims, const Launch& launch) {
  if constexpr (sizeof(T) == 4) {
    if (dims <= 1) return launch(Int<1>{});
    if (dims == 3) return launch(Int<3>{});
    if (dims == 5 || dims == 6) return launch(Int<6>{});
    if (dims == 9 || dims == 10) return launch(Int<10>{});
    if (dims == 11 || dims == 12) return launch(Int<12>{});
  }
  if (dims <= 2) return launch(Int<2>{});
  if (dims <= 4) return launch(Int<4>{});
  if (dims <= 8) return launch(Int<8>{});
  return launch(Int<16>{});
}

template <class T, int D, int rows, bool slopes>
void launch_joint(const MixtureProblem& p, const ForwardPlan<T>& plan, const JointOutput<T>& out,
                  int64_t elements, uint32_t first, cudaStream_t stream) {
  const dim3 blocks(grid(plan.row_blocks), grid(plan.joint.count), grid(elements));
  const size_t shared = kTile<T> * Record<T, D>::kSize * sizeof(T);
  PYKERNELS_LAUNCH((forward_joint<T, D, rows, slopes>), blocks, kThreads, shared, stream, p, out,
                   plan.joint.units, first);
}

template <class T>
void forward_few(const MixtureProblem& p, const ForwardPlan<T>& plan, const JointOutput<T>& out,
                 int64_t elements, uint32_t first, cudaStream_t stream) {
  with_dims<T>(p.dims, [&](auto dims) {
    constexpr int D = decltype(dims)::kValue;
    if (out.slope)
      launch_joint<T, D, kSlopeRows<T>, true>(p, plan, out, elements, first, stream);
    else if (plan.rows_per_thread == kManyRows<T>)
      launch_joint<T, D, kManyRows<T>, false>(p, plan, out, elements, first, stream);
    else if constexpr (sizeof(T) == 4)
      launch_joint<T, D, 1, false>(p, plan, out, elements, first, stream);
  });
}

// Dimensions at a time. Such that few are left over for the last time; or, of long sums, a part of
// kSummedDims.
int depth_of(int dims) {
  return dims > kSummedDims ? 8 : static_cast<int>(divide_up(dims, divide_up(dims, kMaxDepth)));
}

// log2 and gradient, of the rows: null in the forward pass.
template <class T>
void launch_pack_tiles(const MixtureProblem& p, const PackedComponents<T>& components,
                       const PackedRows<T>& rows, const T* log2, const T* gradient, int64_t elements,
                       uint32_t first, cudaStream_t stream) {
  PYKERNELS_LAUNCH(pack_components<T>, dim3(grid(components.tiles / 2), grid(elements)), kTileThreads,
                   kTileThreads * sizeof(LogProduct<T>), stream, p, components, first);
  PYKERNELS_LAUNCH(pack_rows<T>, dim3(grid(rows.tiles), grid(elements)), kTileThreads, 0, stream, p, log2,
                   gradient, rows, first);
}

template <class T>
void forward_many(const MixtureProblem& p, const ForwardPlan<T>& plan, const ForwardMemory<T>& memory,
                  int64_t elements, uint32_t first, cudaStream_t stream) {
  const int dims = static_cast<int>(p.dims), depth = depth_of(dims);
  const PackedComponents<T>& components = memory.components;
  const PackedRows<T>& rows = memory.rows;
  launch_pack_tiles<T>(p, components, rows, nullptr, nullptr, elements, first, stream);
  const dim3 blocks(grid(plan.row_blocks), grid(plan.joint.count), grid(elements));
  if (plan.slope_tiles) {
    PYKERNELS_LAUNCH(forward_joint_slopes<T>, blocks, kTileThreads, kGradientTileSize<T> * sizeof(T), stream,
                     components, rows, memory.joint, dims, plan.joint.units);
    return;
  }
  const size_t shared = 2 * 6 * kMaxDepth * kSide<T> * sizeof(T);
  if (dims > kSummedDims)
    PYKERNELS_LAUNCH((forward_joint_tiles<T, true>), blocks, kTileThreads, shared, stream, components, rows,
                     memory.joint, dims, depth, plan.joint.units, first);
  else
    PYKERNELS_LAUNCH((forward_joint_tiles<T, false>), blocks, kTileThreads, shared, stream, components, rows,
                     memory.joint, dims, depth, plan.joint.units, first);
}

template <class T>
void launch_pack_marginals(const MixtureProblem& p, const PackedMarginals<T>& packed, int64_t elements,
                           uint32_t first, cudaStream_t stream) {
  const dim3 blocks(grid(divide_up(packed.count * packed.dims, kTileThreads)),
                    grid(elements * packed.dim_blocks));
  PYKERNELS_LAUNCH(pack_marginals<T>, blocks, kTileThreads, 0, stream, p, packed, first);
}

template <class T, int rows, bool slopes>
void launch_marginal(const MixtureProblem& p, const ForwardPlan<T>& plan, const ForwardMemory<T>& memory,
                     int64_t elements, uint32_t first, cudaStream_t stream) {
  const PackedMarginals<T>& packed = memory.marginals;
  const dim3 blocks(grid(plan.marginal_row_blocks), grid(plan.marginal_splits.count),
                    grid(elements * packed.dim_blocks));
  const size_t shared = 3 * kMarginalTile<T> * packed.dims * sizeof(T);
  PYKERNELS_LAUNCH((forward_marginal<T, rows, slopes>), blocks, kMarginalThreads, shared, stream, p, packed,
                   memory.marginal, plan.marginal_splits.units, first);
}

template <class T> Status forward(const MixtureForward& args, Execution execution) {
  const MixtureProblem& p = args.problem;
  const OnDevice device(execution.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(execution.stream);
  if (p.dims > kMostDims) return Status::too_many_dims;
  const ForwardPlan<T> plan = plan_forward<T>(args);
  Arena arena = arena_over(args.workspace);
  const ForwardMemory<T> memory = take_forward(arena, args, plan);
  if (arena.used > args.workspace_bytes) return Status::workspace_too_small;
  const int64_t batch = batch_count(p.batch);
  if (batch > UINT32_MAX) return Status::batch_too_large;
  for (int64_t begin = 0; begin < batch; begin += plan.step) {
    const uint32_t first = static_cast<uint32_t>(begin);
    const int64_t elements = at_most(plan.step, batch - begin);
    if (args.joint) {
      if (plan.tiles)
        forward_many(p, plan, memory, elements, first, stream);
      else
        forward_few(p, plan, memory.joint, elements, first, stream);
      if (memory.joint.part)
        PYKERNELS_LAUNCH(merge_joint<T>, grid(divide_up(elements * p.rows, kThreads / 32)), kThreads, 0,
                         stream, memory.joint, p.rows, static_cast<int>(p.dims),
                         static_cast<int>(plan.joint.count), elements, first);
    }
    if (args.marginal) {
      launch_pack_marginals(p, memory.marginals, elements, first, stream);
      if (args.marginal_slope)
        launch_marginal<T, kMarginalRows<T>, true>(p, plan, memory, elements, first, stream);
      else
        launch_marginal<T, kMarginalRows<T>, false>(p, plan, memory, elements, first, stream);
      if (memory.marginal.part)
        PYKERNELS_LAUNCH(merge_marginal<T>, grid(divide_up(elements * p.rows * p.dims, kThreads)), kThreads,
                         0, stream, memory.marginal, p.rows * p.dims,
                         static_cast<int>(plan.marginal_splits.count), elements, first);
    }
  }
  return launch_status();
}

template <class T> int64_t forward_workspace(const MixtureForward& args) {
  if (args.problem.dims > kMostDims) return 0;  // refused later
  Arena arena{nullptr, kAlignment};
  take_forward(arena, args, plan_forward<T>(args));
  return arena.used;
}

template <class T>
void sum_gradient(const MixtureProblem& p, const GradientOutput<T>& out, int64_t dims, int64_t elements,
                  uint32_t first, cudaStream_t stream) {
  if (!out.tensor.data || !out.dense) return;
  const int64_t* inner = out.tensor.strides + p.batch.ndim;
  const bool keep_dims = dims == 1 || inner[1] != 0, keep_components = p.components == 1 || inner[0] != 0;
  const int64_t kept = keep_dims ? dims : 1;
  if (keep_components)
    PYKERNELS_LAUNCH(sum_dims<T>, grid(divide_up(p.components * kept, kFinishThreads)), kFinishThreads, 0,
                     stream, p, out, static_cast<int>(dims), keep_dims, elements, first);
  else
    PYKERNELS_LAUNCH(sum_components<T>, grid(kept), kFinishThreads, kFinishThreads * sizeof(double), stream,
                     p, out, static_cast<int>(dims), keep_dims, elements, first);
}

template <class T>
void launch_joint_sums(const MixtureBackward& args, const BackwardPlan<T>& plan,
                       const BackwardMemory<T>& memory, int64_t elements, uint32_t first,
                       cudaStream_t stream) {
  const MixtureProblem& p = args.problem;
  const T *log2 = static_cast<const T*>(args.joint_log2), *gradient = static_cast<const T*>(args.grad_joint);
  const dim3 blocks(grid(plan.component_blocks), grid(plan.joint.count), grid(elements));
  if (!plan.tiles) {
    with_dims<T>(p.dims, [&](auto dims) {
      constexpr int D = decltype(dims)::kValue;
      const size_t shared = kTile<T> * RowRecord<T, D>::kSize * sizeof(T);
      PYKERNELS_LAUNCH((joint_component_sums<T, D>), blocks, kThreads, shared, stream, p, log2, gradient,
                       memory.joint_sums, plan.joint.units, first);
    });
    return;
  }
  launch_pack_tiles(p, memory.components, memory.rows, log2, gradient, elements, first, stream);
  PYKERNELS_LAUNCH(joint_component_tiles<T>, blocks, kTileThreads, kGradientTileSize<T> * sizeof(T), stream,
                   memory.components, memory.rows, memory.joint_sums, static_cast<int>(p.dims),
                   plan.joint.units);
}

template <class T> Status backward(const MixtureBackward& args, Execution execution) {
  const MixtureProblem& p = args.problem;
  const OnDevice device(execution.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(execution.stream);
  if (p.dims > kMostDims) return Status::too_many_dims;
  const BackwardPlan<T> plan = plan_backward<T>(args);
  Arena arena = arena_over(args.workspace);
  const BackwardMemory<T> memory = take_backward(arena, args, plan);
  if (arena.used > args.workspace_bytes) return Status::workspace_too_small;
  const GradientSums<T> sums{memory.joint_sums, memory.marginal_sums,
                             args.grad_joint ? static_cast<int>(plan.joint.count) : 0,
                             args.grad_marginal ? static_cast<int>(plan.marginal_splits.count) : 0};
  const int64_t batch = batch_count(p.batch);
  if (batch > UINT32_MAX) return Status::batch_too_large;
  for (int64_t begin = 0; begin < batch; begin += plan.step) {
    const uint32_t first = static_cast<uint32_t>(begin);
    const int64_t elements = at_most(plan.step, batch - begin);
    if (args.grad_joint) launch_joint_sums(args, plan, memory, elements, first, stream);
    if (args.grad_marginal) {
      const PackedMarginals<T>& packed = memory.marginals;
      launch_pack_marginals(p, packed, elements, first, stream);
      const dim3 blocks(grid(plan.marginal_component_blocks), grid(plan.marginal_splits.count),
                        grid(elements * packed.dim_blocks));
      PYKERNELS_LAUNCH((marginal_component_sums<T, kMarginalComponents<T>>), blocks, kMarginalThreads,
                       3 * kMarginalTile<T> * packed.dims * sizeof(T), stream, p, packed,
                       static_cast<const T*>(args.marginal_log2), static_cast<const T*>(args.grad_marginal),
                       memory.marginal_sums, plan.marginal_splits.units, first);
    }
    PYKERNELS_LAUNCH(finish_gradients<T>, grid(divide_up(elements * p.components * p.dims, kFinishThreads)),
                     kFinishThreads, 0, stream, p, sums, memory.loc, memory.scale, memory.log_weights,
                     elements, first);
    sum_gradient(p, memory.loc, p.dims, elements, first, stream);
    sum_gradient(p, memory.scale, p.dims, elements, first, stream);
    sum_gradient(p, memory.log_weights, 1, elements, first, stream);
  }
  return launch_status();
}

template <class T> int64_t backward_workspace(const MixtureBackward& args) {
  if (args.problem.dims > kMostDims) return 0;  // refused later
  Arena arena{nullptr, kAlignment};
  take_backward(arena, args, plan_backward<T>(args));
  return arena.used;
}

bool is_single(const MixtureProblem& problem) { return problem.dtype == Dtype::float32; }

int64_t forward_workspace_any(const MixtureForward& args, int) {
  return is_single(args.problem) ? forward_workspace<float>(args) : forward_workspace<double>(args);
}
int64_t backward_workspace_any(const MixtureBackward& args, int) {
  return is_single(args.problem) ? backward_workspace<float>(args) : backward_workspace<double>(args);
}
Status forward_any(const MixtureForward& args, Execution execution) {
  return is_single(args.problem) ? forward<float>(args, execution) : forward<double>(args, execution);
}
Status backward_any(const MixtureBackward& args, Execution execution) {
  return is_single(args.problem) ? backward<float>(args, execution) : backward<double>(args, execution);
}

}  // namespace

extern const MixtureVariant mixture_cuda;
#if defined(PYKERNELS_EMULATED)
const MixtureVariant mixture_cuda = {"emulated",
                                     [] { return true; },
                                     false,
#else
const MixtureVariant mixture_cuda = {"cuda",
                                     [] { return cuda_devices().count > 0; },
                                     true,
#endif
                                     forward_workspace_any,
                                     backward_workspace_any,
                                     forward_any,
                                     backward_any};

}  // namespace pykernels
