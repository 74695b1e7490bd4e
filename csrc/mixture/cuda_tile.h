// The joint density for many dimensions: like a matrix product whose multiply-add is two, t = (z - m) s and
// sum += t^2. A block takes two tiles of rows and goes through pairs of tiles of components, a few dimensions
// at a time, the next ones being copied while it works. Each thread holds a square of pairs; its rows' sums
// of exponentials stay with it until the end.
#pragma once

#include "mixture/cuda_pack.h"

namespace pykernels {

// Dimensions at a time. Two stages of six tiles' parts then fit in 36 KB.
constexpr int kMaxDepth = 12;
// Errors of a long sum grow with its length, so sums longer than this are made of shorter ones. The backward
// pass does the same: where one component outweighs all others, its exponent is then 0 exactly.
constexpr int kSummedDims = 64;

template <class T, int side> struct Square {
  T sum[side][side];
};

template <class T, int side> PYKERNELS_DEVICE void clear(Square<T, side>& square) {
  PYKERNELS_UNROLL
  for (int row = 0; row < side; ++row) {
    PYKERNELS_UNROLL
    for (int i = 0; i < side; ++i) square.sum[row][i] = 0;
  }
}

template <class T, int side> PYKERNELS_DEVICE void move(Square<T, side>& from, Square<T, side>& to) {
  PYKERNELS_UNROLL
  for (int row = 0; row < side; ++row) {
    PYKERNELS_UNROLL
    for (int i = 0; i < side; ++i) to.sum[row][i] += from.sum[row][i];
  }
  clear(from);
}

// sum -= t^2 for `depth` dimensions. Tiles follow one another at `stride`, dimensions at kSide.
template <bool accurate, int stride, class T, int side>
PYKERNELS_DEVICE void add_squares(const T* z, const T* s, const T* m, int depth, Square<T, side>& square) {
  constexpr int kLane = Quad<T>::kCount;
  PYKERNELS_UNROLL_BY(2)
  for (int d = 0; d < depth; ++d) {
    T zs[side], ss[side], ms[side];
    PYKERNELS_UNROLL
    for (int tile = 0; tile < side / kLane; ++tile) {
      const int at = tile * stride + d * kSide<T>;
      load_aligned(z + at, *reinterpret_cast<T(*)[kLane]>(zs + tile * kLane));
      load_aligned(s + at, *reinterpret_cast<T(*)[kLane]>(ss + tile * kLane));
      load_aligned(m + at, *reinterpret_cast<T(*)[kLane]>(ms + tile * kLane));
    }
    PYKERNELS_UNROLL
    for (int row = 0; row < side; ++row) {
      PYKERNELS_UNROLL
      for (int i = 0; i < side; ++i) {
        const T t = standardized<accurate>(zs[row], ss[i], ms[i]);
        square.sum[row][i] = fma(-t, t, square.sum[row][i]);
      }
    }
  }
}

template <class T, int side>
PYKERNELS_DEVICE void add_exponentials(Square<T, side>& square, const T (&constant)[side],
                                       ExpSum<T> (&sum)[side]) {
  PYKERNELS_UNROLL
  for (int row = 0; row < side; ++row) {
    T top = sum[row].top, mass = 0;
    PYKERNELS_UNROLL
    for (int i = 0; i < side; ++i) {
      square.sum[row][i] += constant[i];
      top = fmax(top, square.sum[row][i]);
    }
    PYKERNELS_UNROLL
    for (int i = 0; i < side; ++i) mass += fast_exp2(square.sum[row][i] - top);
    sum[row] = {top, fma(sum[row].mass, fast_exp2(sum[row].top - top), mass)};
  }
}

template <class T> constexpr int kTileSide = 2 * Quad<T>::kCount;  // of a thread's square

// Grid: pairs of tiles of rows, splits of the pairs of tiles of components, batch elements.
template <class T, bool long_sums>
__global__ void __launch_bounds__(kTileThreads, long_sums ? 1 : 2) forward_joint_tiles(
    PYKERNELS_PARAMETER PackedComponents<T> components, PYKERNELS_PARAMETER PackedRows<T> rows,
    PYKERNELS_PARAMETER JointOutput<T> out, int dims, int depth, int64_t pairs_per_split,
    uint32_t first_element) {
  constexpr int kLane = Quad<T>::kCount, kS = kTileSide<T>;
  constexpr int kStride = kMaxDepth * kSide<T>, kStage = 6 * kStride;
  PYKERNELS_SHARED(T, stages);
  const int thread = static_cast<int>(threadIdx.x), across = thread % 16 * kLane, down = thread / 16 * kLane;
  const int64_t element = blockIdx.z, row_pair = blockIdx.x, split = blockIdx.y, splits = gridDim.y;
  const int64_t tile_size = static_cast<int64_t>(dims) * kSide<T>;
  const int64_t first_pair = split * pairs_per_split;
  const int64_t pairs_left = components.tiles / 2 - first_pair;
  const int pairs = static_cast<int>(pairs_left < pairs_per_split ? pairs_left : pairs_per_split);
  const T* z = rows.z + (element * rows.tiles + 2 * row_pair) * tile_size;
  const int64_t first_tile = element * components.tiles + 2 * first_pair;
  const T *s = components.s + first_tile * tile_size, *m = components.m + first_tile * tile_size;
  const T* constants = components.constant + first_tile * kSide<T>;
  const int* accurate = components.accurate + (element * components.tiles) / 2 + first_pair;

  ExpSum<T> sum[kS];
  Square<T, kS> square, total;
  PYKERNELS_UNROLL
  for (int row = 0; row < kS; ++row) sum[row] = empty_sum<T>();

  const auto copy_stage = [&](int64_t pair, int d, int stage) {
    T* target = stages + stage * kStage;
    const int count = dims - d < depth ? dims - d : depth;
    PYKERNELS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t source = (2 * pair + half) * tile_size + d * kSide<T>;
      copy_tile<kMaxDepth>(z + half * tile_size + d * kSide<T>, count, thread, target + half * kStride);
      copy_tile<kMaxDepth>(s + source, count, thread, target + (2 + half) * kStride);
      copy_tile<kMaxDepth>(m + source, count, thread, target + (4 + half) * kStride);
    }
    async_commit();
  };

