// Where the gradients of components go: straight to the output where one task alone writes an element, else
// through partial results that are summed in the order of the tasks.
#pragma once

#include "mixture/cpu_pack.h"

namespace pykernels {
namespace {

template <class T> struct Sink {
  T* out;  // null: not asked for
  int64_t stride_i, stride_d;
  int64_t components, dims;  // of the output: 1 where it is summed over them
  bool add;                  // to what an earlier batch element left
  T* partial;                // [row_blocks][components][dims], where row blocks share an element
  double* total;             // [tasks][dims], where components share an element
};

// `dims` is 1 for log-weights.
template <class T>
Sink<T> take_sink(Arena& arena, const MixturePlan& plan, const BatchShape& batch, const StridedTensor& tensor,
                  int64_t index, int64_t components, int64_t dims) {
  Sink<T> sink{};
  if (!tensor.data) return sink;
  sink.out = static_cast<T*>(tensor.data) + batch_offset(batch, tensor, index);
  sink.stride_i = tensor.strides[batch.ndim];
  sink.stride_d = dims > 1 ? tensor.strides[batch.ndim + 1] : 0;
  sink.components = sink.stride_i == 0 ? 1 : components;
  sink.dims = sink.stride_d == 0 ? 1 : dims;
  sink.add = seen_before(batch, tensor, index);
  if (sink.components < components) {
    sink.total = take<double>(arena, plan.splits * plan.row_blocks * sink.dims);
  } else if (plan.row_blocks > 1) {
    sink.partial = take<T>(arena, plan.row_blocks * components * sink.dims);
  }
  return sink;
}

template <class T> void open_sink(Sink<T>& sink, int64_t task) {
  for (int64_t d = 0; sink.total && d < sink.dims; ++d) sink.total[task * sink.dims + d] = 0;
}

// Takes the gradients of one chunk, [vectors][dims][lanes].
template <class T>
void put(const Sink<T>& sink, const MixturePlan& plan, const Components<T>& components, const Chunk<T>& chunk,
         const T* gradient, int64_t dims, int64_t task) {
  if (!sink.out) return;
  T* out = sink.partial ? sink.partial + task / plan.splits * sink.components * sink.dims : sink.out;
  const int64_t stride_i = sink.partial ? sink.dims : sink.stride_i;
  const int64_t stride_d = sink.partial ? (sink.dims > 1) : sink.stride_d;
  const bool add = sink.add && !sink.partial;
  const bool plain =
      !sink.total && sink.dims == dims && stride_d == 1 && !add && !components.log_weights.present();
  const int64_t quads = plain && dims >= 4 && kLanes<T> >= 4 ? chunk.count / 4 * 4 : 0;
  for (int64_t j = 0; j < quads; j += 4) {
    const T* lane = gradient + j / kLanes<T> * dims * kLanes<T> + j % kLanes<T>;
    for (int64_t block = 0; block < dims; block += 4) {  // the last block may overlap the one before
      const int64_t d = at_most(block, dims - 4);
      const T* const from = lane + d * kLanes<T>;
      T* const to = out + (chunk.first + j) * stride_i + d;
      transpose4<T>({from, from + kLanes<T>, from + 2 * kLanes<T>, from + 3 * kLanes<T>},
                    {to, to + stride_i, to + 2 * stride_i, to + 3 * stride_i});
    }
  }
  for (int64_t j = quads; j < chunk.count; ++j) {
    const int64_t i = chunk.first + j;
    const T* lane = gradient + j / kLanes<T> * dims * kLanes<T> + j % kLanes<T>;
    // An absent component has no gradient, not even a NaN row's.
    const bool silent = absent(components, i);
    if (sink.total) {
      for (int64_t d = 0; d < dims && !silent; ++d)
        sink.total[task * sink.dims + (sink.dims > 1 ? d : 0)] += static_cast<double>(lane[d * kLanes<T>]);
    } else if (sink.dims < dims) {
      double sum = 0;
      for (int64_t d = 0; d < dims && !silent; ++d) sum += static_cast<double>(lane[d * kLanes<T>]);
      out[i * stride_i] = static_cast<T>(sum) + (add ? out[i * stride_i] : T(0));
    } else {
      for (int64_t d = 0; d < dims; ++d) {
        T& element = out[i * stride_i + d * stride_d];
        element = (silent ? T(0) : lane[d * kLanes<T>]) + (add ? element : T(0));
      }
    }
  }
}

// Sums partial results; called once for each of `pieces` pieces, after all tasks.
template <class T>
void close_sink(const Sink<T>& sink, const MixturePlan& plan, int64_t piece, int64_t pieces) {
  if (!sink.partial && !sink.total) return;
  const int64_t copies = sink.total ? plan.splits * plan.row_blocks : plan.row_blocks;
  const int64_t stride = sink.components * sink.dims;
  for (int64_t i = piece * sink.components / pieces; i < (piece + 1) * sink.components / pieces; ++i) {
    for (int64_t d = 0; d < sink.dims; ++d) {
      double sum = 0;
      for (int64_t copy = 0; copy < copies; ++copy) {
        const int64_t o = copy * stride + i * sink.dims + d;
        sum += sink.total ? sink.total[o] : static_cast<double>(sink.partial[o]);
      }
      T& element = sink.out[i * sink.stride_i + d * sink.stride_d];
      element = static_cast<T>(sum) + (sink.add ? element : T(0));
    }
  }
}

}  // namespace
}  // namespace pykernels
