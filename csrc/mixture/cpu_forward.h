// The forward pass of the joint density: a running log-sum-exp per row, over chunks of components. For the
// marginals, each dimension by itself, it is in cpu_marginals.h.
#pragma once

#include "mixture/cpu_running.h"

namespace pykernels {
namespace {

// The largest finite exponent that each row of a group has in the chunk, -inf if none.
template <class T> void largest_in_chunk(const Chunk<T>& chunk, const T* rows, T* lower) {
  Vector<T> largest[kGroup];
  for (int k = 0; k < kGroup; ++k) largest[k] = splat(-Float<T>::infinity);
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    const Vector<T> constant = load(chunk.constant + v * kLanes<T>);
    Vector<T> x[kGroup];
    squared_distances(chunk, v, rows, x);
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      x[k] = constant - x[k];
      largest[k] = (x[k] > largest[k]) & (x[k] <= -Float<T>::lowest) ? x[k] : largest[k];
    }
  }
  lane_maxima(largest, lower);
}

// What the constants of vector v are for row k, less the squared distances.
template <class T, bool kBand>
PYKERNELS_INLINE void joint_exponents(const Chunk<T>& chunk, const T* offsets, int64_t v,
                                      Vector<T> (&squared)[kGroup]) {
  const Vector<T> constant = load(chunk.constant + v * kLanes<T>);
#pragma GCC unroll 8
  for (int k = 0; k < kGroup; ++k) squared[k] = constant_of<T, kBand>(constant, offsets, v, k) - squared[k];
}

template <class T, bool kBand, bool kSettled>
void add_joint_as(const Chunk<T>& chunk, const T* rows, const T* offsets, Running& state) {
  Vector<T> partial[kGroup];
  T reference[kGroup];
  begin_sums<T>(partial, reference, state);
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    Vector<T> exponent[kGroup];
    squared_distances(chunk, v, rows, exponent);
    joint_exponents<T, kBand>(chunk, offsets, v, exponent);
    add_exponents<T, kSettled>(exponent, partial, reference, state);
  }
  end_sums<T>(partial, state);
}

template <class T, bool kBand>
void add_vectors(const Chunk<T>& chunk, const T* rows, const T* offsets, Running& state) {
  if (chunk.moderate_joint && settled(state)) {
    add_joint_as<T, kBand, true>(chunk, rows, offsets, state);
  } else {
    add_joint_as<T, kBand, false>(chunk, rows, offsets, state);
  }
}

// Adds the components of one chunk to the joint sums of one group of rows. With kBand there are offsets, see
// cpu_band.h. Where nothing is known of the rows, one vector by itself may be enough to settle them.
template <class T, bool kBand>
void add_joint(const Chunk<T>& chunk, const T* rows, const T* offsets, Running& state) {
  const int64_t ahead = chunk.vectors > 1 && nothing_known<T>(state);
  if (ahead) add_vectors<T, kBand>(part_of(chunk, 0, ahead), rows, offsets, state);
  if (kBand) offsets += ahead * kGroup * kLanes<T>;
  add_vectors<T, kBand>(part_of(chunk, ahead, chunk.vectors), rows, offsets, state);
}

}  // namespace
}  // namespace pykernels
