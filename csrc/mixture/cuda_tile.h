// The joint density for many dimensions: like a matrix product whose multiply-add is two, t = (z - m) s and
// sum += t^2. A block takes some tiles of rows and goes through those of components, a few dimensions
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

// Of rows and components.
template <class T, int many, int across> struct Square {
  T sum[many][across];
};

template <class T, int many, int across> PYKERNELS_DEVICE void clear(Square<T, many, across>& square) {
  PYKERNELS_UNROLL
  for (int row = 0; row < many; ++row) {
    PYKERNELS_UNROLL
    for (int i = 0; i < across; ++i) square.sum[row][i] = 0;
  }
}

template <class T, int many, int across>
PYKERNELS_DEVICE void move(Square<T, many, across>& from, Square<T, many, across>& to) {
  PYKERNELS_UNROLL
  for (int row = 0; row < many; ++row) {
    PYKERNELS_UNROLL
    for (int i = 0; i < across; ++i) to.sum[row][i] += from.sum[row][i];
  }
  clear(from);
}

// Reads a thread's part of each of its tiles, which follow one another at `stride`.
template <int stride, class T, int many>
PYKERNELS_DEVICE void load_parts(const T* source, T (&values)[many]) {
  constexpr int kLane = Quad<T>::kCount;
  PYKERNELS_UNROLL
  for (int tile = 0; tile < many / kLane; ++tile)
    load_aligned(source + tile * stride, *reinterpret_cast<T(*)[kLane]>(values + tile * kLane));
}

// sum -= t^2 for `depth` dimensions, which follow one another at kSide.
template <bool accurate, int stride, class T, int many, int across>
PYKERNELS_DEVICE void add_squares(const T* z, const T* s, const T* m, int depth,
                                  Square<T, many, across>& square) {
  constexpr int kQuads = many * across / (Quad<T>::kCount * Quad<T>::kCount);
  constexpr int kTimes = kQuads < 4 ? 2 : 1;  // larger squares leave no registers for the next dimension
  PYKERNELS_UNROLL_BY(kTimes)
  for (const T* end = z + depth * kSide<T>; z != end; z += kSide<T>, s += kSide<T>, m += kSide<T>) {
    T zs[many], ss[across], ms[across];
    load_parts<stride>(z, zs);
    load_parts<stride>(s, ss);
    load_parts<stride>(m, ms);
    PYKERNELS_UNROLL
    for (int row = 0; row < many; ++row) {
      PYKERNELS_UNROLL
      for (int i = 0; i < across; ++i) {
        const T t = standardized<accurate>(zs[row], ss[i], ms[i]);
        square.sum[row][i] = fma(-t, t, square.sum[row][i]);
      }
    }
  }
}

// Adds the offsets of a square's pairs; `band` says of the first of its rows and of its components, which are
// kLane neighbours in each of several tiles.
template <class T, int many, int across>
PYKERNELS_DEVICE void add_offsets(const BandOffsets<1>& band, Square<T, many, across>& square) {
  constexpr int kLane = Quad<T>::kCount;
  const auto place = [](int k) { return k / kLane * kSide<T> + k % kLane; };
  PYKERNELS_UNROLL
  for (int row = 0; row < many; ++row) {
    PYKERNELS_UNROLL
    for (int i = 0; i < across; ++i)
      square.sum[row][i] = with_offset(square.sum[row][i], band, place(row), place(i));
  }
}

template <class T, int many, int across>
PYKERNELS_DEVICE void add_exponentials(Square<T, many, across>& square, const T (&constant)[across],
                                       ExpSum<T> (&sum)[many]) {
  PYKERNELS_UNROLL
  for (int row = 0; row < many; ++row) {
    T top = sum[row].top, mass = 0;
    PYKERNELS_UNROLL
    for (int i = 0; i < across; ++i) {
      square.sum[row][i] += constant[i];
      top = fmax(top, square.sum[row][i]);
    }
    PYKERNELS_UNROLL
    for (int i = 0; i < across; ++i) mass += fast_exp2(square.sum[row][i] - top);
    sum[row] = {top, fma(sum[row].mass, fast_exp2(sum[row].top - top), mass)};
  }
}

// Tiles that a block works on at a time, of rows and of components. Two by two take the fewest reads of
// shared memory, of rows alone where long sums take twice the registers; one by one is for few rows or few
// components, which would else be filled up, and for few pairs, which more blocks then share.
struct TileShape {
  int rows, components;
};
constexpr TileShape kWideTiles{2, 2}, kLongTiles{2, 1}, kNarrowTiles{1, 1};

template <class T> constexpr size_t tile_bytes(TileShape shape) {
  return 2 * (shape.rows + 2 * shape.components) * kMaxDepth * kSide<T> * sizeof(T);
}

