// Statistics of the responsibilities, as cpu_statistics.h has them: beside the sum of e_i = 2^(x_i - top),
// where x_i is the log-density of a pair, those of e_i^2 and of e_i (x_i - top). On tiles, for any number of
// dimensions: they are asked for now and then, not in every step of a training.
#pragma once

#include "mixture/cuda_plan.h"

namespace pykernels {

template <class T> struct alignas(4 * sizeof(T)) StatisticsSum {
  T top, mass, square, product;
};

template <class T> PYKERNELS_DEVICE StatisticsSum<T> no_statistics() {
  return {-Limits<T>::kLargest, 0, 0, 0};
}

// The same sums with a higher top. So far above that nothing is left, the distance may be infinite.
template <class T> PYKERNELS_DEVICE StatisticsSum<T> moved(const StatisticsSum<T>& sum, T top) {
  const T gap = sum.top - top, factor = fast_exp2(gap), mass = factor * sum.mass;
  return {top, mass, factor * factor * sum.square,
          factor == 0 ? mass : factor * fma(gap, sum.mass, sum.product)};
}

template <class T>
PYKERNELS_DEVICE StatisticsSum<T> merge(const StatisticsSum<T>& a, const StatisticsSum<T>& b) {
  const T top = fmax(a.top, b.top);
  const StatisticsSum<T> x = moved(a, top), y = moved(b, top);
  return {top, x.mass + y.mass, x.square + y.square, x.product + y.product};
}

// With what the thread `step` away has.
template <class T> PYKERNELS_DEVICE StatisticsSum<T> merge_across(const StatisticsSum<T>& own, int step) {
  return merge(
      own, {__shfl_xor_sync(kWholeWarp, own.top, step), __shfl_xor_sync(kWholeWarp, own.mass, step),
            __shfl_xor_sync(kWholeWarp, own.square, step), __shfl_xor_sync(kWholeWarp, own.product, step)});
}

// Adds the log-densities of one row.
template <int count, class T> PYKERNELS_DEVICE void add_pairs(const T (&log2)[count], StatisticsSum<T>& sum) {
  T top = sum.top;
  PYKERNELS_UNROLL
  for (int i = 0; i < count; ++i) top = fmax(top, log2[i]);
  StatisticsSum<T> own{top, 0, 0, 0};  // summed by themselves: rounding errors grow with the terms
  PYKERNELS_UNROLL
  for (int i = 0; i < count; ++i) {
    const T x = fmax(log2[i] - top, kLeastLog2<T>), e = fast_exp2(log2[i] - top);
    own.mass += e;
    own.square = fma(e, e, own.square);
    own.product = fma(e, x, own.product);
  }
  const StatisticsSum<T> before = moved(sum, top);
  sum = {top, before.mass + own.mass, before.square + own.square, before.product + own.product};
}

// Grid: tiles of rows, splits of the tiles of components, batch elements. `parts` is [elements, splits,
// rows].
template <class T>
__global__ void __launch_bounds__(kTileThreads, 2) forward_statistics(
    PYKERNELS_PARAMETER PackedComponents<T> components, PYKERNELS_PARAMETER PackedRows<T> rows,
    StatisticsSum<T>* parts, int dims, int64_t tiles_per_split) {
  constexpr int kLane = Quad<T>::kCount, kS = kSide<T>;
  PYKERNELS_SHARED(T, shared);
  GradientTiles<T> tiles = cut(shared);
  const int thread = static_cast<int>(threadIdx.x), across = thread % 16 * kLane, down = thread / 16 * kLane;
  const int64_t element = blockIdx.z, row_tile = blockIdx.x, split = blockIdx.y, splits = gridDim.y;
  const int64_t tile_size = static_cast<int64_t>(dims) * kS;
  const T* z = rows.z + (element * rows.tiles + row_tile) * tile_size;
  const int64_t begin = split * tiles_per_split;
  const int64_t end = begin + tiles_per_split < components.used ? begin + tiles_per_split : components.used;

  StatisticsSum<T> sum[kLane];
  PYKERNELS_UNROLL
  for (int r = 0; r < kLane; ++r) sum[r] = no_statistics<T>();
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t packed = element * components.tiles + tile;
    Square<T, kLane, kLane> square;
    pair_squares(z, components.s + packed * tile_size, components.m + packed * tile_size,
                 is_accurate(components, packed), dims, down, across, thread, tiles, square);
    T constant[kLane];
    load_aligned(components.constant + packed * kS + across, constant);
    PYKERNELS_UNROLL
    for (int r = 0; r < kLane; ++r) {
      PYKERNELS_UNROLL
      for (int i = 0; i < kLane; ++i) square.sum[r][i] += constant[i];
      add_pairs(square.sum[r], sum[r]);
    }
  }
  PYKERNELS_UNROLL
  for (int r = 0; r < kLane; ++r) {
    for (int step = 8; step > 0; step /= 2) sum[r] = merge_across(sum[r], step);
    const int64_t row = row_tile * kS + down + r;
    if (thread % 16 == 0 && row < rows.count) parts[(element * splits + split) * rows.count + row] = sum[r];
  }
}

