// Gradients for many dimensions, and for any where there are statistics: a tile of one side (the block's own)
// against the tiles of the other, one after another: first the pairs' log-densities, as in cuda_tile.h; then
// their weights, which go to shared memory; then the sums over the other side, a part of the dimensions at a
// time. These sums stand in global memory, where a thread finds its own again. Tiles whose weights are all 0,
// as most are where the components are narrow, end after the first step.
#pragma once

#include "mixture/cuda_tile.h"

namespace pykernels {

constexpr int kChunk = 32;   // dimensions in shared memory at a time
constexpr int kOwnDims = 2;  // of them in a thread's hands

template <class T> struct GradientTiles {
  T *z, *s, *m;  // [kChunk][kSide]
  T* weights;    // [other kSide][own kSide], see weights_at
  T* factor;     // [own kSide]
};

template <class T> constexpr int kGradientTileSize = 3 * kChunk * kSide<T> + kSide<T> * kSide<T> + kSide<T>;

template <class T> PYKERNELS_DEVICE GradientTiles<T> cut(T* shared) {
  constexpr int kPart = kChunk * kSide<T>;
  return {shared, shared + kPart, shared + 2 * kPart, shared + 3 * kPart,
          shared + 3 * kPart + kSide<T> * kSide<T>};
}

// Where a quad of weights stands: quad q of line k at q ^ (k / kLane). A warp writes to lines kLane apart,
// all at the same quad or its neighbour. In plain order lines differ by kLane kSide numbers, 1024 bytes, so
// each 8 lanes, whose 16 bytes go at once, would meet the same 4 of 32 banks, one after the other. With k /
// kLane being 0 to 7, or 8 to 15, q ^ (k / kLane) is a different quad modulo 8 for each of the eight: 8 x 4
// banks. A reading warp takes 16 quads of one line, and thus all of its banks twice, in any order.
template <class T> PYKERNELS_DEVICE int weights_at(int line, int column) {
  constexpr int kLane = Quad<T>::kCount;
  return line * kSide<T> + ((column / kLane) ^ (line / kLane)) * kLane;
}

// A part of the dimensions of one tile of rows and one of components.
template <class T>
PYKERNELS_DEVICE int load_chunk(const T* z, const T* s, const T* m, int dims, int d, int thread,
                                GradientTiles<T>& tiles) {
  const int count = dims - d < kChunk ? dims - d : kChunk;
  copy_tile<kChunk>(z + d * kSide<T>, count, thread, tiles.z);
  copy_tile<kChunk>(s + d * kSide<T>, count, thread, tiles.s);
  copy_tile<kChunk>(m + d * kSide<T>, count, thread, tiles.m);
  async_commit();
  async_wait<0>();
  __syncthreads();
  return count;
}

// square[row][component] = -sum t^2 over all dimensions. `row` and `component` are the thread's first ones.
template <class T>
PYKERNELS_DEVICE void pair_squares(const T* z, const T* s, const T* m, bool accurate, int dims, int row,
                                   int component, int thread, GradientTiles<T>& tiles,
                                   Square<T, Quad<T>::kCount, Quad<T>::kCount>& total) {
  Square<T, Quad<T>::kCount, Quad<T>::kCount> square;
  clear(total);
  clear(square);
  for (int d = 0; d < dims; d += kChunk) {
    const int count = load_chunk(z, s, m, dims, d, thread, tiles);
    if (accurate)
      add_squares<true, 0>(tiles.z + row, tiles.s + component, tiles.m + component, count, square);
    else
      add_squares<false, 0>(tiles.z + row, tiles.s + component, tiles.m + component, count, square);
    if ((d + kChunk) % kSummedDims == 0 || d + kChunk >= dims) move(square, total);
    __syncthreads();  // before the next chunk overwrites this one
  }
}

// Sums over the other side's kSide members for kLane own ones (from `across` on) in kOwnDims dimensions (from
// `own_d` on). Where a weight is 0, t may be infinite.
template <bool accurate, class T>
PYKERNELS_DEVICE void add_slopes(const GradientTiles<T>& tiles, int own_d, int across,
                                 T (&slope)[Quad<T>::kCount][kOwnDims]) {
  constexpr int kLane = Quad<T>::kCount, kS = kSide<T>;
  T z[kOwnDims][kLane];
  PYKERNELS_UNROLL
  for (int k = 0; k < kOwnDims; ++k) load_aligned(tiles.z + (own_d + k) * kS + across, z[k]);
  for (int first = 0; first < kS; first += kLane) {
    const T* weights =
        tiles.weights + weights_at<T>(first, across);  // and of the kLane - 1 lines that follow
    T s[kOwnDims][kLane], m[kOwnDims][kLane];
    PYKERNELS_UNROLL
    for (int k = 0; k < kOwnDims; ++k) {
      load_aligned(tiles.s + (own_d + k) * kS + first, s[k]);
      load_aligned(tiles.m + (own_d + k) * kS + first, m[k]);
    }
    PYKERNELS_UNROLL
    for (int i = 0; i < kLane; ++i) {
      T weight[kLane];
      load_aligned(weights + i * kS, weight);
      PYKERNELS_UNROLL
      for (int r = 0; r < kLane; ++r) {
        if (weight[r] == 0) continue;
        PYKERNELS_UNROLL
        for (int k = 0; k < kOwnDims; ++k)
          slope[r][k] =
              fma(weight[r] * s[k][i], standardized<accurate>(z[k][r], s[k][i], m[k][i]), slope[r][k]);
      }
    }
  }
}

// The same in whichever form, after the part of the dimensions from `d` on was read; returns how many these
// are.
template <class T>
PYKERNELS_DEVICE int chunk_slopes(const T* z, const T* s, const T* m, bool accurate, int dims, int d,
                                  int own_d, int across, int thread, GradientTiles<T>& tiles,
                                  T (&slope)[Quad<T>::kCount][kOwnDims]) {
  const int count = load_chunk(z, s, m, dims, d, thread, tiles);
  if (own_d >= count) return count;
  if (accurate)
    add_slopes<true>(tiles, own_d, across, slope);
  else
    add_slopes<false>(tiles, own_d, across, slope);
  return count;
}

template <bool accurate, class T>
PYKERNELS_DEVICE void add_moments(const GradientTiles<T>& tiles, int own_d, int across,
                                  T (&first_sum)[Quad<T>::kCount][kOwnDims],
                                  T (&second_sum)[Quad<T>::kCount][kOwnDims]) {
  constexpr int kLane = Quad<T>::kCount, kS = kSide<T>;
  T s[kOwnDims][kLane], m[kOwnDims][kLane];
  PYKERNELS_UNROLL
  for (int k = 0; k < kOwnDims; ++k) {
    load_aligned(tiles.s + (own_d + k) * kS + across, s[k]);
    load_aligned(tiles.m + (own_d + k) * kS + across, m[k]);
  }
  for (int first = 0; first < kS; first += kLane) {
    const T* weights = tiles.weights + weights_at<T>(first, across);
    T z[kOwnDims][kLane];
    PYKERNELS_UNROLL
    for (int k = 0; k < kOwnDims; ++k) load_aligned(tiles.z + (own_d + k) * kS + first, z[k]);
    PYKERNELS_UNROLL
    for (int r = 0; r < kLane; ++r) {
      T share[kLane];
      load_aligned(weights + r * kS, share);
      PYKERNELS_UNROLL
      for (int i = 0; i < kLane; ++i) {
        if (share[i] == 0) continue;
        PYKERNELS_UNROLL
        for (int k = 0; k < kOwnDims; ++k) {
          const T t = standardized<accurate>(z[k][r], s[k][i], m[k][i]), part = share[i] * t;
          first_sum[i][k] += part;
          second_sum[i][k] = fma(part, t, second_sum[i][k]);
        }
      }
    }
  }
}

// Of a thread's sums: where those of its first member stand in its first dimension, what lies between members
// and between dimensions, and how many of both there are.
template <class T> struct SumPlace {
  T* first;
  int64_t member_stride, dim_stride;
  int64_t members;
  int dims;
};

// Adds a tile's sums to what earlier tiles left, times `factor`, a number for each member; null: 1.
// Everything is read before anything is written, for the compiler, which cannot tell that apart, would wait
// each time.
template <class T>
PYKERNELS_DEVICE void add_to_memory(const T (&sum)[Quad<T>::kCount][kOwnDims], bool first_tile,
                                    const T* factor, const SumPlace<T>& place) {
  constexpr int kLane = Quad<T>::kCount;
  const auto at = [&](int i, int k) { return place.first + i * place.member_stride + k * place.dim_stride; };
  T before[kLane][kOwnDims];
  PYKERNELS_UNROLL
  for (int i = 0; i < kLane; ++i) {
    PYKERNELS_UNROLL
    for (int k = 0; k < kOwnDims; ++k)
      before[i][k] = !first_tile && i < place.members && k < place.dims ? *at(i, k) : 0;
  }
  PYKERNELS_UNROLL
  for (int i = 0; i < kLane; ++i) {
    PYKERNELS_UNROLL
    for (int k = 0; k < kOwnDims; ++k)
      if (i < place.members && k < place.dims)
        *at(i, k) = fma(factor ? factor[i] : 1, before[i][k], sum[i][k]);
  }
}

// Own rows: the density and its gradient in one pass.
template <class T>
__global__ void __launch_bounds__(kTileThreads, 2) forward_joint_slopes(
    PYKERNELS_PARAMETER MixtureProblem problem, PYKERNELS_PARAMETER PackedComponents<T> components,
    PYKERNELS_PARAMETER PackedRows<T> rows, PYKERNELS_PARAMETER DensityOutput<T> out, int dims,
    int64_t tiles_per_split) {
  constexpr int kLane = Quad<T>::kCount, kS = kSide<T>;
  PYKERNELS_SHARED(T, shared);
  GradientTiles<T> tiles = cut(shared);
  const int thread = static_cast<int>(threadIdx.x), across = thread % 16 * kLane, down = thread / 16 * kLane;
  const int64_t element = blockIdx.z, row_tile = blockIdx.x, split = blockIdx.y, splits = gridDim.y;
  const int64_t tile_size = static_cast<int64_t>(dims) * kS, first_row = row_tile * kS;
  const T* z = rows.z + (element * rows.tiles + row_tile) * tile_size;
  const int64_t begin = split * tiles_per_split;
  const int64_t end = begin + tiles_per_split < components.used ? begin + tiles_per_split : components.used;
  const int64_t part = (element * splits + split) * rows.count;

  ExpSum<T> sum[kLane];  // of rows first_row + down + r, the same in all 16 threads that share them
  PYKERNELS_UNROLL
  for (int r = 0; r < kLane; ++r) sum[r] = empty_sum<T>();
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t packed = element * components.tiles + tile;
    const T *s = components.s + packed * tile_size, *m = components.m + packed * tile_size;
    const bool accurate = is_accurate(components, packed);
    Square<T, kLane, kLane> square;
    pair_squares(z, s, m, accurate, dims, down, across, thread, tiles, square);
    const int ahead = ahead_of(tile * kS, first_row);
    if (meets_band(problem, ahead, kS, kS)) add_offsets({problem, ahead + across - down}, square);

    T constant[kLane];
    load_aligned(components.constant + packed * kS + across, constant);
    bool reached = false;
    T weight[kLane][kLane];
    PYKERNELS_UNROLL
    for (int r = 0; r < kLane; ++r) {
      T top = sum[r].top, mass = 0;
      PYKERNELS_UNROLL
      for (int i = 0; i < kLane; ++i) {
        square.sum[r][i] += constant[i];
        top = fmax(top, square.sum[r][i]);
      }
      for (int step = 8; step > 0; step /= 2) top = fmax(top, __shfl_xor_sync(kWholeWarp, top, step));
      PYKERNELS_UNROLL
      for (int i = 0; i < kLane; ++i) {
        weight[i][r] = fast_exp2(square.sum[r][i] - top);
        reached |= weight[i][r] != 0;
        mass += weight[i][r];
      }
      for (int step = 8; step > 0; step /= 2) mass += __shfl_xor_sync(kWholeWarp, mass, step);
      const T factor = fast_exp2(sum[r].top - top);
      if (thread % 16 == 0) tiles.factor[down + r] = factor;
      sum[r] = {top, fma(sum[r].mass, factor, mass)};
    }
    PYKERNELS_UNROLL
    for (int i = 0; i < kLane; ++i) store_aligned(weight[i], tiles.weights + weights_at<T>(across + i, down));
    // The first tile has to lay the ground, whatever its weights.
    if (!__syncthreads_or(reached || tile == begin)) continue;
    for (int d = 0; d < dims; d += kChunk) {
      const int own_d = thread / 16 * kOwnDims;
      T slope[kLane][kOwnDims] = {};
      const int count = chunk_slopes(z, s, m, accurate, dims, d, own_d, across, thread, tiles, slope);
      const int64_t row = first_row + across;
      add_to_memory(
          slope, tile == begin, tiles.factor + across,
          {out.part_slope + (part + row) * dims + d + own_d, dims, 1, rows.count - row, count - own_d});
      __syncthreads();  // before the next chunk, and the next weights
    }
  }
  PYKERNELS_UNROLL
  for (int r = 0; r < kLane; ++r)
    if (thread % 16 == 0 && first_row + down + r < rows.count) out.part[part + first_row + down + r] = sum[r];
}

