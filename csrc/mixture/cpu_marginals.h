// The forward pass of the marginals: each dimension by itself.
#pragma once

#include "mixture/cpu_forward.h"

namespace pykernels {
namespace {

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
    add_exponents<T, false>(exponent, partial, reference, state);
  }
  end_sums<T>(partial, state);
}

// To be called after components were added to settled sums.
template <class T, bool kBand>
void add_again_if_small(const Chunk<T>& chunk, const T* rows, const T* offsets, int64_t d, Running& state) {
  if (!too_small(state)) return;
  state = Running{};  // only the first components of all can leave so little
  add_to_moving<T, kBand>(chunk, rows, offsets, d, state);
}

// Adds the components of one chunk to the sums of one group of rows; state is one Running per dimension. With
// kBand there are offsets, see cpu_band.h.
template <class T, bool kBand>
void add_marginals(const Chunk<T>& chunk, const T* rows, const T* offsets, Running* state) {
  for (int64_t d = 0; d < chunk.dims; ++d) {
    if (chunk.moderate_marginals && settled(state[d])) {
      add_to_settled<T, kBand>(chunk, rows, offsets, d, state[d]);
      add_again_if_small<T, kBand>(chunk, rows, offsets, d, state[d]);
    } else {
      add_to_moving<T, kBand>(chunk, rows, offsets, d, state[d]);
    }
  }
}

}  // namespace
}  // namespace pykernels
