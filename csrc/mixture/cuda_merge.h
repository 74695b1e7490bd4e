// Where the densities go, and how they come together where several blocks share a row.
#pragma once

#include "mixture/cuda_common.h"

namespace pykernels {

// Of the joint density or of the marginals: the results themselves, or, if several blocks share a row, their
// parts for `merge_parts`. Sums are counted by rows, those of the marginals by rows and dimensions.
template <class T> struct DensityOutput {
  T *density, *log2;
  T* slope;         // d density / d value [*batch, rows, dims]; null: not asked for
  ExpSum<T>* part;  // [elements, splits, sums]; null: one split
  T* part_slope;    // [elements, splits, rows, dims]
};

template <class T>
PYKERNELS_DEVICE void write_density(const DensityOutput<T>& out, int64_t index, ExpSum<T> sum) {
  const T log2 = log2_of(sum);
  out.log2[index] = log2;
  out.density[index] = static_cast<T>(kLn2) * log2;
}

// d density / d value from sum_i 2^.. s t. A row that no component reaches has no gradient.
template <class T> PYKERNELS_DEVICE T value_slope(T slope, T mass) {
  return mass == 0 ? 0 : static_cast<T>(kValueGradient) * slope / mass;
}

// A sum of exponentials, and what shares its top.
template <class T> struct SlopedSum {
  ExpSum<T> sum;
  T slope;
};

template <class T> PYKERNELS_DEVICE void join(SlopedSum<T>& own, ExpSum<T> sum, T slope) {
  const T top = fmax(own.sum.top, sum.top);
  const T own_factor = fast_exp2(own.sum.top - top), factor = fast_exp2(sum.top - top);
  own.sum = {top, fma(own.sum.mass, own_factor, sum.mass * factor)};
  own.slope = fma(own.slope, own_factor, slope * factor);
}

// Threads that merge one output, each some of its parts: as many as give a thread four of them, up to 32, so
// that not even thousands of parts follow one another.
constexpr int kMostWays = 32;

static inline int merge_ways(int64_t parts) {
  int ways = 2;
  while (ways < kMostWays && 4 * ways < parts) ways *= 2;
  return ways;
}

constexpr int kMergeOutputs = 32;  // of a block: neighbours, so that a warp reads whole lines

template <class T> constexpr size_t merge_bytes(int ways) { return 3 * kMergeOutputs * ways * sizeof(T); }

// An output is a sum, or, if there are slopes, a slope, of which each sum has `width`: whoever merges one
// merges its sum with it, and the first of the slopes writes that. A thread takes the splits that its warp's
// number leads to, in order; then the first warp takes what the warps have, in order.
template <class T>
__global__ void __launch_bounds__(kMergeOutputs* kMostWays) merge_parts(
    PYKERNELS_PARAMETER DensityOutput<T> out, int64_t sums, int width, int splits, int64_t elements,
    uint32_t first_element) {
  constexpr int kAhead = sizeof(T) == 4 ? 4 : 1;  // parts that are read at once, then joined one by one
  PYKERNELS_SHARED(T, tops);
  const int thread = static_cast<int>(threadIdx.x), way = thread / kMergeOutputs,
            ways = static_cast<int>(blockDim.x) / kMergeOutputs;
  T *masses = tops + ways * kMergeOutputs, *slopes = masses + ways * kMergeOutputs;
  const int64_t local = static_cast<int64_t>(blockIdx.x) * kMergeOutputs + thread % kMergeOutputs;
  const int64_t outputs = sums * width;
  const bool real = local < elements * outputs;
  const int64_t element = real ? local / outputs : 0, output = real ? local % outputs : 0;
  const int64_t sum = output / width;
  SlopedSum<T> own{empty_sum<T>(), 0};
  PYKERNELS_UNROLL_BY(1)
  for (int64_t split = real ? way : splits; split < splits; split += kAhead * ways) {
    ExpSum<T> part[kAhead];
    T slope[kAhead];
    PYKERNELS_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      const int64_t at = element * splits + split + k * ways;
      const bool there = split + k * ways < splits;
      part[k] = there ? out.part[at * sums + sum] : empty_sum<T>();
      slope[k] = there && out.slope ? out.part_slope[at * outputs + output] : 0;
    }
    PYKERNELS_UNROLL
    for (int k = 0; k < kAhead; ++k) join(own, part[k], slope[k]);
  }
  tops[thread] = own.sum.top;
  masses[thread] = own.sum.mass;
  slopes[thread] = own.slope;
  __syncthreads();
  if (way != 0 || !real) return;
  for (int at = thread + kMergeOutputs; at < ways * kMergeOutputs; at += kMergeOutputs)
    join(own, {tops[at], masses[at]}, slopes[at]);
  if (output % width == 0) write_density(out, (first_element + element) * sums + sum, own.sum);
  if (out.slope) out.slope[first_element * outputs + local] = value_slope(own.slope, own.sum.mass);
}

}  // namespace pykernels