  int stage = 0;
  if (pairs > 0) copy_stage(0, 0, stage);
  for (int pair = 0; pair < pairs; ++pair) {
    clear(square);
    if (long_sums) clear(total);
    const bool form = accurate[pair] != 0;
    for (int d = 0; d < dims; d += depth) {
      const bool last_of_pair = d + depth >= dims;
      if (!last_of_pair || pair + 1 < pairs) {
        copy_stage(last_of_pair ? pair + 1 : pair, last_of_pair ? 0 : d + depth, 1 - stage);
        async_wait<1>();
      } else {
        async_wait<0>();
      }
      __syncthreads();
      const int count = dims - d < depth ? dims - d : depth;
      const T* here = stages + stage * kStage;
      const T *zs = here + down, *ss = here + 2 * kStride + across, *ms = here + 4 * kStride + across;
      if (form)
        add_squares<true, kStride>(zs, ss, ms, count, square);
      else
        add_squares<false, kStride>(zs, ss, ms, count, square);
      if (long_sums && ((d + depth) % kSummedDims == 0 || last_of_pair)) move(square, total);
      __syncthreads();  // before this stage is overwritten
      stage = 1 - stage;
    }
    T constant[kS];
    PYKERNELS_UNROLL
    for (int half = 0; half < 2; ++half)
      load_aligned(constants + (2 * pair + half) * kSide<T> + across,
                   *reinterpret_cast<T(*)[kLane]>(constant + half * kLane));
    add_exponentials(long_sums ? total : square, constant, sum);
  }

  PYKERNELS_UNROLL
  for (int r = 0; r < kS; ++r) {
    for (int step = 8; step > 0; step /= 2)
      sum[r] = merge(sum[r], {__shfl_xor_sync(kWholeWarp, sum[r].top, step),
                              __shfl_xor_sync(kWholeWarp, sum[r].mass, step)});
    const int64_t row = (2 * row_pair + r / kLane) * kSide<T> + down + r % kLane;
    if (thread % 16 != 0 || row >= rows.count) continue;
    if (out.part)
      out.part[(element * splits + split) * rows.count + row] = sum[r];
    else
      write_joint(out, (first_element + element) * rows.count + row, sum[r]);
  }
}

}  // namespace pykernels
