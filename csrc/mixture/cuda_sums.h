// The gradients of what was broadcast are sums, over batch elements, components or dimensions. Their terms
// are first laid down one by one; the kernels here add them up, in double precision and in a fixed order.
#pragma once

#include "mixture/cuda_common.h"

namespace pykernels {

constexpr int kSumThreads = 256;

template <class T> struct GradientOutput {
  StridedTensor tensor;  // data null: not asked for
  T* terms;      // [elements, dims, components], and of value [elements, rows, dims]; null: nothing is summed
  double* runs;  // sums of the terms' runs, see sum_runs; null: they are short
};

template <class T>
PYKERNELS_DEVICE void write_gradient(const GradientOutput<T>& out, const BatchShape& batch, uint32_t element,
                                     int64_t row, int64_t column, int64_t term, T gradient) {
  if (!out.tensor.data) return;
  if (out.terms) {
    out.terms[term] = gradient;
  } else {
    const Matrix<T> matrix = matrix_of<T>(batch, out.tensor, element);
    at(matrix, row, column) = gradient;
  }
}

// Batch elements that share one part of a tensor: the first of all, and how many come before one.
struct Sharing {
  uint32_t first, before;
};

PYKERNELS_DEVICE Sharing sharing_of(const BatchShape& batch, const StridedTensor& tensor, uint32_t element) {
  Sharing sharing{0, 0};
  uint32_t inner = 1, inner_shared = 1;
  for (int dim = batch.ndim - 1; dim >= 0; --dim) {
    const uint32_t size = static_cast<uint32_t>(batch.sizes[dim]), position = element % size;
    if (tensor.strides[dim] == 0) {
      sharing.before += position * inner_shared;
      inner_shared *= size;
    } else {
      sharing.first += position * inner;
    }
    inner *= size;
    element /= size;
  }
  return sharing;
}

constexpr int64_t kNoElement = INT64_MAX;

// The one with `before` of them before it; their order is that of the batch.
PYKERNELS_DEVICE int64_t shared_element(const BatchShape& batch, const StridedTensor& tensor, uint32_t first,
                                        uint32_t before) {
  int64_t element = first, inner = 1;
  for (int dim = batch.ndim - 1; dim >= 0; --dim) {
    const uint32_t size = static_cast<uint32_t>(batch.sizes[dim]);
    if (tensor.strides[dim] == 0) {
      element += before % size * inner;
      before /= size;
    }
    inner *= size;
  }
  return before == 0 ? element : kNoElement;
}

// Adds what `lanes` neighbouring outputs have in the threads of a block; it then is with the first of them.
template <int lanes> PYKERNELS_DEVICE double block_sum(double own, double* totals, int thread) {
  totals[thread] = own;
  for (int half = kSumThreads / 2; half >= lanes; half /= 2) {
    __syncthreads();
    if (thread < half) totals[thread] += totals[thread + half];
  }
  return totals[thread];
}

// Where the terms of a gradient lie, as T or as double, and where their sums go.
template <class In> struct Terms {
  const In* terms;
  int64_t per_element, per_output, outputs;  // between the terms of neighbours; and how many outputs
  uint32_t count;                            // of an output in one batch element
  int64_t stride;                            // between them
  StridedTensor tensor;
  int64_t width, slow, fast;  // output k stands at k / width * slow + k % width * fast
};

// A block for each batch element and `lanes` outputs. The first of the elements that share a gradient does
// the work of all that are at hand, and adds to what an earlier call may have left. 1 lane is for many terms
// that follow one another, 32 are for neighbours whose terms are neighbours.
template <class In, class T, int lanes>
__global__ void __launch_bounds__(kSumThreads) sum_terms(PYKERNELS_PARAMETER BatchShape batch,
                                                         PYKERNELS_PARAMETER Terms<In> in, int64_t elements,
                                                         uint32_t first_element) {
  constexpr int kWays = kSumThreads / lanes;
  PYKERNELS_SHARED(double, totals);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t output = static_cast<int64_t>(blockIdx.x) * lanes + thread % lanes;
  const uint32_t element = first_element + blockIdx.y;
  const Sharing sharing = sharing_of(batch, in.tensor, element);
  const bool alone = sharing.before == 0;  // as yet
  if (!alone && shared_element(batch, in.tensor, sharing.first, sharing.before - 1) >= first_element) return;

  double total = 0;
  for (uint32_t k = thread / lanes; output < in.outputs; k += kWays) {
    const uint32_t before = sharing.before + k / in.count;
    const int64_t other = shared_element(batch, in.tensor, sharing.first, before) - first_element;
    if (other >= elements) break;
    total += in.terms[other * in.per_element + output * in.per_output + k % in.count * in.stride];
  }
  total = block_sum<lanes>(total, totals, thread);
  if (thread >= lanes || output >= in.outputs) return;
  T* target = static_cast<T*>(in.tensor.data) + batch_offset(batch, in.tensor, element) +
              output / in.width * in.slow + output % in.width * in.fast;
  *target = static_cast<T>(alone ? total : *target + total);
}

constexpr int64_t kRun = 32 * kSumThreads;  // terms; of more than that, runs are summed first

// A block sums a run of a row of `length` terms.
template <class T>
__global__ void __launch_bounds__(kSumThreads) sum_runs(const T* terms, double* sums, int64_t length,
                                                        int64_t runs) {
  PYKERNELS_SHARED(double, totals);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t block = blockIdx.x, begin = block % runs * kRun;
  const T* row = terms + block / runs * length;
  double total = 0;
  for (int64_t k = begin + thread; k < begin + kRun && k < length; k += kSumThreads) total += row[k];
  total = block_sum<1>(total, totals, thread);
  if (thread == 0) sums[block] = total;
}

}  // namespace pykernels
