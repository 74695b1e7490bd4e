// For many dimensions the kernels work like a matrix product, on tiles that are copied as they stand. So rows
// and components are first laid out in tiles of kSide, dimension by dimension: [tile][dim][kSide].
#pragma once

#include "mixture/cuda_components.h"

namespace pykernels {

constexpr int kTileThreads = 256;
template <class T> constexpr int kSide = 256 / sizeof(T);

// Both kinds of tiles come in pairs, filled up with components of weight 0 and rows at 0 that nobody asks
// for; where single tiles are worked on, those that are nothing but filling are left out.
template <class T> struct PackedComponents {
  T *s, *m;  // [elements][tiles][dims][kSide]; m is m s where the pair of tiles has no need of the accurate
             // form
  T* constant;                 // [elements][tiles][kSide]
  int* accurate;               // [elements][tiles], by pairs
  int64_t tiles, used, count;  // used: that hold anything
};

template <class T> PYKERNELS_DEVICE bool is_accurate(const PackedComponents<T>& components, int64_t tile) {
  return kAlwaysAccurate<T> || components.accurate[tile] != 0;
}

template <class T> struct PackedRows {
  T* z;                      // [elements][tiles][dims][kSide]
  T *minus_log2, *gradient;  // [elements][tiles][kSide]; null: in the forward pass
  T *of_log, *of_share;      // what a pair's log2 r, and its r, add to that gradient; null: no statistics
  int64_t tiles, used, count;
};

// A pair of tiles.
template <class T>
PYKERNELS_DEVICE void pack_components(const Components<T>& components, const PackedComponents<T>& packed,
                                      int64_t local_element, int64_t pair, int thread,
                                      LogProduct<T>* partial) {
  constexpr int kPair = 2 * kSide<T>, kGroups = kTileThreads / kPair;
  const int lane = thread % kPair, group = thread / kPair;
  const int64_t i = pair * kPair + lane, tile = local_element * packed.tiles + 2 * pair + lane / kSide<T>;
  const bool real = i < components.count;

  bool inaccurate = false;
  LogProduct<T> product;
  for (int d = group; real && d < components.dims; d += kGroups) {
    const Standard<T> component = standard_of(components, i, d);
    inaccurate |= needs_accurate_form(component);
    multiply(product, component.s);
  }
  partial[thread] = product;
  const bool accurate = __syncthreads_or(inaccurate);
  for (int d = group; d < components.dims; d += kGroups) {
    const Standard<T> component = real ? standard_of(components, i, d) : Standard<T>{1, 0};
    const int64_t at = (tile * components.dims + d) * kSide<T> + lane % kSide<T>;
    packed.s[at] = component.s;
    packed.m[at] = accurate ? component.m : component.m * component.s;
  }
  if (group != 0) return;
  for (int k = 1; k < kGroups; ++k) join(product, partial[k * kPair + lane]);
  const T log2 = real ? log2_weight(components, i) : -static_cast<T>(INFINITY);
  packed.constant[tile * kSide<T> + lane % kSide<T>] = log2_constant(log2, product, components.dims);
  if (lane % kSide<T> == 0) packed.accurate[tile] = accurate;
}

// What rows bring to the backward pass; null: in the forward pass, and where no statistics were asked for.
template <class T> struct RowGradients {
  const T *log2, *gradient;  // [*batch, rows]
  const T* statistics;       // [*batch, 2, rows]
};

// One tile.
template <class T>
PYKERNELS_DEVICE void pack_rows(const MixtureProblem& problem, const Matrix<const T>& value,
                                const RowGradients<T>& given, const PackedRows<T>& packed,
                                int64_t local_element, int64_t element, int64_t tile_of_element, int thread) {
  const int lane = thread % kSide<T>;
  const int64_t row = tile_of_element * kSide<T> + lane, whole = element * problem.rows + row;
  const int64_t tile = local_element * packed.tiles + tile_of_element;
  const bool real = row < problem.rows;
  RowTerms<T> terms{real, -Limits<T>::kLargest, 0};
  if (given.log2 && real) terms = row_terms(given.log2[whole], given.gradient[whole]);
  for (int64_t d = thread / kSide<T>; d < problem.dims; d += kTileThreads / kSide<T>)
    packed.z[(tile * problem.dims + d) * kSide<T> + lane] = terms.counts ? at(value, row, d) : 0;
  if (!given.log2 || thread >= kSide<T>) return;
  const int64_t at_row = tile * kSide<T> + lane;
  packed.minus_log2[at_row] = terms.minus_log2;
  packed.gradient[at_row] = terms.gradient;
  if (!given.statistics) return;
  const int64_t of_log = 2 * element * problem.rows + row, of_share = of_log + problem.rows;
  packed.of_log[at_row] = terms.counts ? static_cast<T>(kLn2) * given.statistics[of_log] : 0;
  packed.of_share[at_row] = terms.counts ? given.statistics[of_share] : 0;
}

// A block lays out a pair of tiles of components, or, those beyond, a tile of rows.
template <class T>
__global__ void __launch_bounds__(kTileThreads, 2) pack_tiles(
    PYKERNELS_PARAMETER MixtureProblem problem, PYKERNELS_PARAMETER PackedComponents<T> components,
    PYKERNELS_PARAMETER PackedRows<T> rows, PYKERNELS_PARAMETER RowGradients<T> given,
    uint32_t first_element) {
  PYKERNELS_SHARED(LogProduct<T>, partial);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t block = blockIdx.x, local_element = blockIdx.y, element = first_element + local_element;
  const int64_t pairs = components.tiles / 2;
  const Element<T> of = element_of<T>(problem, element);
  if (block < pairs)
    pack_components(of.components, components, local_element, block, thread, partial);
  else
    pack_rows(problem, of.value, given, rows, local_element, element, block - pairs, thread);
}

// For the marginals: s, m and the constant of each component and dimension, [elements][dim
// blocks][count][dims], the dimensions of a block being `dims`, zeros after the last.
template <class T> struct PackedMarginals {
  T *s, *m, *constant;
  int64_t count;  // filled up, so that tiles start at multiples of 16 bytes
  int dims, dim_blocks;
};

// A thread for each; the y of the grid counts blocks of dimensions and elements.
template <class T>
__global__ void __launch_bounds__(kTileThreads) pack_marginals(PYKERNELS_PARAMETER MixtureProblem problem,
                                                               PYKERNELS_PARAMETER PackedMarginals<T> packed,
                                                               uint32_t first_element) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kTileThreads + threadIdx.x;
  if (index >= packed.count * packed.dims) return;
  const Components<T> components =
      element_of<T>(problem, first_element + blockIdx.y / packed.dim_blocks).components;
  const int64_t i = index / packed.dims;
  const int d =
      static_cast<int>(blockIdx.y) % packed.dim_blocks * packed.dims + static_cast<int>(index % packed.dims);
  Standard<T> component{0, 0};
  T constant = 0;
  if (i < components.count && d < components.dims) {
    component = standard_of(components, i, d);
    LogProduct<T> product;
    multiply(product, component.s);
    constant = log2_constant(log2_weight(components, i), product, 1);
  }
  const int64_t at = blockIdx.y * packed.count * packed.dims + index;
  packed.s[at] = component.s;
  packed.m[at] = component.m;
  packed.constant[at] = constant;
}

// Starts copying `count` dimensions of a tile; 16 at a time, as many as the threads take with 16 bytes each.
template <int most, class T>
PYKERNELS_DEVICE void copy_tile(const T* source, int count, int thread, T* target) {
  constexpr int kPieces = 16, kStep = kTileThreads / kPieces;
  const int d = thread / kPieces, at = thread * Quad<T>::kCount;
  PYKERNELS_UNROLL
  for (int first = 0; first < most; first += kStep)
    if (first + d < count) async_copy16(target + first * kSide<T> + at, source + first * kSide<T> + at);
}

}  // namespace pykernels