// Grid: groups of tiles of rows, splits of the groups of tiles of components, batch elements.
template <class T, int row_tiles, int component_tiles, bool long_sums>
__global__ void __launch_bounds__(kTileThreads, 2) forward_joint_tiles(
    PYKERNELS_PARAMETER MixtureProblem problem, PYKERNELS_PARAMETER PackedComponents<T> components,
    PYKERNELS_PARAMETER PackedRows<T> rows, PYKERNELS_PARAMETER DensityOutput<T> out, int dims, int depth,
    int64_t groups, int64_t groups_per_split, uint32_t first_element) {
  constexpr int kLane = Quad<T>::kCount, kRows = row_tiles * kLane, kOthers = component_tiles * kLane;
  constexpr int kStride = kMaxDepth * kSide<T>, kStage = (row_tiles + 2 * component_tiles) * kStride;
  PYKERNELS_SHARED(T, stages);
  const int thread = static_cast<int>(threadIdx.x), across = thread % 16 * kLane, down = thread / 16 * kLane;
  const int64_t element = blockIdx.z, split = blockIdx.y, splits = gridDim.y;
  const int64_t first_group = split * groups_per_split, groups_left = groups - first_group;
  const int own_groups = static_cast<int>(groups_left < groups_per_split ? groups_left : groups_per_split);
  const int first_row_tile = row_tiles * static_cast<int>(blockIdx.x), tile_size = dims * kSide<T>;
  const int first_packed_row = static_cast<int>(element * rows.tiles) + first_row_tile,
            first_tile = static_cast<int>(element * components.tiles + component_tiles * first_group);

  ExpSum<T> sum[kRows];
  Square<T, kRows, kOthers> square, total;
  PYKERNELS_UNROLL
  for (int row = 0; row < kRows; ++row) sum[row] = empty_sum<T>();

  const auto copy_stage = [&](int group, int d, int stage) {
    T* target = stages + stage * kStage;
    const int count = dims - d < depth ? dims - d : depth;
    const auto source = [&](int tile) { return static_cast<int64_t>(tile) * tile_size + d * kSide<T>; };
    PYKERNELS_UNROLL
    for (int k = 0; k < row_tiles; ++k)
      copy_tile<kMaxDepth>(rows.z + source(first_packed_row + k), count, thread, target + k * kStride);
    PYKERNELS_UNROLL
    for (int k = 0; k < component_tiles; ++k) {
      const int64_t from = source(first_tile + component_tiles * group + k);
      copy_tile<kMaxDepth>(components.s + from, count, thread, target + (row_tiles + k) * kStride);
      copy_tile<kMaxDepth>(components.m + from, count, thread,
                           target + (row_tiles + component_tiles + k) * kStride);
    }
    async_commit();
  };

  int stage = 0;
  if (own_groups > 0) copy_stage(0, 0, stage);
  for (int group = 0; group < own_groups; ++group) {
    clear(square);
    if (long_sums) clear(total);
    const int tile = first_tile + component_tiles * group;
    const bool accurate = is_accurate(components, tile);
    for (int d = 0; d < dims; d += depth) {
      const bool last_of_group = d + depth >= dims;
      if (!last_of_group || group + 1 < own_groups) {
        copy_stage(last_of_group ? group + 1 : group, last_of_group ? 0 : d + depth, 1 - stage);
        async_wait<1>();
      } else {
        async_wait<0>();
      }
      __syncthreads();
      const int count = dims - d < depth ? dims - d : depth;
      const T* here = stages + stage * kStage;
      const T *zs = here + down, *ss = here + row_tiles * kStride + across,
              *ms = ss + component_tiles * kStride;
      if (accurate)
        add_squares<true, kStride>(zs, ss, ms, count, square);
      else
        add_squares<false, kStride>(zs, ss, ms, count, square);
      if (long_sums && ((d + depth) % kSummedDims == 0 || last_of_group)) move(square, total);
      __syncthreads();  // before this stage is overwritten
      stage = 1 - stage;
    }
    T constant[kOthers];
    load_parts<kSide<T>>(components.constant + static_cast<int64_t>(tile) * kSide<T> + across, constant);
    const int64_t first_row = static_cast<int64_t>(first_row_tile) * kSide<T>,
                  first_component = component_tiles * (first_group + group) * kSide<T>;
    Square<T, kRows, kOthers>& whole = long_sums ? total : square;
    const int ahead = ahead_of(first_component, first_row);
    if (meets_band(problem, ahead, row_tiles * kSide<T>, component_tiles * kSide<T>))
      add_offsets({problem, ahead + across - down}, whole);
    add_exponentials(whole, constant, sum);
  }

  PYKERNELS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    for (int step = 8; step > 0; step /= 2)
      sum[r] = merge(sum[r], {__shfl_xor_sync(kWholeWarp, sum[r].top, step),
                              __shfl_xor_sync(kWholeWarp, sum[r].mass, step)});
    const int64_t row = static_cast<int64_t>(first_row_tile + r / kLane) * kSide<T> + down + r % kLane;
    if (thread % 16 != 0 || row >= rows.count) continue;
    if (out.part)
      out.part[(element * splits + split) * rows.count + row] = sum[r];
    else
      write_density(out, (first_element + element) * rows.count + row, sum[r]);
  }
}

}  // namespace pykernels