// What the rows of a thread bring to the weights of their pairs; the latter two where there are statistics.
template <class T> struct TileRows {
  T minus_log2[Quad<T>::kCount], gradient[Quad<T>::kCount];
  T of_log[Quad<T>::kCount], of_share[Quad<T>::kCount];
};

template <bool statistics, class T>
PYKERNELS_DEVICE TileRows<T> tile_rows(const PackedRows<T>& rows, int64_t first) {
  TileRows<T> own;
  load_aligned(rows.minus_log2 + first, own.minus_log2);
  load_aligned(rows.gradient + first, own.gradient);
  if (statistics) {
    load_aligned(rows.of_log + first, own.of_log);
    load_aligned(rows.of_share + first, own.of_share);
  }
  return own;
}

// What a pair of row r weighs in the gradients.
template <bool statistics, class T>
PYKERNELS_DEVICE T pair_weight(const TileRows<T>& rows, int r, T pair_log2) {
  const T log2 = pair_log2 + rows.minus_log2[r], share = fast_exp2(log2);
  if (!statistics) return rows.gradient[r] * share;
  const T finite = fmax(log2, kLeastLog2<T>);
  return share * fma(rows.of_log[r], finite, fma(rows.of_share[r], share, rows.gradient[r]));
}

// Own components: the sums of cuda_components.h.
template <class T, bool statistics>
__global__ void __launch_bounds__(kTileThreads, 2) joint_component_tiles(
    PYKERNELS_PARAMETER MixtureProblem problem, PYKERNELS_PARAMETER PackedComponents<T> components,
    PYKERNELS_PARAMETER PackedRows<T> rows, T* sums, int dims, int64_t tiles_per_split) {
  constexpr int kLane = Quad<T>::kCount, kS = kSide<T>;
  PYKERNELS_SHARED(T, shared);
  GradientTiles<T> tiles = cut(shared);
  const int thread = static_cast<int>(threadIdx.x), across = thread % 16 * kLane, down = thread / 16 * kLane;
  const int64_t element = blockIdx.z, own_tile = blockIdx.x, split = blockIdx.y, splits = gridDim.y;
  const int64_t tile_size = static_cast<int64_t>(dims) * kS, first_component = own_tile * kS;
  const int64_t packed = element * components.tiles + own_tile;
  const T *s = components.s + packed * tile_size, *m = components.m + packed * tile_size;
  const bool accurate = is_accurate(components, packed);
  const int64_t begin = split * tiles_per_split;
  const int64_t end = begin + tiles_per_split < rows.used ? begin + tiles_per_split : rows.used;
  T* out = sums + (element * splits + split) * (2 * dims + 1) * components.count;

  T constant[kLane], mass[kLane];
  load_aligned(components.constant + packed * kS + down, constant);
  PYKERNELS_UNROLL
  for (int i = 0; i < kLane; ++i) mass[i] = 0;
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t row_tile = element * rows.tiles + tile;
    const T* z = rows.z + row_tile * tile_size;
    Square<T, kLane, kLane> square;
    pair_squares(z, s, m, accurate, dims, across, down, thread, tiles, square);
    const int ahead = ahead_of(first_component, tile * kS);
    if (meets_band(problem, ahead, kS, kS)) add_offsets({problem, ahead + down - across}, square);

    const TileRows<T> of_rows = tile_rows<statistics>(rows, row_tile * kS + across);
    bool reached = false;
    T tile_mass[kLane] =
        {};  // summed by itself first, as all sums of a tile: rounding errors grow with the terms
    PYKERNELS_UNROLL
    for (int r = 0; r < kLane; ++r) {
      T share[kLane];
      PYKERNELS_UNROLL
      for (int i = 0; i < kLane; ++i) {
        share[i] = pair_weight<statistics>(of_rows, r, square.sum[r][i] + constant[i]);
        reached |= share[i] != 0;
        tile_mass[i] += share[i];
      }
      store_aligned(share, tiles.weights + weights_at<T>(across + r, down));
    }
    PYKERNELS_UNROLL
    for (int i = 0; i < kLane; ++i) mass[i] += tile_mass[i];
    if (!__syncthreads_or(reached || tile == begin)) continue;
    for (int d = 0; d < dims; d += kChunk) {
      const int count = load_chunk(z, s, m, dims, d, thread, tiles);
      const int own_d = thread / 16 * kOwnDims;
      T first[kLane][kOwnDims] = {}, second[kLane][kOwnDims] = {};
      if (own_d < count) {
        if (accurate)
          add_moments<true>(tiles, own_d, across, first, second);
        else
          add_moments<false>(tiles, own_d, across, first, second);
      }
      const int64_t component = first_component + across;
      SumPlace<T> place{out + (d + own_d) * components.count + component, 1, components.count,
                        components.count - component, count - own_d};
      add_to_memory<T>(first, tile == begin, nullptr, place);
      place.first += dims * components.count;
      add_to_memory<T>(second, tile == begin, nullptr, place);
      __syncthreads();  // before the next chunk, and the next weights
    }
  }
  PYKERNELS_UNROLL
  for (int i = 0; i < kLane; ++i) {
    for (int step = 8; step > 0; step /= 2) mass[i] += __shfl_xor_sync(kWholeWarp, mass[i], step);
    const int64_t component = first_component + down + i;
    if (thread % 16 == 0 && component < components.count)
      out[2 * dims * components.count + component] = mass[i];
  }
}

}  // namespace pykernels
