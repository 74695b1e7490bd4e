// The forward pass of the joint density and the marginals at once: the squared distances of the marginals,
// summed, are those of the joint density.
#pragma once

#include "mixture/cpu_marginals.h"

namespace pykernels {
namespace {

// Adds dimensions first to last of vector v to settled sums [dims][kGroup][lanes], and to `squared`.
template <class T, bool kBand>
PYKERNELS_INLINE void add_dims(const Chunk<T>& chunk, int64_t v, const T* rows, const T* offsets,
                               int64_t first, int64_t last, T* sums, Vector<T> (&squared)[kGroup]) {
  Vector<T> sum[kGroup];
#pragma GCC unroll 8
  for (int k = 0; k < kGroup; ++k) sum[k] = Vector<T>{};
  for (int64_t d = first; d < last; ++d) {
    const int64_t o = (v * chunk.dims + d) * kLanes<T>;
    const Vector<T> m = load(chunk.loc + o), w = load(chunk.precision + o),
                    constant = load(chunk.marginal_constant + o);
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      const Vector<T> e = m - splat(rows[d * kGroup + k]), square = e * e;
      T* const at = sums + (d * kGroup + k) * kLanes<T>;
      sum[k] = fma(square, w, sum[k]);
      store(at, add_exp2(fnma(square, w, constant_of<T, kBand>(constant, offsets, v, k)), load(at)));
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kGroup; ++k) squared[k] = first == 0 ? sum[k] : squared[k] + sum[k];
}

// As add_further_dims.
template <class T, bool kBand>
__attribute__((noinline)) void add_later_dims(const Chunk<T>& chunk, int64_t v, const T* rows,
                                              const T* offsets, T* sums, Vector<T> (&squared)[kGroup]) {
  for (int64_t first = kSummedDims; first < chunk.dims; first += kSummedDims)
    add_dims<T, kBand>(chunk, v, rows, offsets, first, at_most(chunk.dims, first + kSummedDims), sums,
                       squared);
}

// To settled sums of the marginals, and to those of the joint density, with kSettled settled, too. `sums` is
// scratch memory, [dims][kGroup][lanes].
template <class T, bool kBand, bool kSettled>
void add_both_as(const Chunk<T>& chunk, const T* rows, const T* offsets, T* sums, Running* marginal,
                 Running& joint) {
  memset(sums, 0, static_cast<size_t>(chunk.dims * kGroup * kLanes<T>) * sizeof(T));
  Vector<T> partial[kGroup];
  T reference[kGroup];
  begin_sums<T>(partial, reference, joint);
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    Vector<T> exponent[kGroup];
    add_dims<T, kBand>(chunk, v, rows, offsets, 0, at_most(chunk.dims, kSummedDims), sums, exponent);
    if (chunk.dims > kSummedDims) {
      Vector<T> squared[kGroup];  // a copy, so that the sums themselves can stay in registers
      for (int k = 0; k < kGroup; ++k) squared[k] = exponent[k];
      add_later_dims<T, kBand>(chunk, v, rows, offsets, sums, squared);
      for (int k = 0; k < kGroup; ++k) exponent[k] = squared[k];
    }
    joint_exponents<T, kBand>(chunk, offsets, v, exponent);
    add_exponents<T, kSettled>(exponent, partial, reference, joint);
  }
  end_sums<T>(partial, joint);
  for (int64_t d = 0; d < chunk.dims; ++d) {
    for (int k = 0; k < kGroup; ++k) partial[k] = load(sums + (d * kGroup + k) * kLanes<T>);
    end_sums<T>(partial, marginal[d]);
  }
}

template <class T, bool kBand>
void add_both(const Chunk<T>& chunk, const T* rows, const T* offsets, T* sums, Running* marginal,
              Running& joint) {
  bool all_settled = chunk.moderate_marginals;
  for (int64_t d = 0; d < chunk.dims; ++d) all_settled &= settled(marginal[d]);
  if (!all_settled) {
    add_marginals<T, kBand>(chunk, rows, offsets, marginal);
    return add_joint<T, kBand>(chunk, rows, offsets, joint);
  }
  if (chunk.moderate_joint && settled(joint)) {
    add_both_as<T, kBand, true>(chunk, rows, offsets, sums, marginal, joint);
  } else {
    add_both_as<T, kBand, false>(chunk, rows, offsets, sums, marginal, joint);
  }
  for (int64_t d = 0; d < chunk.dims; ++d) add_again_if_small<T, kBand>(chunk, rows, offsets, d, marginal[d]);
}

}  // namespace
}  // namespace pykernels
