// The CUDA variant, and which kernels a forward pass takes.
#if !defined(PYKERNELS_EMULATED)
#include "core/cuda_device.h"
#endif
#include "mixture/cuda_launches.h"
#include "mixture/cuda_statistics.h"

namespace pykernels {
namespace {

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
  launch_pack_tiles<T>(p, memory.components, memory.rows, {}, elements, first, stream);
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

template <class T> Status statistics(const MixtureForward& args, cudaStream_t stream) {
  const MixtureProblem& p = args.problem;
  const StatisticsPlan plan = plan_statistics<T>(p);
  Arena arena = arena_over(args.workspace);
  const StatisticsMemory<T> memory = take_statistics<T>(arena, p, plan);
  if (arena.used > args.workspace_bytes) return Status::workspace_too_small;
  const int64_t batch = batch_count(p.batch);
  if (batch > UINT32_MAX) return Status::batch_too_large;
  const StatisticsOutput<T> out{static_cast<T*>(args.joint), static_cast<T*>(args.joint_log2),
                                static_cast<T*>(args.perplexity), static_cast<T*>(args.collision_count)};
  for (int64_t begin = 0; begin < batch; begin += plan.step) {
    const uint32_t first = static_cast<uint32_t>(begin);
    const int64_t elements = at_most(plan.step, batch - begin);
    launch_pack_tiles<T>(p, memory.components, memory.rows, {}, elements, first, stream);
    PYKERNELS_LAUNCH(forward_statistics<T>,
                     dim3(grid(plan.row_blocks), grid(plan.splits.count), grid(elements)), kTileThreads,
                     kGradientTileSize<T> * sizeof(T), stream, memory.components, memory.rows, memory.parts,
                     static_cast<int>(p.dims), plan.splits.units);
    PYKERNELS_LAUNCH(merge_statistics<T>, dim3(grid(divide_up(elements * p.rows, kStatisticsRows))),
                     32 * kStatisticsRows, 0, stream, out, memory.parts, p.rows, plan.splits.count, elements,
                     first);
  }
  return launch_status();
}

template <class T> Status forward(const MixtureForward& args, Execution execution) {
  const MixtureProblem& p = args.problem;
  const OnDevice device(execution.device);
  const cudaStream_t stream = static_cast<cudaStream_t>(execution.stream);
  if (p.dims > kMostDims) return Status::too_many_dims;
  if (args.perplexity) return statistics<T>(args, stream);
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

int64_t forward_workspace_any(const MixtureForward& args, int) {
  return is_single(args.problem) ? forward_workspace<float>(args) : forward_workspace<double>(args);
}

Status forward_any(const MixtureForward& args, Execution execution) {
  return is_single(args.problem) ? forward<float>(args, execution) : forward<double>(args, execution);
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
                                     mixture_backward_workspace_cuda,
                                     forward_any,
                                     mixture_backward_cuda};

}  // namespace pykernels
