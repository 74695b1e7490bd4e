// Memory of a tensor as the kernels see it: a pointer and strides in elements. A stride of 0 is a broadcast
// dimension; in an output it means "sum over this dimension".
#pragma once

#include <cstdint>

#include "core/inline.h"

namespace pykernels {

enum class Dtype : int { float32 = 0, float64 = 1 };

constexpr int kMaxBatchDims = 8;

struct StridedTensor {
  void* data;                          // null: absent, or not asked for
  int64_t strides[kMaxBatchDims + 2];  // batch dimensions first
};

struct BatchShape {
  int ndim;
  int64_t sizes[kMaxBatchDims];
};

PYKERNELS_INLINE int64_t batch_count(const BatchShape& batch) {
  int64_t count = 1;
  for (int dim = 0; dim < batch.ndim; ++dim) count *= batch.sizes[dim];
  return count;
}

// Elements between a tensor's start and its part that belongs to batch element `index` (row-major). On a GPU
// an index of 32 bits divides much faster.
template <class Index>
PYKERNELS_INLINE int64_t batch_offset(const BatchShape& batch, const StridedTensor& tensor, Index index) {
  int64_t offset = 0;
  for (int dim = batch.ndim - 1; dim >= 0; --dim) {
    const Index size = static_cast<Index>(batch.sizes[dim]);
    offset += static_cast<int64_t>(index % size) * tensor.strides[dim];
    index /= size;
  }
  return offset;
}

// Whether several batch elements share one part of the tensor.
PYKERNELS_INLINE bool batch_is_shared(const BatchShape& batch, const StridedTensor& tensor) {
  for (int dim = 0; dim < batch.ndim; ++dim)
    if (batch.sizes[dim] > 1 && tensor.strides[dim] == 0) return true;
  return false;
}

// Whether an earlier batch element than `index` has the same part of the tensor.
template <class Index>
PYKERNELS_INLINE bool seen_before(const BatchShape& batch, const StridedTensor& tensor, Index index) {
  for (int dim = batch.ndim - 1; dim >= 0; --dim) {
    const Index size = static_cast<Index>(batch.sizes[dim]);
    if (tensor.strides[dim] == 0 && index % size != 0) return true;
    index /= size;
  }
  return false;
}

}  // namespace pykernels
