// What the CUDA kernels of this room share: one batch element's points and masses, what is known of each
// dimension, and sums over the threads of a block.
//
// Everything is launched blindly: how far the points reach is known to the device alone, and no memory
// depends on it. So each dimension of each batch element, a column, is marked by the first kernels: its
// points lie on few enough panels, or are summed over in pairs, or one of them is no number. The kernels of
// the other ways leave it alone.
#pragma once

#include <cstring>

#include "core/cuda_kernel.h"
#include "core/tensor.h"
#include "mmd/mmd.h"
#include "mmd/mmd_math.h"

namespace pykernels {
namespace mmd {

constexpr int kThreads = 256;

// A problem as the kernels read it; samples are counted, 0 for x and 1 for y.
struct Inputs {
  BatchShape batch;
  int64_t counts[2], dims;
  StridedTensor points[2], masses[2];  // masses absent: equal ones
};

// One sample of one batch element, in one dimension.
template <class T> struct Line {
  const T* data;
  int64_t stride;
};

template <class T> PYKERNELS_DEVICE T at(const Line<T>& line, int64_t i) {
  return line.data[i * line.stride];
}

template <class T>
PYKERNELS_DEVICE Line<T> line_of(const Inputs& inputs, int sample, uint32_t element, int64_t d) {
  const StridedTensor& points = inputs.points[sample];
  const int ndim = inputs.batch.ndim;
  return {static_cast<const T*>(points.data) + batch_offset(inputs.batch, points, element) +
              d * points.strides[ndim + 1],
          points.strides[ndim]};
}

// Data null: equal masses.
PYKERNELS_DEVICE Line<double> masses_of(const Inputs& inputs, int sample, uint32_t element) {
  const StridedTensor& masses = inputs.masses[sample];
  if (!masses.data) return {nullptr, 0};
  return {static_cast<const double*>(masses.data) + batch_offset(inputs.batch, masses, element),
          masses.strides[inputs.batch.ndim]};
}

// In sums, points of equal masses have mass 1 each; this is what they have in truth, or 1.
PYKERNELS_DEVICE double unit_mass(const Inputs& inputs, int sample) {
  return inputs.masses[sample].data ? 1.0 : 1.0 / static_cast<double>(inputs.counts[sample]);
}

// c_u and c_v of mmd.h: of equal masses known beforehand, of others from the sum of their squares.
struct Excess {
  double of_equal[2];
  const double* squares;  // [elements][2]; null: all masses are equal, or the estimate is biased
};

PYKERNELS_DEVICE double excess_of(const Inputs& inputs, const Excess& excess, int sample, int64_t element) {
  if (!excess.squares || !inputs.masses[sample].data) return excess.of_equal[sample];
  const double squares = excess.squares[2 * element + sample];
  return squares / (1 - squares);
}

enum ColumnKind : int { kUndefined = -1, kPairs = 0 };  // or the number of panels

struct Column {
  double first;  // panel
  int panels;    // or a ColumnKind
};

// Threads of a block side by side over dimensions, and in groups over rows, so that a warp reads what lies
// together.
struct Lanes {
  int dims, groups;  // of a block
};

// What a thread has of `own`, summed over the block in a fixed order; known to thread 0. totals: [kThreads].
template <int threads> PYKERNELS_DEVICE double block_total(double own, double* totals, int thread) {
  totals[thread] = own;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) totals[thread] += totals[thread + half];
  }
  const double total = totals[thread];
  __syncthreads();  // before totals are overwritten
  return total;
}

// The sum of squared masses of each sample whose masses are not equal: a block for each, [elements][2].
static __global__ void __launch_bounds__(kThreads) square_masses(PYKERNELS_PARAMETER Inputs inputs,
                                                                 double* squares, uint32_t first_element) {
  PYKERNELS_SHARED(double, totals);
  const int thread = static_cast<int>(threadIdx.x), sample = static_cast<int>(blockIdx.x);
  const int64_t element = blockIdx.y;
  if (!inputs.masses[sample].data) return;
  const Line<double> masses = masses_of(inputs, sample, first_element + static_cast<uint32_t>(element));
  double own = 0;
  for (int64_t i = thread; i < inputs.counts[sample]; i += kThreads) {
    const double mass = at(masses, i);
    own = fma(mass, mass, own);
  }
  const double total = block_total<kThreads>(own, totals, thread);
  if (thread == 0) squares[2 * element + sample] = total;
}

}  // namespace mmd
}  // namespace pykernels
