// The CUDA variant: which kernels a call takes.
#include "core/cuda_launch.h"
#if !defined(PYKERNELS_EMULATED)
#include "core/cuda_device.h"
#endif
#include "mixture/cuda_statistics.h"
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

template <class T, int D, int rows, int ways, bool slopes>
void launch_joint(const MixtureProblem& p, const ForwardPlan<T>& plan, const DensityOutput<T>& out,
                  int64_t elements, uint32_t first, cudaStream_t stream) {
  const dim3 blocks(grid(plan.row_blocks), grid(plan.joint.count), grid(elements));
  PYKERNELS_LAUNCH((forward_joint<T, D, rows, ways, slopes>), blocks, kThreads,
                   (joint_shared_size<T, D, ways, slopes>()) * sizeof(T), stream, p, out, plan.joint.units,
                   first);
}

template <class T>
void forward_few(const MixtureProblem& p, const ForwardPlan<T>& plan, const DensityOutput<T>& out,
                 int64_t elements, uint32_t first, cudaStream_t stream) {
  with_dims<T>(p.dims, [&](auto dims) {
    constexpr int D = decltype(dims)::kValue;
    if (out.slope && plan.few_rows)
      launch_joint<T, D, 1, kFewWays, true>(p, plan, out, elements, first, stream);
    else if (out.slope)
      launch_joint<T, D, kManyRows<T, true>, 1, true>(p, plan, out, elements, first, stream);
    else if (plan.few_rows)
      launch_joint<T, D, 1, kFewWays, false>(p, plan, out, elements, first, stream);
    else
      launch_joint<T, D, kManyRows<T, false>, 1, false>(p, plan, out, elements, first, stream);
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
  PYKERNELS_LAUNCH(pack_tiles<T>, dim3(grid(components.tiles / 2 + rows.tiles), grid(elements)), kTileThreads,
                   kTileThreads * sizeof(LogProduct<T>), stream, p, components, rows, log2, gradient, first);
}

template <class T, int row_tiles, int component_tiles, bool long_sums>
void launch_tiles(const MixtureProblem& p, const ForwardPlan<T>& plan, const ForwardMemory<T>& memory,
                  int64_t elements, uint32_t first, cudaStream_t stream) {
  const dim3 blocks(grid(plan.row_blocks), grid(plan.joint.count), grid(elements));
  const int dims = static_cast<int>(p.dims);
  PYKERNELS_LAUNCH((forward_joint_tiles<T, row_tiles, component_tiles, long_sums>), blocks, kTileThreads,
                   tile_bytes<T>({row_tiles, component_tiles}), stream, p, memory.components, memory.rows,
                   memory.joint, dims, depth_of(dims), plan.units, plan.joint.units, first);
}

template <class T>
void forward_many(const MixtureProblem& p, const ForwardPlan<T>& plan, const ForwardMemory<T>& memory,
                  int64_t elements, uint32_t first, cudaStream_t stream) {
  launch_pack_tiles<T>(p, memory.components, memory.rows, nullptr, nullptr, elements, first, stream);
  const bool narrow = plan.shape.rows == kNarrowTiles.rows, long_sums = p.dims > kSummedDims;
  if (plan.slope_tiles)
    PYKERNELS_LAUNCH(forward_joint_slopes<T>,
                     dim3(grid(plan.row_blocks), grid(plan.joint.count), grid(elements)), kTileThreads,
                     kGradientTileSize<T> * sizeof(T), stream, p, memory.components, memory.rows,
                     memory.joint, static_cast<int>(p.dims), plan.joint.units);
  else if (narrow && long_sums)
    launch_tiles<T, kNarrowTiles.rows, kNarrowTiles.components, true>(p, plan, memory, elements, first,
                                                                      stream);
  else if (narrow)
    launch_tiles<T, kNarrowTiles.rows, kNarrowTiles.components, false>(p, plan, memory, elements, first,
                                                                       stream);
  else if (long_sums)
    launch_tiles<T, kLongTiles.rows, kLongTiles.components, true>(p, plan, memory, elements, first, stream);
  else
    launch_tiles<T, kWideTiles.rows, kWideTiles.components, false>(p, plan, memory, elements, first, stream);
}

// `sums` of a batch element, each with `width` slopes.
template <class T>
void launch_merge(const DensityOutput<T>& out, int64_t sums, int64_t dims, int64_t splits, int64_t elements,
                  uint32_t first, cudaStream_t stream) {
  if (!out.part) return;
  const int ways = merge_ways(splits), width = static_cast<int>(out.slope ? dims : 1);
  PYKERNELS_LAUNCH(merge_parts<T>, grid(divide_up(elements * sums * width, kMergeOutputs)),
                   kMergeOutputs * ways, merge_bytes<T>(ways), stream, out, sums, width,
                   static_cast<int>(splits), elements, first);
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
  if (args.perplexity) return launch_statistics<T>(args, stream);
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
      launch_merge(memory.joint, p.rows, p.dims, plan.joint.count, elements, first, stream);
    }
    if (args.marginal) {
      launch_pack_marginals(p, memory.marginals, elements, first, stream);
      if (args.marginal_slope)
        launch_marginal<T, kMarginalRows<T>, true>(p, plan, memory, elements, first, stream);
      else
        launch_marginal<T, kMarginalRows<T>, false>(p, plan, memory, elements, first, stream);
      launch_merge(memory.marginal, p.rows * p.dims, 1, plan.marginal_splits.count, elements, first, stream);
    }
  }
  return launch_status();
}

