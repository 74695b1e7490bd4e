// How a call of the CUDA variant is cut into blocks, and what memory it takes. Everything here follows from
// the sizes of the problem alone, never from the device or the data, so that results are the same on every
// GPU and nothing has to be waited for.
#pragma once

#include "core/arena.h"
#include "mmd/cuda_value.h"

namespace pykernels {
namespace mmd {

constexpr int64_t kLeastNodes = 512;        // of a column, for which there is room
constexpr int64_t kPointsPerNode = 2;       // above that
constexpr int64_t kRangeParts = 128;        // at most
constexpr int64_t kMostSplits = 64;         // of a sample's points
constexpr int64_t kMomentBlocks = 264;      // with fewer, a block takes fewer dimensions
constexpr int64_t kPairBlocks = 2112;       // two waves on the largest GPUs
constexpr int64_t kListedBlocks = 1056;     // of launches that seldom find anything to do
constexpr int64_t kMostMemory = 256 << 20;  // for batch elements that could as well follow one another
constexpr int kLaneDims = 64;
constexpr int64_t kMostDims = kLaneDims * kMostGridRows;
// Up to here sums over all pairs are faster: instructions of all threads, which count for more where their
// blocks are too few for a GPU, and points.
template <class T> constexpr double kPairWork = sizeof(T) == 4 ? 4e8 : 6e7;
constexpr int64_t kEnoughBlocks = 132;
constexpr int64_t kPairPoints = 2048;

static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

template <class T> bool takes_panels(const MmdProblem& p, bool slopes) {
  if (p.order == 0 || p.method == MmdMethod::direct) return false;
  if (p.method == MmdMethod::panels) return true;
  if (p.n + p.m > kPairPoints) return true;
  const int64_t columns = p.dims * batch_count(p.batch), points = p.n + p.m;
  const int64_t blocks = columns * (divide_up(p.n, kPairTile<T>) + divide_up(p.m, kPairTile<T>));
  const double work = static_cast<double>(points * points * columns) * (slopes ? 32 : 10);
  return work * kEnoughBlocks > kPairWork<T> * static_cast<double>(at_most(blocks, kEnoughBlocks));
}

struct MmdPlan {
  bool panels;  // else all columns are summed over in pairs
  bool slopes[2];
  Lanes lanes;
  int64_t lane_blocks;
  int64_t range_parts;
  MomentPlan moments;
  int64_t moment_blocks;  // of dimensions
  int most_panels;
  NodePlan nodes;
  int64_t slope_blocks[2];
  int64_t pair_tiles[2];
  int64_t step;  // batch elements at a time
};

template <class T> MmdPlan plan_of(const MmdArguments& args) {
  const MmdProblem& p = args.problem;
  const int64_t counts[] = {p.n, p.m}, batch = batch_count(p.batch);
  MmdPlan plan{};
  plan.slopes[0] = args.slope_x;
  plan.slopes[1] = args.slope_y;
  plan.panels = takes_panels<T>(p, args.slope_x || args.slope_y);
  plan.lane_blocks = divide_up(p.dims, kLaneDims);
  plan.lanes.dims = static_cast<int>(divide_up(p.dims, plan.lane_blocks));
  plan.lane_blocks = divide_up(p.dims, plan.lanes.dims);
  plan.lanes.groups = kThreads / plan.lanes.dims;
  for (int s = 0; s < 2; ++s) {
    plan.pair_tiles[s] = divide_up(counts[s], kPairTile<T>);
    plan.slope_blocks[s] = plan.slopes[s] ? divide_up(counts[s], kSlopeRows * plan.lanes.groups) : 0;
  }
  int64_t bytes = (plan.pair_tiles[0] + plan.pair_tiles[1]) * p.dims * 16 + 1;
  plan.step = at_most(at_most(batch, kMostGridRows), 1 + kMostMemory / bytes);
  if (!plan.panels) return plan;

  plan.range_parts = at_most(kRangeParts, divide_up(p.n + p.m, 16 * plan.lanes.groups));
  // No column has use for more nodes than points; and all nodes together take no more memory than the points.
  const int64_t nodes =
      at_most(kMostNodes, at_least(kLeastNodes, (p.n + p.m) / kPointsPerNode / p.order * p.order));
  plan.most_panels = static_cast<int>(nodes / p.order);
  MomentPlan& moments = plan.moments;
  moments.most_nodes = plan.most_panels * p.order;
  moments.width = p.width;
  for (int s = 0; s < 2; ++s) {
    const int64_t splits = at_least(1, at_most(kMostSplits, counts[s] / moments.most_nodes));
    moments.rows[s] = divide_up(counts[s], splits);
    moments.splits[s] = static_cast<int>(divide_up(counts[s], moments.rows[s]));
  }
  const int64_t single = p.dims * (moments.splits[0] + moments.splits[1]) * batch;
  moments.dims = static_cast<int>(at_most(at_most(p.dims, kMomentDims), divide_up(single, kMomentBlocks)));
  plan.moment_blocks = divide_up(p.dims, moments.dims);
  plan.nodes = {{moments.splits[0], moments.splits[1]},
                moments.most_nodes,
                static_cast<int>(divide_up(moments.most_nodes, kNodeThreads)),
                0,
                p.width};
  plan.nodes.node_blocks = plan.nodes.tiles * p.dims;
  bytes += p.dims * (moments.most_nodes * (8 * (moments.splits[0] + moments.splits[1]) + 32) +
                     2 * plan.range_parts * static_cast<int64_t>(sizeof(T)));
  plan.step = at_most(plan.step, 1 + kMostMemory / bytes);
  return plan;
}

template <class T> struct MmdMemory {
  double* squares;
  T* ranges;
  Columns columns;
  double *moments, *nodes;
  KernelTable table;
  NodeOutput<T> node_sums;
  PairOutput<T> pair_sums;
};

template <class T> MmdMemory<T> take_memory(Arena& arena, const MmdArguments& args, const MmdPlan& plan) {
  const MmdProblem& p = args.problem;
  MmdMemory<T> memory{};
  const int64_t columns = plan.step * p.dims;
  memory.squares = take<double>(arena, 2 * plan.step);
  memory.pair_sums.forms = take<double>(arena, columns * 2 * (plan.pair_tiles[0] + plan.pair_tiles[1]));
  memory.pair_sums.slopes[0] = static_cast<T*>(args.slope_x);
  memory.pair_sums.slopes[1] = static_cast<T*>(args.slope_y);
  if (!plan.panels) return memory;
  memory.ranges = take<T>(arena, columns * 2 * plan.range_parts);
  memory.columns.columns = take<Column>(arena, columns);
  memory.columns.pairs = take<int64_t>(arena, columns);
  memory.columns.pair_count = take<int64_t>(arena, 1);
  memory.columns.most_panels = take<int>(arena, 1);
  const MomentPlan& moments = plan.moments;
  memory.moments =
      take<double>(arena, columns * (moments.splits[0] + moments.splits[1]) * moments.most_nodes);
  memory.nodes = take<double>(arena, columns * 2 * moments.most_nodes);
  const int64_t entries = static_cast<int64_t>(p.order) * kTableWidth;
  memory.table = {take<double>(arena, entries), take<double>(arena, entries)};
  memory.node_sums.forms = take<double>(arena, columns * plan.nodes.tiles * kNodeForms);
  for (int s = 0; s < 2; ++s)
    memory.node_sums.series[s] = plan.slopes[s] ? take<T>(arena, columns * moments.most_nodes) : nullptr;
  return memory;
}

}  // namespace mmd
}  // namespace pykernels
