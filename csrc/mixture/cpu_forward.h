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

// Adds a vector of exponents for each row.
template <class T>
PYKERNELS_INLINE void add_exponents(const Vector<T> (&exponent)[kGroup], Vector<T> (&partial)[kGroup],
                                    T (&reference)[kGroup], Running& state) {
  Vector<T> x[kGroup];
  AllLe<T> below;
#pragma GCC unroll 8
  for (int k = 0; k < kGroup; ++k) {
    x[k] = exponent[k] - splat(reference[k]);
    below.look(x[k], splat(T(kHeadroom)));
  }
  if (__builtin_expect(below.failed(), 0)) {
    // Copies, so that the sums themselves can stay in registers.
    Vector<T> moved[kGroup], summed[kGroup];
    for (int k = 0; k < kGroup; ++k) {
      moved[k] = exponent[k];
      summed[k] = partial[k];
    }
    move_references<T>(moved, summed, reference, state);
    for (int k = 0; k < kGroup; ++k) {
      x[k] = moved[k] - splat(reference[k]);
      partial[k] = summed[k];
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kGroup; ++k) partial[k] = add_exp2(x[k], partial[k]);
}

template <class T>
PYKERNELS_INLINE void begin_sums(Vector<T> (&partial)[kGroup], T (&reference)[kGroup], const Running& state) {
  for (int k = 0; k < kGroup; ++k) {
    partial[k] = Vector<T>{};
    reference[k] = static_cast<T>(state.reference[k]);
  }
}

template <class T> PYKERNELS_INLINE void end_sums(const Vector<T> (&partial)[kGroup], Running& state) {
  T sums[kGroup] = {};
  add_lane_sums(partial, sums);
  for (int k = 0; k < kGroup; ++k) state.total[k] += static_cast<double>(sums[k]);
}

// What the constants of vector v are for row k, less the squared distances.
template <class T, bool kBand>
PYKERNELS_INLINE void joint_exponents(const Chunk<T>& chunk, const T* offsets, int64_t v,
                                      Vector<T> (&squared)[kGroup]) {
  const Vector<T> constant = load(chunk.constant + v * kLanes<T>);
#pragma GCC unroll 8
  for (int k = 0; k < kGroup; ++k) squared[k] = constant_of<T, kBand>(constant, offsets, v, k) - squared[k];
}

// Adds the components of one chunk to the joint sums of one group of rows. With kBand there are offsets, see
// cpu_band.h.
template <class T, bool kBand>
void add_joint(const Chunk<T>& chunk, const T* rows, const T* offsets, Running& state) {
  Vector<T> partial[kGroup];
  T reference[kGroup];
  begin_sums<T>(partial, reference, state);
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    Vector<T> exponent[kGroup];
    squared_distances(chunk, v, rows, exponent);
    joint_exponents<T, kBand>(chunk, offsets, v, exponent);
    add_exponents<T>(exponent, partial, reference, state);
  }
  end_sums<T>(partial, state);
}

// log2 of the sum over splits of total * 2^reference, for each row of a group: split s is at state[s *
// stride].
PYKERNELS_INLINE void log2_of_splits(const Running* state, int64_t splits, int64_t stride,
                                     double (&log2)[kGroup]) {
  Running sum = state[0];
  for (int64_t s = 1; s < splits; ++s) {
    const Running& other = state[s * stride];
    for (int k = 0; k < kGroup; ++k) {
      const double gap = other.reference[k] - sum.reference[k];
      if (gap > 0) {
        sum.total[k] = sum.total[k] * shrinkage(-gap) + other.total[k];
        sum.reference[k] = other.reference[k];
      } else {
        sum.total[k] += other.total[k] * shrinkage(gap);
      }
    }
  }
  unsigned awkward = 0;  // some total is 0, infinite, NaN or next to that
  for (int k = 0; k < kGroup; k += kLanes<double>) {
    VectorD total;
    memcpy(&total, sum.total + k, sizeof total);
    awkward |= not_le(splat(0x1p-1000), total) | not_le(total, splat(0x1p1000));
    const VectorD exponent = split_exponent<double>(total);
    total = exponent + log2_mantissa<double>(total);
    memcpy(log2 + k, &total, sizeof total);
  }
  for (int k = 0; awkward && k < kGroup; ++k) log2[k] = ::log2(sum.total[k]);
  for (int k = 0; k < kGroup; ++k) log2[k] += sum.reference[k];
}

}  // namespace
}  // namespace pykernels
