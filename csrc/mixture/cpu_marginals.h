// The forward pass of the marginals: each dimension by itself.
//
// Most sums need no reference (see cpu_forward.h): densities of one dimension are neither huge nor, summed
// over all components, tiny. A sum whose reference is 0 is called settled, and adds to it what takes no
// comparison. What turns out too small for that is summed again, as the joint density is, with a reference
// that moves.
#pragma once

#include "mixture/cpu_forward.h"

namespace pykernels {
namespace {

constexpr double kLeastSettled = 0x1p-80;  // what is below the normal range does not count beside it
constexpr double kMostMoved = 64;          // as far from 0 as a reference may be to become 0

PYKERNELS_INLINE bool settled(const Running& state) {
  bool all = true;
  for (int k = 0; k < kGroup; ++k) all &= state.reference[k] == 0;
  return all;
}

// Whether some row's sum came out too small for a reference of 0.
PYKERNELS_INLINE bool too_small(const Running& state) {
  bool any = false;
  for (int k = 0; k < kGroup; ++k) any |= state.total[k] < kLeastSettled;
  return any;
}

template <class T> void unsettle(Running& state) {
  for (int k = 0; k < kGroup; ++k)
    if (state.total[k] == 0) state.reference[k] = static_cast<double>(Float<T>::lowest);
}

PYKERNELS_INLINE void settle(Running& state) {
  bool near = true;
  for (int k = 0; k < kGroup; ++k)
    near &= state.reference[k] >= -kMostMoved && state.reference[k] <= kMostMoved;
  for (int k = 0; near && k < kGroup; ++k) {
    state.total[k] *= ::exp2(state.reference[k]);
    state.reference[k] = 0;
  }
}

// Adds one dimension of a chunk to settled sums of one group of rows.
template <class T, bool kBand>
void add_to_settled(const Chunk<T>& chunk, const T* rows, const T* offsets, int64_t d, Running& state) {
  const T* const z = rows + d * kGroup;
  Vector<T> partial[kGroup];
  for (int k = 0; k < kGroup; ++k) partial[k] = Vector<T>{};
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    const int64_t o = (v * chunk.dims + d) * kLanes<T>;
    const Vector<T> m = load(chunk.loc + o), w = load(chunk.precision + o),
                    constant = load(chunk.marginal_constant + o);
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      const Vector<T> e = m - splat(z[k]);
      partial[k] = add_exp2(fnma(e * e, w, constant_of<T, kBand>(constant, offsets, v, k)), partial[k]);
    }
  }
  end_sums<T>(partial, state);
}

// Adds one dimension of a chunk to sums of one group of rows whose references move.
template <class T, bool kBand>
void add_to_moving(const Chunk<T>& chunk, const T* rows, const T* offsets, int64_t d, Running& state) {
  const T* const z = rows + d * kGroup;
  Vector<T> partial[kGroup];
  T reference[kGroup];
  unsettle<T>(state);
  begin_sums<T>(partial, reference, state);
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    const int64_t o = (v * chunk.dims + d) * kLanes<T>;
    const Vector<T> m = load(chunk.loc + o), w = load(chunk.precision + o),
                    constant = load(chunk.marginal_constant + o);
    Vector<T> exponent[kGroup];
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      const Vector<T> e = m - splat(z[k]);
      exponent[k] = fnma(e * e, w, constant_of<T, kBand>(constant, offsets, v, k));
    }
    add_exponents<T>(exponent, partial, reference, state);
  }
  end_sums<T>(partial, state);
  settle(state);
}

// To be called after components were added to settled sums: if they were the first ones, and far from some
// row, the sums begin anew.
template <class T, bool kBand>
void add_again_if_small(const Chunk<T>& chunk, const T* rows, const T* offsets, int64_t d, Running& state) {
  if (!too_small(state)) return;
  state = Running{};
  add_to_moving<T, kBand>(chunk, rows, offsets, d, state);
}

// Adds the components of one chunk to the sums of one group of rows; state is one Running per dimension. With
// kBand there are offsets, see cpu_band.h.
template <class T, bool kBand>
void add_marginals(const Chunk<T>& chunk, const T* rows, const T* offsets, Running* state) {
  for (int64_t d = 0; d < chunk.dims; ++d) {
    if (chunk.moderate && settled(state[d])) {
      add_to_settled<T, kBand>(chunk, rows, offsets, d, state[d]);
      add_again_if_small<T, kBand>(chunk, rows, offsets, d, state[d]);
    } else {
      add_to_moving<T, kBand>(chunk, rows, offsets, d, state[d]);
    }
  }
}

}  // namespace
}  // namespace pykernels
