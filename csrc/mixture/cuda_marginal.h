// The marginal densities and their gradients. Each dimension of each row has a sum of its own, so
// exponentials outnumber everything else. A block takes up to kMaxDims neighbouring dimensions; a thread owns
// one of them, for some rows in the forward pass and for some components in the backward pass, and the other
// side passes by in shared memory.
#pragma once

#include "mixture/cuda_pack.h"

namespace pykernels {

constexpr int kMarginalThreads = 256;
constexpr int kMaxDims = 64;
template <class T> constexpr int kMarginalTile = 128 / sizeof(T);  // three arrays of it in 24 KB

// In a thread's hands.
template <class T> constexpr int kMarginalRows = sizeof(T) == 4 ? 8 : 2;
template <class T> constexpr int kMarginalComponents = sizeof(T) == 4 ? 8 : 4;

// Where a thread stands in its block, which takes `width` neighbouring dimensions, or what is left of them.
struct MarginalPlace {
  int column, dim;  // the thread's dimension, within the block's and of all
  int group, groups;
  bool idle;  // left over
};

PYKERNELS_DEVICE MarginalPlace marginal_place(int dims, int width, int dim_block, int thread) {
  MarginalPlace place;
  place.column = thread % width;
  place.dim = dim_block * width + place.column;
  place.group = thread / width;
  place.groups = kMarginalThreads / width;
  place.idle = place.group >= place.groups || place.dim >= dims;
  return place;
}

// Copies a tile of `count` components to three arrays of [kMarginalTile, dims].
template <class T>
PYKERNELS_DEVICE void load_marginal_tile(const PackedMarginals<T>& packed, int64_t block, int64_t first,
                                         int count, int thread, T* s, T* m, T* constant) {
  constexpr int kLane = Quad<T>::kCount;
  const int64_t source = (block * packed.count + first) * packed.dims;
  for (int k = thread * kLane; k < count * packed.dims; k += kMarginalThreads * kLane) {
    async_copy16(s + k, packed.s + source + k);
    async_copy16(m + k, packed.m + source + k);
    async_copy16(constant + k, packed.constant + source + k);
  }
  async_commit();
  async_wait<0>();
  __syncthreads();
}

template <int many, class T, int rows, bool slopes, class Offsets>
PYKERNELS_DEVICE void add_marginals(const T* s, const T* m, const T* constant, int stride, int first,
                                    const Offsets& offsets, const T (&z)[rows], ExpSum<T> (&sum)[rows],
                                    T (&slope)[rows]) {
  PYKERNELS_UNROLL
  for (int row = 0; row < rows; ++row) {
    T t[many], log2[many];
    PYKERNELS_UNROLL
    for (int i = 0; i < many; ++i) {
      t[i] = standardized<true>(z[row], s[i * stride], m[i * stride]);
      log2[i] = with_offset(fma(-t[i], t[i], constant[i * stride]), offsets, row, first + i);
    }
    T top = log2[0];
    PYKERNELS_UNROLL
    for (int i = 1; i < many; ++i) top = fmax(top, log2[i]);
    if (top > sum[row].top) {
      const T factor = fast_exp2(sum[row].top - top);
      sum[row] = {top, sum[row].mass * factor};
      if (slopes) slope[row] *= factor;
    }
    T mass = 0;  // summed by itself first: rounding errors grow with the terms
    PYKERNELS_UNROLL
    for (int i = 0; i < many; ++i) {
      const T weight = fast_exp2(log2[i] - sum[row].top);
      mass += weight;
      if (slopes && weight != 0) slope[row] = fma(weight * s[i * stride], t[i], slope[row]);
    }
    sum[row].mass += mass;
  }
}

template <int many, class T, int rows, bool slopes, class Offsets>
PYKERNELS_DEVICE void add_marginal_tile(const T* s, const T* m, const T* constant, int count, int column,
                                        int stride, const Offsets& offsets, const T (&z)[rows],
                                        ExpSum<T> (&sum)[rows], T (&slope)[rows]) {
  int k = column, left = count;
  PYKERNELS_UNROLL_BY(1)
  for (; many > 1 && left >= many; left -= many, k += many * stride)
    add_marginals<many, T, rows, slopes>(s + k, m + k, constant + k, stride, count - left, offsets, z, sum,
                                         slope);
  PYKERNELS_UNROLL_BY(1)
  for (; left > 0; --left, k += stride)
    add_marginals<1, T, rows, slopes>(s + k, m + k, constant + k, stride, count - left, offsets, z, sum,
                                      slope);
}

// The z of the grid counts blocks of dimensions, of each batch element.
template <class T, int rows, bool slopes>
__global__ void __launch_bounds__(kMarginalThreads) forward_marginal(
    PYKERNELS_PARAMETER MixtureProblem problem, PYKERNELS_PARAMETER PackedMarginals<T> packed,
    PYKERNELS_PARAMETER DensityOutput<T> out, int64_t tiles_per_split, uint32_t first_element) {
  constexpr int kSide = kMarginalTile<T>;
  PYKERNELS_SHARED(T, s);
  const int thread = static_cast<int>(threadIdx.x), dims = static_cast<int>(problem.dims);
  const int64_t row_block = blockIdx.x, split = blockIdx.y, splits = gridDim.y, block = blockIdx.z;
  const uint32_t local_element = blockIdx.z / packed.dim_blocks, element = first_element + local_element;
  const MarginalPlace place =
      marginal_place(dims, packed.dims, static_cast<int>(blockIdx.z % packed.dim_blocks), thread);
  T *m = s + kSide * packed.dims, *constant = m + kSide * packed.dims;
  const int64_t first_row = (row_block * place.groups + place.group) * rows;

  const Matrix<const T> value = element_of<T>(problem, element).value;
  T z[rows], slope[rows];
  ExpSum<T> sum[rows];
  PYKERNELS_UNROLL
  for (int r = 0; r < rows; ++r) {
    z[r] = !place.idle && first_row + r < problem.rows ? at(value, first_row + r, place.dim) : 0;
    sum[r] = empty_sum<T>();
    slope[r] = 0;
  }
  int64_t first = split * tiles_per_split * kSide;
  int64_t end = first + tiles_per_split * kSide;
  if (end > problem.components) end = problem.components;
  for (; first < end; first += kSide) {
    const int count = static_cast<int>(end - first < kSide ? end - first : kSide);
    load_marginal_tile(packed, block, first, count, thread, s, m, constant);
    const int block_rows = place.groups * rows, ahead = ahead_of(first, row_block * block_rows);
    if (meets_band(problem, ahead, block_rows, count)) {
      const BandOffsets<1> offsets{problem, ahead - place.group * rows};
      add_marginal_tile<1, T, rows, slopes>(s, m, constant, count, place.column, packed.dims, offsets, z, sum,
                                            slope);
    } else {
      add_marginal_tile<slopes ? 4 : 8, T, rows, slopes>(s, m, constant, count, place.column, packed.dims,
                                                         NoOffsets{}, z, sum, slope);
    }
    __syncthreads();  // before the next tile overwrites this one
  }

  PYKERNELS_UNROLL
  for (int r = 0; r < rows; ++r) {
    const int64_t row = first_row + r;
    if (place.idle || row >= problem.rows) continue;
    const int64_t part = ((local_element * splits + split) * problem.rows + row) * dims + place.dim;
    const int64_t whole = (element * problem.rows + row) * dims + place.dim;
    if (out.part) {
      out.part[part] = sum[r];
      if (slopes) out.part_slope[part] = slope[r];
    } else {
      write_density(out, whole, sum[r]);
      if (slopes) out.slope[whole] = value_slope(slope[r], sum[r].mass);
    }
  }
}

// Sums of one split of the rows: [elements, splits, 3, dims, components], as in cuda_components.h but for
// each dimension by itself, the mass included.
template <class T, int many>
__global__ void __launch_bounds__(kMarginalThreads) marginal_component_sums(
    PYKERNELS_PARAMETER MixtureProblem problem, PYKERNELS_PARAMETER PackedMarginals<T> packed,
    const T* marginal_log2, const T* grad_marginal, T* sums, int64_t tiles_per_split,
    uint32_t first_element) {
  constexpr int kSide = kMarginalTile<T>;
  PYKERNELS_SHARED(T, z);
  const int thread = static_cast<int>(threadIdx.x), dims = static_cast<int>(problem.dims),
            width = packed.dims;
  const int64_t component_block = blockIdx.x, split = blockIdx.y, splits = gridDim.y, block = blockIdx.z;
  const uint32_t local_element = blockIdx.z / packed.dim_blocks, element = first_element + local_element;
  const MarginalPlace place =
      marginal_place(dims, width, static_cast<int>(blockIdx.z % packed.dim_blocks), thread);
  T *minus_log2 = z + kSide * width, *gradient = minus_log2 + kSide * width;
  const int64_t first_component = (component_block * place.groups + place.group) * many;

  T s[many], m[many], constant[many], first_sum[many], second_sum[many], mass[many];
  PYKERNELS_UNROLL
  for (int k = 0; k < many; ++k) {
    const bool real = !place.idle && first_component + k < problem.components;
    const int64_t at = (block * packed.count + first_component + k) * width + place.column;
    s[k] = real ? packed.s[at] : 1;
    m[k] = real ? packed.m[at] : 0;
    constant[k] = real ? packed.constant[at] : -static_cast<T>(INFINITY);
    first_sum[k] = second_sum[k] = mass[k] = 0;
  }
  const Matrix<const T> value = element_of<T>(problem, element).value;
  int64_t first = split * tiles_per_split * kSide;
  int64_t end = first + tiles_per_split * kSide;
  if (end > problem.rows) end = problem.rows;
  for (; first < end; first += kSide) {
    const int count = static_cast<int>(end - first < kSide ? end - first : kSide);
    PYKERNELS_UNROLL_BY(1)
    for (int row = place.group; !place.idle && row < count; row += place.groups) {
      const int64_t index = (element * problem.rows + first + row) * dims + place.dim;
      const RowTerms<T> terms = row_terms(marginal_log2[index], grad_marginal[index]);
      const int at = row * width + place.column;
      z[at] = terms.counts ? pykernels::at(value, first + row, place.dim) : 0;
      minus_log2[at] = terms.minus_log2;
      gradient[at] = terms.gradient;
    }
    __syncthreads();
    const auto add_row = [&](int row, const auto& offsets) {
      const int at = row * width + place.column;
      PYKERNELS_UNROLL
      for (int k = 0; k < many; ++k) {
        const T t = standardized<true>(z[at], s[k], m[k]);
        const T log2 = with_offset(fma(-t, t, constant[k]), offsets, row, k);
        const T share = gradient[at] * fast_exp2(log2 + minus_log2[at]);
        if (share != 0) {  // elsewhere t may be infinite
          mass[k] += share;
          first_sum[k] = fma(share, t, first_sum[k]);
          second_sum[k] = fma(share * t, t, second_sum[k]);
        }
      }
    };
    const int block_components = place.groups * many,
              ahead = ahead_of(component_block * block_components, first);
    if (meets_band(problem, ahead, count, block_components)) {
      const BandOffsets<1> offsets{problem, ahead + place.group * many};
      PYKERNELS_UNROLL_BY(1)
      for (int row = 0; row < count; ++row) add_row(row, offsets);
    } else {
      PYKERNELS_UNROLL_BY(2)
      for (int row = 0; row < count; ++row) add_row(row, NoOffsets{});
    }
    __syncthreads();  // before the next tile overwrites this one
  }

  const int64_t plane = problem.components * dims;
  T* out = sums + (local_element * splits + split) * 3 * plane;
  PYKERNELS_UNROLL
  for (int k = 0; k < many; ++k) {
    const int64_t i = first_component + k;
    if (place.idle || i >= problem.components) continue;
    const int64_t at = place.dim * problem.components + i;
    out[at] = first_sum[k];
    out[plane + at] = second_sum[k];
    out[2 * plane + at] = mass[k];
  }
}

}  // namespace pykernels
