// The gradient of value where statistics of the responsibilities have one. What a pair then weighs in it
// depends on the whole density, which the forward pass does not know before its end: so here is a pass of its
// own, the mirror image of joint_component_tiles.
#pragma once

#include "mixture/cuda_tile_gradients.h"

namespace pykernels {

// Own rows, splits of the tiles of components; sums, [elements, splits, rows, dims], of weight s t.
template <class T>
__global__ void __launch_bounds__(kTileThreads, 2) statistics_row_tiles(
    PYKERNELS_PARAMETER PackedComponents<T> components, PYKERNELS_PARAMETER PackedRows<T> rows, T* sums,
    int dims, int64_t tiles_per_split) {
  constexpr int kLane = Quad<T>::kCount, kS = kSide<T>;
  PYKERNELS_SHARED(T, shared);
  GradientTiles<T> tiles = cut(shared);
  const int thread = static_cast<int>(threadIdx.x), across = thread % 16 * kLane, down = thread / 16 * kLane;
  const int64_t element = blockIdx.z, own_tile = blockIdx.x, split = blockIdx.y, splits = gridDim.y;
  const int64_t tile_size = static_cast<int64_t>(dims) * kS, first_row = own_tile * kS;
  const int64_t row_tile = element * rows.tiles + own_tile;
  const T* z = rows.z + row_tile * tile_size;
  const TileRows<T> of_rows = tile_rows<true>(rows, row_tile * kS + down);
  const int64_t begin = split * tiles_per_split;
  const int64_t end = begin + tiles_per_split < components.used ? begin + tiles_per_split : components.used;
  T* out = sums + (element * splits + split) * rows.count * dims;

  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t packed = element * components.tiles + tile;
    const T *s = components.s + packed * tile_size, *m = components.m + packed * tile_size;
    const bool accurate = is_accurate(components, packed);
    Square<T, kLane, kLane> square;
    pair_squares(z, s, m, accurate, dims, down, across, thread, tiles, square);
    T constant[kLane];
    load_aligned(components.constant + packed * kS + across, constant);
    bool reached = false;
    PYKERNELS_UNROLL
    for (int i = 0; i < kLane; ++i) {
      T weight[kLane];
      PYKERNELS_UNROLL
      for (int r = 0; r < kLane; ++r) {
        weight[r] = pair_weight<true>(of_rows, r, square.sum[r][i] + constant[i]);
        reached |= weight[r] != 0;
      }
      store_aligned(weight, tiles.weights + weights_at<T>(across + i, down));
    }
    if (!__syncthreads_or(reached || tile == begin)) continue;
    for (int d = 0; d < dims; d += kChunk) {
      const int own_d = thread / 16 * kOwnDims;
      T slope[kLane][kOwnDims] = {};
      const int count = chunk_slopes(z, s, m, accurate, dims, d, own_d, across, thread, tiles, slope);
      const int64_t row = first_row + across;
      add_to_memory<T>(slope, tile == begin, nullptr,
                       {out + row * dims + d + own_d, dims, 1, rows.count - row, count - own_d});
      __syncthreads();  // before the next chunk, and the next weights
    }
  }
}

}  // namespace pykernels