template <class T> int64_t forward_workspace(const MixtureForward& args) {
  if (args.problem.dims > kMostDims) return 0;  // refused later
  if (args.perplexity) return statistics_workspace<T>(args.problem);
  Arena arena{nullptr, kAlignment};
  take_forward(arena, args, plan_forward<T>(args));
  return arena.used;
}

template <class T, int lanes, class In>
void launch_sum(const MixtureProblem& p, const Terms<In>& terms, int64_t elements, uint32_t first,
                cudaStream_t stream) {
  PYKERNELS_LAUNCH((sum_terms<In, T, lanes>), dim3(grid(divide_up(terms.outputs, lanes)), grid(elements)),
                   kSumThreads, kSumThreads * sizeof(double), stream, p.batch, terms, elements, first);
}

// Of loc, scale or log-weights; the latter have one dimension.
template <class T>
void sum_gradient(const MixtureProblem& p, const GradientOutput<T>& out, int64_t dims, int64_t elements,
                  uint32_t first, cudaStream_t stream) {
  if (!out.terms) return;
  const int64_t* inner = out.tensor.strides + p.batch.ndim;
  const TermRows rows = term_rows(p, out.tensor, dims);
  if (rows.rows == 0) {
    const bool keeps_dims = dims == 1 || inner[1] != 0;
    const Terms<T> terms{out.terms,
                         dims * p.components,
                         1,
                         keeps_dims ? dims * p.components : p.components,
                         static_cast<uint32_t>(keeps_dims ? 1 : dims),
                         p.components,
                         out.tensor,
                         p.components,
                         inner[1],
                         inner[0]};
    launch_sum<T, 32>(p, terms, elements, first, stream);
  } else if (out.runs) {
    PYKERNELS_LAUNCH(sum_runs<T>, grid(elements * rows.rows * rows.runs), kSumThreads,
                     kSumThreads * sizeof(double), stream, out.terms, out.runs, rows.length, rows.runs);
    const Terms<double> terms{out.runs,
                              rows.rows * rows.runs,
                              rows.runs,
                              rows.rows,
                              static_cast<uint32_t>(rows.runs),
                              1,
                              out.tensor,
                              1,
                              inner[1],
                              0};
    launch_sum<T, 1>(p, terms, elements, first, stream);
  } else {
    const Terms<T> terms{out.terms,
                         rows.rows * rows.length,
                         rows.length,
                         rows.rows,
                         static_cast<uint32_t>(rows.length),
                         1,
                         out.tensor,
                         1,
                         inner[1],
                         0};
    launch_sum<T, 1>(p, terms, elements, first, stream);
  }
}

template <class T>
void sum_value(const MixtureProblem& p, const GradientOutput<T>& out, int64_t elements, uint32_t first,
               cudaStream_t stream) {
  if (!out.terms) return;
  const int64_t *inner = out.tensor.strides + p.batch.ndim, values = p.rows * p.dims;
  launch_sum<T, 32>(p, Terms<T>{out.terms, values, 1, values, 1, 0, out.tensor, p.dims, inner[0], inner[1]},
                    elements, first, stream);
}

template <class T, int D, int ways, bool band>
void launch_component_sums(const MixtureProblem& p, const BackwardPlan<T>& plan,
                           const BackwardMemory<T>& memory, int64_t elements, uint32_t first,
                           cudaStream_t stream) {
  const bool with_value = plan.direct && memory.value.out.tensor.data;
  const int64_t value_blocks = with_value ? divide_up(p.rows * p.dims, kThreads) : 0;
  const dim3 blocks(grid(plan.component_blocks + value_blocks), grid(plan.joint.count), grid(elements));
  PYKERNELS_LAUNCH((joint_component_sums<T, D, ways, band>), blocks, kThreads,
                   (component_shared_size<T, D, ways>()) * sizeof(T), stream, p, memory.value,
                   memory.gradients, memory.joint_sums, plan.joint.units, plan.component_blocks, first);
}

