// From the sums of cuda_components.h and cuda_marginal.h to the gradients of loc, scale and log-weights:
//
//   d/d loc = 2 ln2 s first,    d/d scale = (2 ln2 second - mass) / sigma,    d/d log_weights = mass,
//
// and from the slopes that the forward pass left to that of value.
#pragma once

#include "mixture/cuda_merge.h"
#include "mixture/cuda_sums.h"

namespace pykernels {

template <class T> struct GradientOutputs {
  GradientOutput<T> loc, scale, log_weights;
};

// Of one component in one dimension.
template <class T>
PYKERNELS_DEVICE void finish(const MixtureProblem& problem, const GradientOutputs<T>& out,
                             const Components<T>& components, uint32_t local_element, uint32_t element,
                             int64_t i, int64_t d, T first, T second, T mass) {
  const bool absent = is_absent(components, i);
  const T s = standard_of(components, i, d).s, kTwice = static_cast<T>(2 * kLn2);
  const T loc_gradient = kTwice * s * first;
  const T scale_gradient = (kTwice * second - mass) / at(components.scale, i, d);
  const int64_t term = (local_element * problem.dims + d) * problem.components + i;
  write_gradient(out.loc, problem.batch, element, i, d, term, absent ? 0 : loc_gradient);
  write_gradient(out.scale, problem.batch, element, i, d, term, absent ? 0 : scale_gradient);
}

template <class T>
PYKERNELS_DEVICE void finish_weight(const MixtureProblem& problem, const GradientOutputs<T>& out,
                                    const Components<T>& components, uint32_t local_element, uint32_t element,
                                    int64_t i, T mass) {
  const int64_t term = local_element * problem.components + i, only = 0;
  write_gradient(out.log_weights, problem.batch, element, i, only, term, is_absent(components, i) ? 0 : mass);
}

// What the gradient of value follows from; [*batch, rows] or [*batch, rows, dims].
template <class T> struct ValueGradient {
  GradientOutput<T> out;
  const T *joint_log2, *joint_slope, *grad_joint;  // grad_joint null: no such gradient
  const T *marginal_log2, *marginal_slope, *grad_marginal;
  const T*
      slope_sums;  // of statistics, in place of joint_slope: see statistics_row_tiles; null: there are none
  int splits;      // of these
};

// That of one row and dimension. A row without density has none, not even times an infinite gradient.
template <class T>
PYKERNELS_DEVICE void finish_value(const MixtureProblem& problem, const ValueGradient<T>& value,
                                   uint32_t local_element, uint32_t element, int64_t index) {
  const int64_t values = problem.rows * problem.dims;
  if (!value.out.tensor.data || index >= values) return;
  const int64_t row = index / problem.dims, whole = element * values + index;
  T gradient = 0;
  if (value.grad_joint) {
    const int64_t whole_row = element * problem.rows + row;
    if (value.joint_log2[whole_row] != -static_cast<T>(INFINITY))
      gradient += value.grad_joint[whole_row] * value.joint_slope[whole];
  }
  if (value.grad_marginal && value.marginal_log2[whole] != -static_cast<T>(INFINITY))
    gradient += value.grad_marginal[whole] * value.marginal_slope[whole];
  write_gradient(value.out, problem.batch, element, row, index % problem.dims, local_element * values + index,
                 gradient);
}

// The same with statistics, for kMergeOutputs rows and dimensions from `first` on: the threads first sum up
// the splits as those of finish_gradients do.
template <class T>
PYKERNELS_DEVICE void finish_value_of_statistics(const MixtureProblem& problem, const ValueGradient<T>& value,
                                                 uint32_t local_element, uint32_t element, int64_t first,
                                                 int ways, int thread, T* totals) {
  const int way = thread / kMergeOutputs;
  const int64_t values = problem.rows * problem.dims, index = first + thread % kMergeOutputs;
  const T* sums = value.slope_sums + local_element * value.splits * values + index;
  T sum = 0;
  PYKERNELS_UNROLL_BY(4)
  for (int split = way; index < values && split < value.splits; split += ways) sum += sums[split * values];
  totals[thread] = sum;
  __syncthreads();
  if (way != 0 || index >= values) return;
  for (int other = 1; other < ways; ++other) sum += totals[other * kMergeOutputs + thread];
  write_gradient(value.out, problem.batch, element, index / problem.dims, index % problem.dims,
                 local_element * values + index, static_cast<T>(kValueGradient) * sum);
}

template <class T> struct GradientSums {
  const T *joint, *marginal;  // null: no such gradient
  int joint_splits, marginal_splits;
};

// How the blocks of finish_gradients share the work: each takes kMergeOutputs components and some dimensions,
// and has `ways` threads for each component.
struct FinishPlan {
  int ways, dims;
  int columns;  // sums of a component: first, second and mass of each dimension, and the mass of all
  int64_t dim_blocks, component_blocks;  // the latter 0: only value's is asked for
};

// So that lanes which write one dimension of all components meet different banks.
constexpr int kFinishStride = kMergeOutputs + 1;

template <class T> size_t finish_bytes(const FinishPlan& plan) {
  return plan.ways * plan.columns * kFinishStride * sizeof(T);
}

// The threads first sum up the splits: each those that its warp's number leads to, in order, neighbours
// taking neighbouring components. Then they join the warps' sums, in order, neighbours taking neighbouring
// dimensions, as the gradients lie in memory. The blocks beyond are for value.
template <class T>
__global__ void __launch_bounds__(kMergeOutputs* kMostWays) finish_gradients(
    PYKERNELS_PARAMETER MixtureProblem problem, PYKERNELS_PARAMETER GradientSums<T> sums,
    PYKERNELS_PARAMETER GradientOutputs<T> out, PYKERNELS_PARAMETER ValueGradient<T> value,
    PYKERNELS_PARAMETER FinishPlan plan, uint32_t first_element) {
  PYKERNELS_SHARED(T, shared);  // [ways][columns][kFinishStride]
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kMergeOutputs,
            way = thread / kMergeOutputs, threads = plan.ways * kMergeOutputs;
  const uint32_t local_element = blockIdx.y, element = first_element + local_element;
  const int64_t block = blockIdx.x, blocks = plan.component_blocks * plan.dim_blocks;
  if (block >= blocks) {
    if (value.slope_sums)
      finish_value_of_statistics(problem, value, local_element, element, (block - blocks) * kMergeOutputs,
                                 plan.ways, thread, shared);
    else
      finish_value(problem, value, local_element, element, (block - blocks) * threads + thread);
    return;
  }
  const int64_t count = problem.components, dims = problem.dims, plane = count * dims;
  const int64_t first_component = block / plan.dim_blocks * kMergeOutputs, i = first_component + lane;
  const int64_t first_dim = block % plan.dim_blocks * plan.dims;
  const int own_dims = static_cast<int>(dims - first_dim < plan.dims ? dims - first_dim : plan.dims);
  const bool for_weights = first_dim == 0 && out.log_weights.tensor.data;

  if (i < count) {
    const int64_t joint_size = 2 * plane + count, marginal_size = 3 * plane;
    const int64_t joint = local_element * sums.joint_splits * joint_size + i,
                  marginal = local_element * sums.marginal_splits * marginal_size + i;
    T* own = shared + way * plan.columns * kFinishStride + lane;
    T joint_mass = 0;
    for (int split = way; split < sums.joint_splits; split += plan.ways)
      joint_mass += sums.joint[joint + split * joint_size + 2 * plane];
    for (int k = 0; k < own_dims; ++k) {
      const int64_t at = (first_dim + k) * count;
      T first = 0, second = 0, mass = joint_mass;
      PYKERNELS_UNROLL_BY(4)
      for (int split = way; split < sums.joint_splits; split += plan.ways) {
        first += sums.joint[joint + split * joint_size + at];
        second += sums.joint[joint + split * joint_size + plane + at];
      }
      PYKERNELS_UNROLL_BY(4)
      for (int split = way; split < sums.marginal_splits; split += plan.ways) {
        first += sums.marginal[marginal + split * marginal_size + at];
        second += sums.marginal[marginal + split * marginal_size + plane + at];
        mass += sums.marginal[marginal + split * marginal_size + 2 * plane + at];
      }
      own[3 * k * kFinishStride] = first;
      own[(3 * k + 1) * kFinishStride] = second;
      own[(3 * k + 2) * kFinishStride] = mass;
    }
    T mass = joint_mass;
    for (int split = way; for_weights && split < sums.marginal_splits; split += plan.ways)
      for (int64_t d = 0; d < dims; ++d)
        mass += sums.marginal[marginal + split * marginal_size + 2 * plane + d * count];
    own[(plan.columns - 1) * kFinishStride] = mass;
  }
  __syncthreads();
  const auto total = [&](int column, int member) {
    T sum = 0;
    for (int other = 0; other < plan.ways; ++other)
      sum += shared[(other * plan.columns + column) * kFinishStride + member];
    return sum;
  };
  const Components<T> components = element_of<T>(problem, element).components;
  for (int output = thread; output < kMergeOutputs * own_dims; output += threads) {
    const int member = output / own_dims, k = output % own_dims;
    if (first_component + member >= count) break;
    finish(problem, out, components, local_element, element, first_component + member, first_dim + k,
           total(3 * k, member), total(3 * k + 1, member), total(3 * k + 2, member));
  }
  if (for_weights && thread < kMergeOutputs && i < count)
    finish_weight(problem, out, components, local_element, element, i, total(plan.columns - 1, lane));
}

}  // namespace pykernels
