// The CUDA variant: which kernels a call takes.
#include "core/cuda_launch.h"
#if !defined(PYKERNELS_EMULATED)
#include "core/cuda_device.h"
#endif
#include "mmd/cuda_plan.h"

namespace pykernels {
namespace mmd {
namespace {

unsigned grid(int64_t size) { return static_cast<unsigned>(size); }

template <int value> struct Int {
  static constexpr int kValue = value;
};
template <bool value> struct Bool {
  static constexpr bool kValue = value;
};

template <class Call> void with_bool(bool value, const Call& call) {
  if (value)
    call(Bool<true>{});
  else
    call(Bool<false>{});
}

template <class Call> void with_order(int order, const Call& call) {
  if (order == 8)
    call(Int<8>{});
  else
    call(Int<16>{});
}

Inputs inputs_of(const MmdProblem& p) {
  return {p.batch, {p.n, p.m}, p.dims, {p.x, p.y}, {p.x_masses, p.y_masses}};
}

Excess excess_for(const MmdProblem& p, const double* squares) {
  if (!p.unbiased) return {{0, 0}, nullptr};
  return {{1 / static_cast<double>(p.n - 1), 1 / static_cast<double>(p.m - 1)}, squares};
}

bool is_weighted(const MmdProblem& p) { return p.x_masses.data || p.y_masses.data; }

// One call, for some batch elements at a time.
template <class T> struct Launcher {
  const MmdArguments& args;
  const MmdPlan& plan;
  const MmdMemory<T>& memory;
  const Inputs inputs;
  const Excess excess;
  const cudaStream_t stream;
  const MmdProblem& p = args.problem;

  void run(int64_t elements, uint32_t first) const {
    if (p.unbiased && is_weighted(p))
      PYKERNELS_LAUNCH(square_masses, dim3(2, grid(elements)), kThreads, kThreads * sizeof(double), stream,
                       inputs, memory.squares, first);
    if (plan.panels)
      with_order(p.order, [&](auto order) { run_panels<decltype(order)::kValue>(elements, first); });
    run_pairs(elements, first);
    Forms forms{};
    forms.columns = memory.columns.columns;
    forms.of_nodes = memory.node_sums.forms;
    forms.of_pairs = memory.pair_sums.forms;
    forms.node_tiles = plan.nodes.tiles;
    forms.order = p.order;
    forms.pair_tiles[0] = plan.pair_tiles[0];
    forms.pair_tiles[1] = plan.pair_tiles[1];
    forms.kappa_0 = p.num_scales;
    forms.biased = !p.unbiased;
    PYKERNELS_LAUNCH(add_columns<T>, grid(elements), kThreads, kThreads / 32 * sizeof(double), stream, inputs,
                     excess, forms, static_cast<T*>(args.value), first);
  }

  template <int order> void run_panels(int64_t elements, uint32_t first) const {
    const MomentPlan& moments = plan.moments;
    const Column* const columns = memory.columns.columns;
    PYKERNELS_LAUNCH(measure_ranges<T>, dim3(grid(plan.range_parts), grid(plan.lane_blocks), grid(elements)),
                     kThreads, 2 * kThreads * sizeof(T), stream, inputs, plan.lanes, memory.ranges, first);
    PYKERNELS_LAUNCH(choose_ways<T>, 1, kThreads, kThreads * sizeof(int), stream, memory.ranges, elements,
                     p.dims, static_cast<int>(plan.range_parts), p.width, plan.most_panels, memory.columns);
    with_bool(is_weighted(p), [&](auto weighted) {
      PYKERNELS_LAUNCH(
          (sum_moments<T, order, decltype(weighted)::kValue>),
          dim3(grid(moments.splits[0] + moments.splits[1]), grid(plan.moment_blocks), grid(elements)),
          kMomentThreads, kMomentBytes, stream, inputs, moments, columns, memory.moments, first);
    });
    Scales scales{};
    scales.count = p.num_scales;
    for (int l = 0; l < p.num_scales; ++l) scales.values[l] = p.scales[l];
    const ChebyshevRule rule = chebyshev_rule(order);
    const int64_t table_blocks = order * kTableWidth / kNodeThreads;
    PYKERNELS_LAUNCH(lay_out_nodes<order>, dim3(grid(plan.nodes.node_blocks + table_blocks), grid(elements)),
                     kNodeThreads, (order * order + 2 * kNodeThreads) * sizeof(double), stream, inputs,
                     plan.nodes, scales, rule, memory.columns, memory.moments, memory.nodes, memory.table);
    const bool slopes = plan.slopes[0] || plan.slopes[1];
    with_bool(slopes, [&](auto with_slopes) {
      PYKERNELS_LAUNCH((sum_over_nodes<T, order, decltype(with_slopes)::kValue>),
                       dim3(grid(plan.nodes.node_blocks), grid(elements)), kNodeThreads,
                       node_sum_bytes(moments.most_nodes), stream, inputs, plan.nodes, rule, excess, columns,
                       memory.nodes, memory.table, memory.node_sums);
    });
    if (!slopes) return;
    SlopeOutput<T> out{};
    out.blocks_x = plan.slope_blocks[0];
    for (int s = 0; s < 2; ++s) {
      out.slopes[s] = memory.pair_sums.slopes[s];
      out.series[s] = memory.node_sums.series[s];
    }
    with_bool(is_weighted(p), [&](auto weighted) {
      PYKERNELS_LAUNCH(
          (slopes_at_points<T, order, decltype(weighted)::kValue>),
          dim3(grid(plan.slope_blocks[0] + plan.slope_blocks[1]), grid(plan.lane_blocks), grid(elements)),
          kThreads, 0, stream, inputs, out, plan.lanes, columns, p.width, moments.most_nodes, first);
    });
  }

  // Of all columns, or of those that have no panels.
  void run_pairs(int64_t elements, uint32_t first) const {
    const int64_t all = plan.pair_tiles[0] + plan.pair_tiles[1];
    PairPlan pairs{};
    pairs.tiles[0] = plan.pair_tiles[0];
    pairs.tiles[1] = plan.pair_tiles[1];
    pairs.columns = elements * p.dims;
    pairs.listed = memory.columns.pairs;
    pairs.listed_count = memory.columns.pair_count;
    pairs.cross = plan.slopes[1] && !plan.slopes[0];
    const auto launch = [&](int64_t first_tile, int64_t count, bool slopes) {
      pairs.first_tile = first_tile;
      pairs.count = count;
      with_bool(slopes, [&](auto with_slopes) {
        with_bool(is_weighted(p), [&](auto weighted) {
          launch_pairs<decltype(with_slopes)::kValue, decltype(weighted)::kValue>(pairs, first);
        });
      });
    };
    if (plan.slopes[0] == plan.slopes[1]) return launch(0, all, plan.slopes[0]);
    launch(0, plan.pair_tiles[0], plan.slopes[0]);
    launch(plan.pair_tiles[0], plan.pair_tiles[1], plan.slopes[1]);
  }

  template <bool slopes, bool weighted> void launch_pairs(const PairPlan& pairs, uint32_t first) const {
    const Fractions<T> fractions = fractions_of<T>(p);
    const int64_t blocks = at_most(pairs.columns * pairs.count, pairs.listed ? kListedBlocks : kPairBlocks);
    const auto launch = [&](auto count) {
      PYKERNELS_LAUNCH((sum_over_pairs<T, decltype(count)::kValue, slopes, weighted>), grid(blocks), kThreads,
                       kPairBytes<T>, stream, inputs, fractions, pairs, excess, memory.pair_sums, first);
    };
    if (fractions.count == 1) return launch(Int<1>{});
    if (fractions.count == 2) return launch(Int<2>{});
    launch(Int<0>{});
  }
};

template <class T> Status run(const MmdArguments& args, MmdExecution execution) {
  const MmdProblem& p = args.problem;
  const OnDevice device(execution.device);
  if (p.dims > kMostDims) return Status::too_many_dims;
  const MmdPlan plan = plan_of<T>(args);
  Arena arena = arena_over(args.workspace);
  const MmdMemory<T> memory = take_memory<T>(arena, args, plan);
  if (arena.used > args.workspace_bytes) return Status::workspace_too_small;
  const int64_t batch = batch_count(p.batch);
  if (batch > UINT32_MAX) return Status::batch_too_large;
  const double* const squares = is_weighted(p) ? memory.squares : nullptr;
  const Launcher<T> launcher{
      args, plan, memory, inputs_of(p), excess_for(p, squares), static_cast<cudaStream_t>(execution.stream)};
  for (int64_t begin = 0; begin < batch; begin += plan.step)
    launcher.run(at_most(plan.step, batch - begin), static_cast<uint32_t>(begin));
  return launch_status();
}

template <class T> int64_t workspace(const MmdArguments& args) {
  if (args.problem.dims > kMostDims) return 0;  // refused later
  Arena arena{nullptr, kAlignment};
  take_memory<T>(arena, args, plan_of<T>(args));
  return arena.used;
}

bool is_single(const MmdArguments& args) { return args.problem.dtype == Dtype::float32; }

int64_t workspace_any(const MmdArguments& args, int) {
  return is_single(args) ? workspace<float>(args) : workspace<double>(args);
}
Status run_any(const MmdArguments& args, MmdExecution execution) {
  return is_single(args) ? run<float>(args, execution) : run<double>(args, execution);
}

}  // namespace
}  // namespace mmd

extern const MmdVariant mmd_cuda;
#if defined(PYKERNELS_EMULATED)
const MmdVariant mmd_cuda = {"emulated",         [] { return true; }, nullptr, nullptr,
                             mmd::workspace_any, mmd::run_any,        false};
#else
const MmdVariant mmd_cuda = {
    "cuda", [] { return cuda_devices().count > 0; }, nullptr, nullptr, mmd::workspace_any, mmd::run_any,
    true};
#endif

}  // namespace pykernels
