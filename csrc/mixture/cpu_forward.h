// Forward pass: a running log-sum-exp per row, over chunks of components. Here for the joint density; for the
// marginals, each dimension by itself, it is in cpu_marginals.h.
#pragma once

#include "mixture/cpu_band.h"

namespace pykernels {
namespace {

// sum_i 2^x_i is kept as total * 2^reference. Where nothing is known the reference starts at the lowest
// finite number, so that -inf minus it is still -inf. When an exponent exceeds it by kHeadroom it moves, to
// kHeadroom above the largest exponent of that vector: so it moves seldom, and the exponents that count stay
// near it, which matters because they are rounded to that distance.
constexpr int kHeadroom = 8;

template <class T> T reference_for(T largest) { return largest + T(kHeadroom); }

// 2^x for x <= 0. Not 0: an infinite total, multiplied by it, stays infinite.
PYKERNELS_INLINE double shrinkage(double x) { return x == 0 ? 1 : ::exp2(at_least_real(x, -1000)); }

// State of one group of rows.
struct Running {
  double reference[kGroup], total[kGroup];
};

// Called when some exponents of some rows are over the headroom, NaN or +inf. Moves the references of those
// rows up and rescales what was summed for them. NaN and +inf go straight into the total, and leave -inf
// behind.
template <class T>
__attribute__((noinline)) void move_references(Vector<T> (&exponent)[kGroup], Vector<T> (&partial)[kGroup],
                                               T (&reference)[kGroup], Running& state) {
  const Vector<T> finite = splat(-Float<T>::lowest);
  for (int k = 0; k < kGroup; ++k) {
    if (!not_le(exponent[k], finite)) continue;
    for (int lane = 0; lane < kLanes<T>; ++lane)
      if (!(exponent[k][lane] <= -Float<T>::lowest)) state.total[k] += static_cast<double>(exponent[k][lane]);
    exponent[k] = exponent[k] <= finite ? exponent[k] : splat(-Float<T>::infinity);
  }
  T largest[kGroup];
  lane_maxima(exponent, largest);
  for (int k = 0; k < kGroup; ++k) {
    if (largest[k] - reference[k] <= T(kHeadroom)) continue;
    const T moved = reference_for(largest[k]);
    if (reference[k] == Float<T>::lowest) {
      partial[k] = Vector<T>{};
    } else {
      const double shrink = shrinkage(static_cast<double>(reference[k]) - static_cast<double>(moved));
      partial[k] *= static_cast<T>(shrink);
      state.total[k] *= shrink;
    }
    reference[k] = moved;
    state.reference[k] = static_cast<double>(moved);
  }
}

// `lower`, [count][kGroup], holds exponents that will occur, or -inf; null: nothing is known.
template <class T> void start(Running* state, int64_t count, const T* lower) {
  for (int64_t j = 0; j < count; ++j)
    for (int k = 0; k < kGroup; ++k) {
      const bool known = lower && lower[j * kGroup + k] > Float<T>::lowest;
      state[j].reference[k] =
          static_cast<double>(known ? reference_for(lower[j * kGroup + k]) : Float<T>::lowest);
      state[j].total[k] = 0;
    }
}

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

// Adds the components of one chunk to the joint sums of one group of rows. With kKnown the squared distances
// were computed before, by add_marginals. With kBand there are offsets, see cpu_band.h.
template <class T, bool kKnown, bool kBand>
void add_joint(const Chunk<T>& chunk, const T* rows, const T* known, const T* offsets, Running& state) {
  const auto squares_of = [&](int64_t v, Vector<T>(&x)[kGroup]) __attribute__((always_inline)) {
    if constexpr (kKnown) {
      for (int k = 0; k < kGroup; ++k) x[k] = load(known + (v * kGroup + k) * kLanes<T>);
    } else {
      squared_distances(chunk, v, rows, x);
    }
  };
  Vector<T> partial[kGroup];
  T reference[kGroup];
  for (int k = 0; k < kGroup; ++k) {
    partial[k] = Vector<T>{};
    reference[k] = static_cast<T>(state.reference[k]);
  }
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    const Vector<T> constant = load(chunk.constant + v * kLanes<T>);
    Vector<T> square[kGroup], x[kGroup];
    squares_of(v, square);
    AllLe<T> below;
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      x[k] = (constant_of<T, kBand>(constant, offsets, v, k) - square[k]) - splat(reference[k]);
      below.look(x[k], splat(T(kHeadroom)));
    }
    if (__builtin_expect(below.failed(), 0)) {
      // Copies, so that the sums themselves can stay in registers.
      Vector<T> exponent[kGroup], summed[kGroup];
      for (int k = 0; k < kGroup; ++k) {
        exponent[k] = constant_of<T, kBand>(constant, offsets, v, k) - square[k];
        summed[k] = partial[k];
      }
      move_references<T>(exponent, summed, reference, state);
      for (int k = 0; k < kGroup; ++k) {
        x[k] = exponent[k] - splat(reference[k]);
        partial[k] = summed[k];
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) partial[k] = add_exp2(x[k], partial[k]);
  }
  for (int k = 0; k < kGroup; ++k) state.total[k] += static_cast<double>(sum(partial[k]));
}

// log2 of the sum over splits of total * 2^reference, for one row (or row and dimension): split s is at
// state[s * stride].
PYKERNELS_INLINE double log2_of_splits(const Running* state, int64_t splits, int64_t stride, int k) {
  double top = state[0].reference[k], total = state[0].total[k];
  for (int64_t s = 1; s < splits; ++s) {
    const Running& other = state[s * stride];
    const double gap = other.reference[k] - top;
    if (gap > 0) {
      total = total * shrinkage(-gap) + other.total[k];
      top = other.reference[k];
    } else {
      total += other.total[k] * shrinkage(gap);
    }
  }
  return top + ::log2(total);
}

}  // namespace
}  // namespace pykernels