template <class T>
void launch_joint_sums(const MixtureProblem& p, const BackwardPlan<T>& plan, const BackwardMemory<T>& memory,
                       int64_t elements, uint32_t first, cudaStream_t stream) {
  if (plan.tiles) {
    launch_pack_tiles(p, memory.components, memory.rows, memory.value.joint_log2, memory.value.grad_joint,
                      elements, first, stream);
    const dim3 blocks(grid(plan.component_blocks), grid(plan.joint.count), grid(elements));
    PYKERNELS_LAUNCH(joint_component_tiles<T>, blocks, kTileThreads, kGradientTileSize<T> * sizeof(T), stream,
                     p, memory.components, memory.rows, memory.joint_sums, static_cast<int>(p.dims),
                     plan.joint.units);
    return;
  }
  with_dims<T>(p.dims, [&](auto dims) {
    constexpr int D = decltype(dims)::kValue;
    const bool band = depend_on_pair(p.pairs);
    if (plan.few_components && band)
      launch_component_sums<T, D, kFewWays, true>(p, plan, memory, elements, first, stream);
    else if (plan.few_components)
      launch_component_sums<T, D, kFewWays, false>(p, plan, memory, elements, first, stream);
    else if (band)
      launch_component_sums<T, D, 1, true>(p, plan, memory, elements, first, stream);
    else
      launch_component_sums<T, D, 1, false>(p, plan, memory, elements, first, stream);
  });
}

template <class T>
void launch_marginal_sums(const MixtureProblem& p, const BackwardPlan<T>& plan,
                          const BackwardMemory<T>& memory, int64_t elements, uint32_t first,
                          cudaStream_t stream) {
  const PackedMarginals<T>& packed = memory.marginals;
  launch_pack_marginals(p, packed, elements, first, stream);
  const dim3 blocks(grid(plan.marginal_component_blocks), grid(plan.marginal_splits.count),
                    grid(elements * packed.dim_blocks));
  PYKERNELS_LAUNCH((marginal_component_sums<T, kMarginalComponents<T>>), blocks, kMarginalThreads,
                   3 * kMarginalTile<T> * packed.dims * sizeof(T), stream, p, packed,
                   memory.value.marginal_log2, memory.value.grad_marginal, memory.marginal_sums,
                   plan.marginal_splits.units, first);
}

// And the gradient of value.
template <class T>
void launch_finish(const MixtureProblem& p, const BackwardPlan<T>& plan, const BackwardMemory<T>& memory,
                   int64_t elements, uint32_t first, cudaStream_t stream) {
  const GradientSums<T> sums{memory.joint_sums, memory.marginal_sums,
                             memory.joint_sums ? static_cast<int>(plan.joint.count) : 0,
                             memory.marginal_sums ? static_cast<int>(plan.marginal_splits.count) : 0};
  FinishPlan finish = plan.finish;
  if (!plan.for_components) finish.component_blocks = 0;
  const int threads = kMergeOutputs * finish.ways;
  const int64_t value_blocks = memory.value.out.tensor.data ? divide_up(p.rows * p.dims, threads) : 0;
  PYKERNELS_LAUNCH(finish_gradients<T>,
                   dim3(grid(finish.component_blocks * finish.dim_blocks + value_blocks), grid(elements)),
                   threads, finish_bytes<T>(finish), stream, p, sums, memory.gradients, memory.value, finish,
                   first);
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
  const int64_t batch = batch_count(p.batch);
  if (batch > UINT32_MAX) return Status::batch_too_large;
  if (!plan.for_components && !args.grad_value.data) return Status::ok;
  for (int64_t begin = 0; begin < batch; begin += plan.step) {
    const uint32_t first = static_cast<uint32_t>(begin);
    const int64_t elements = at_most(plan.step, batch - begin);
    if (plan.for_components && args.grad_joint) launch_joint_sums(p, plan, memory, elements, first, stream);
    if (plan.for_components && args.grad_marginal)
      launch_marginal_sums(p, plan, memory, elements, first, stream);
    if (!plan.direct || !plan.for_components) launch_finish(p, plan, memory, elements, first, stream);
    sum_gradient(p, memory.gradients.loc, p.dims, elements, first, stream);
    sum_gradient(p, memory.gradients.scale, p.dims, elements, first, stream);
    sum_gradient(p, memory.gradients.log_weights, 1, elements, first, stream);
    sum_value(p, memory.value.out, elements, first, stream);
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