template <class T> struct StatisticsOutput {
  T *log_prob, *log2, *perplexity, *collision_count;
};

constexpr int kStatisticsRows = 4;  // of a block, each a warp's

// A thread takes every 32nd split of a row, in order; then come the threads, two and two.
template <class T>
__global__ void __launch_bounds__(32 * kStatisticsRows) merge_statistics(
    PYKERNELS_PARAMETER StatisticsOutput<T> out, const StatisticsSum<T>* parts, int64_t rows, int64_t splits,
    int64_t elements, uint32_t first_element) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int64_t local = static_cast<int64_t>(blockIdx.x) * kStatisticsRows + thread / 32;
  const bool real = local < elements * rows;
  const int64_t element = real ? local / rows : 0, row = real ? local % rows : 0;
  StatisticsSum<T> sum = no_statistics<T>();
  for (int64_t split = lane; real && split < splits; split += 32)
    sum = merge(sum, parts[(element * splits + split) * rows + row]);
  for (int step = 16; step > 0; step /= 2) sum = merge_across(sum, step);
  if (!real || lane != 0) return;
  const T of_mass = log2(sum.mass), whole = log2_of(ExpSum<T>{sum.top, sum.mass});
  // Some component has density.
  const bool defined = sum.mass > 0 && whole < static_cast<T>(INFINITY);
  const int64_t at = first_element * rows + local;
  out.log_prob[at] = static_cast<T>(kLn2) * whole;
  out.log2[at] = whole;
  out.perplexity[at] = defined ? exp2(of_mass - sum.product / sum.mass) : static_cast<T>(NAN);
  out.collision_count[at] = defined ? sum.mass / sum.square * sum.mass : static_cast<T>(NAN);
}

struct StatisticsPlan {
  int64_t row_blocks;
  Splits splits;  // of tiles of components
  int64_t step;   // batch elements at a time
};

template <class T> StatisticsPlan plan_statistics(const MixtureProblem& p) {
  const int64_t batch = batch_count(p.batch);
  StatisticsPlan plan{};
  plan.row_blocks = divide_up(p.rows, kSide<T>);
  plan.splits = split(divide_up(p.components, kSide<T>), plan.row_blocks * batch);
  const int64_t bytes =
      ((2 * p.dims + 1) * padded_tiles<T>(p.components) + p.dims * padded_tiles<T>(p.rows)) * kSide<T> *
          sizeof(T) +
      plan.splits.count * p.rows * sizeof(StatisticsSum<T>);
  plan.step = at_most(at_most(batch, kMostGridRows), 1 + kMostMemory / bytes);
  return plan;
}

template <class T> struct StatisticsMemory {
  PackedComponents<T> components;
  PackedRows<T> rows;
  StatisticsSum<T>* parts;
};

template <class T>
StatisticsMemory<T> take_statistics(Arena& arena, const MixtureProblem& p, const StatisticsPlan& plan) {
  return {take_components<T>(arena, p, plan.step), take_rows<T>(arena, p, plan.step),
          take<StatisticsSum<T>>(arena, plan.step * plan.splits.count * p.rows)};
}

template <class T> int64_t statistics_workspace(const MixtureProblem& p) {
  Arena arena{nullptr, kAlignment};
  take_statistics<T>(arena, p, plan_statistics<T>(p));
  return arena.used;
}

}  // namespace pykernels
