// The CUDA variant: which kernels a backward pass takes.
#include "mixture/cuda_launches.h"

namespace pykernels {
namespace {

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

template <class T, bool statistics>
void launch_component_tiles(const MixtureProblem& p, const BackwardPlan<T>& plan,
                            const BackwardMemory<T>& memory, int64_t elements, cudaStream_t stream) {
  const dim3 blocks(grid(plan.component_blocks), grid(plan.joint.count), grid(elements));
  PYKERNELS_LAUNCH((joint_component_tiles<T, statistics>), blocks, kTileThreads,
                   kGradientTileSize<T> * sizeof(T), stream, p, memory.components, memory.rows,
                   memory.joint_sums, static_cast<int>(p.dims), plan.joint.units);
}

template <class T>
void launch_tile_sums(const MixtureBackward& args, const BackwardPlan<T>& plan,
                      const BackwardMemory<T>& memory, int64_t elements, uint32_t first,
                      cudaStream_t stream) {
  const MixtureProblem& p = args.problem;
  const T* statistics = static_cast<const T*>(args.grad_statistics);
  launch_pack_tiles<T>(p, memory.components, memory.rows,
                       {memory.value.joint_log2, memory.value.grad_joint, statistics}, elements, first,
                       stream);
  if (plan.for_components && statistics) launch_component_tiles<T, true>(p, plan, memory, elements, stream);
  if (plan.for_components && !statistics) launch_component_tiles<T, false>(p, plan, memory, elements, stream);
  if (!plan.value_blocks) return;
  const dim3 blocks(grid(plan.value_blocks), grid(plan.value.count), grid(elements));
  PYKERNELS_LAUNCH(statistics_row_tiles<T>, blocks, kTileThreads, kGradientTileSize<T> * sizeof(T), stream,
                   memory.components, memory.rows, memory.slope_sums, static_cast<int>(p.dims),
                   plan.value.units);
}

template <class T>
void launch_joint_sums(const MixtureBackward& args, const BackwardPlan<T>& plan,
                       const BackwardMemory<T>& memory, int64_t elements, uint32_t first,
                       cudaStream_t stream) {
  const MixtureProblem& p = args.problem;
  if (plan.tiles) return launch_tile_sums(args, plan, memory, elements, first, stream);
  with_dims<T>(p.dims, [&](auto dims) {
    constexpr int D = decltype(dims)::kValue;
    if (depend_on_pair(p.pairs))
      launch_component_sums<T, D, kFewWays, true>(p, plan, memory, elements, first, stream);
    else if (plan.few_components)
      launch_component_sums<T, D, kFewWays, false>(p, plan, memory, elements, first, stream);
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
  const int of_block = memory.slope_sums ? kMergeOutputs : threads;
  const int64_t value_blocks = memory.value.out.tensor.data ? divide_up(p.rows * p.dims, of_block) : 0;
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
    if (args.grad_joint && (plan.for_components || plan.value_blocks))
      launch_joint_sums(args, plan, memory, elements, first, stream);
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

}  // namespace

int64_t mixture_backward_workspace_cuda(const MixtureBackward& args, int) {
  return is_single(args.problem) ? backward_workspace<float>(args) : backward_workspace<double>(args);
}

Status mixture_backward_cuda(const MixtureBackward& args, Execution execution) {
  return is_single(args.problem) ? backward<float>(args, execution) : backward<double>(args, execution);
}

}  // namespace pykernels
