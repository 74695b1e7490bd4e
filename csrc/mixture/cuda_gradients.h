// From the sums of cuda_components.h and cuda_marginal.h to the gradients of loc, scale and log-weights:
//
//   d/d loc = 2 ln2 s first,    d/d scale = (2 ln2 second - mass) / sigma,    d/d log_weights = mass,
//
// each in its input's own shape: where that was broadcast, the gradients are first laid down per component
// and dimension and then summed, in a fixed order.
#pragma once

#include "mixture/cuda_common.h"

namespace pykernels {

constexpr int kFinishThreads = 256;

template <class T> struct GradientOutput {
  StridedTensor tensor;  // data null: not asked for
  T* dense;              // [elements, dims, components], for what is to be summed; null: nothing is
};

template <class T> struct GradientSums {
  const T *joint, *marginal;  // null: no such gradient
  int joint_splits, marginal_splits;
};

template <class T>
PYKERNELS_DEVICE void write_gradient(const GradientOutput<T>& out, const BatchShape& batch, uint32_t element,
                                     int64_t i, int64_t d, int64_t dense_index, T gradient) {
  if (!out.tensor.data) return;
  if (out.dense) {
    out.dense[dense_index] = gradient;
  } else {
    const Matrix<T> matrix = matrix_of<T>(batch, out.tensor, element);
    at(matrix, i, d) = gradient;
  }
}

// A thread for each component and dimension.
template <class T>
__global__ void __launch_bounds__(kFinishThreads) finish_gradients(
    PYKERNELS_PARAMETER MixtureProblem problem, PYKERNELS_PARAMETER GradientSums<T> sums,
    PYKERNELS_PARAMETER GradientOutput<T> loc, PYKERNELS_PARAMETER GradientOutput<T> scale,
    PYKERNELS_PARAMETER GradientOutput<T> log_weights, int64_t elements, uint32_t first_element) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x;
  const int64_t count = problem.components, dims = problem.dims, plane = count * dims;
  if (index >= elements * plane) return;
  const int64_t local_element = index / plane, element = first_element + local_element;
  const int64_t d = index % plane / count, i = index % count;
  T first = 0, second = 0, joint_mass = 0, mass = 0, all_dims_mass = 0;
  for (int split = 0; split < sums.joint_splits; ++split) {
    const T* part = sums.joint + (local_element * sums.joint_splits + split) * (2 * dims + 1) * count + i;
    first += part[d * count];
    second += part[(dims + d) * count];
    joint_mass += part[2 * dims * count];
  }
  for (int split = 0; split < sums.marginal_splits; ++split) {
    const T* part = sums.marginal + (local_element * sums.marginal_splits + split) * 3 * plane + i;
    first += part[d * count];
    second += part[plane + d * count];
    mass += part[2 * plane + d * count];
    for (int64_t other = 0; d == 0 && other < dims; ++other) all_dims_mass += part[2 * plane + other * count];
  }
  const Components<T> components = element_of<T>(problem, element).components;
  const bool absent = is_absent(components, i);
  const T s = standard_of(components, i, d).s, kTwice = static_cast<T>(2 * kLn2);
  const T loc_gradient = kTwice * s * first;
  const T scale_gradient = (kTwice * second - (joint_mass + mass)) / at(components.scale, i, d);
  write_gradient(loc, problem.batch, element, i, d, index, absent ? 0 : loc_gradient);
  write_gradient(scale, problem.batch, element, i, d, index, absent ? 0 : scale_gradient);
  if (d == 0)
    write_gradient(log_weights, problem.batch, element, i, static_cast<int64_t>(0), local_element * count + i,
                   absent ? 0 : joint_mass + all_dims_mass);
}

template <class T>
PYKERNELS_DEVICE void write_total(const MixtureProblem& problem, const StridedTensor& tensor,
                                  uint32_t element, int64_t i, int64_t d, double total) {
  const Matrix<T> matrix = matrix_of<T>(problem.batch, tensor, element);
  T& target = at(matrix, i, d);
  target = static_cast<T>(seen_before(problem.batch, tensor, element) ? target + total : total);
}

// Sums over what was broadcast, where each component keeps a gradient of its own: a thread for each. Batch
// elements that share it follow one another.
template <class T>
__global__ void __launch_bounds__(kFinishThreads) sum_dims(PYKERNELS_PARAMETER MixtureProblem problem,
                                                           PYKERNELS_PARAMETER GradientOutput<T> out,
                                                           int dims, bool keep_dims, int64_t elements,
                                                           uint32_t first_element) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x;
  const int64_t count = problem.components;
  if (index >= count * (keep_dims ? dims : 1)) return;
  for (int64_t local = 0; local < elements; ++local) {
    const T* dense = out.dense + local * dims * count + index;
    double total = 0;
    for (int d = 0; d < (keep_dims ? 1 : dims); ++d) total += dense[d * count];
    write_total<T>(problem, out.tensor, first_element + local, index % count, index / count, total);
  }
}

// The same where one gradient serves all components: a block for each dimension, or one for all.
template <class T>
__global__ void __launch_bounds__(kFinishThreads) sum_components(PYKERNELS_PARAMETER MixtureProblem problem,
                                                                 PYKERNELS_PARAMETER GradientOutput<T> out,
                                                                 int dims, bool keep_dims, int64_t elements,
                                                                 uint32_t first_element) {
  PYKERNELS_SHARED(double, totals);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t d = blockIdx.x, count = problem.components, summed = keep_dims ? count : dims * count;
  for (int64_t local = 0; local < elements; ++local) {
    const T* dense = out.dense + local * dims * count + d * count;
    double total = 0;
    for (int64_t k = thread; k < summed; k += kFinishThreads) total += dense[k];
    totals[thread] = total;
    for (int half = kFinishThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (thread < half) totals[thread] += totals[thread + half];
    }
    if (thread == 0)
      write_total<T>(problem, out.tensor, first_element + local, static_cast<int64_t>(0), d, totals[0]);
    __syncthreads();  // before the next element's totals
  }
}

}  // namespace pykernels
