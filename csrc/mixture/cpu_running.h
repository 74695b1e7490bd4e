// Running sums of exponentials, kGroup rows at a time: what the joint density and the marginals have in
// common.
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

// Most sums need no reference: densities are neither huge nor, summed over all components, tiny. A sum whose
// reference is 0 is called settled, and so it begins. To it exponents are added as they are, without a
// comparison: Chunk says whether some could be too large for that. Where the first ones leave some row's sum
// too small, it begins anew, with a reference that moves, and settles when that has come near 0 and no row is
// too small any more.
constexpr double kLeastSettled = 0x1p-80;  // what is below the normal range does not count beside it
constexpr double kLeastSettledLog2 = -80;
constexpr double kMostMoved = 64;  // as far from 0 as a reference may be to become 0

PYKERNELS_INLINE VectorD part_of_rows(const double (&rows)[kGroup], int k) {
  VectorD part;
  memcpy(&part, rows + k, sizeof part);
  return part;
}

PYKERNELS_INLINE bool settled(const Running& state) {
  unsigned other = 0;
  for (int k = 0; k < kGroup; k += kLanes<double>) {
    const VectorD reference = part_of_rows(state.reference, k);
    other |= not_le(reference, VectorD{}) | not_le(VectorD{}, reference);
  }
  return other == 0;
}

// Whether some row's sum is too small for a reference of 0. One that is no number is not.
PYKERNELS_INLINE bool too_small(const Running& state) {
  unsigned any = 0;
  for (int k = 0; k < kGroup; k += kLanes<double>) {
    const VectorD total = part_of_rows(state.total, k);
    const Bits<double> small = total < splat(kLeastSettled);
    any |= not_le((VectorD)(small & (Bits<double>)splat(1.0)), VectorD{});
  }
  return any != 0;
}

// Where a row's sum has nothing yet, any exponent is to become its reference.
template <class T> void unsettle(Running& state) {
  for (int k = 0; k < kGroup; ++k)
    if (state.total[k] == 0 && state.reference[k] == 0)
      state.reference[k] = static_cast<double>(Float<T>::lowest);
}

PYKERNELS_INLINE bool near_zero(double reference) {
  return reference >= -kMostMoved && reference <= kMostMoved;
}

// Only if no row would be too small: a settled sum that is too small has seen nothing but the first
// components, or it could not begin anew.
PYKERNELS_INLINE void settle(Running& state) {
  for (int k = 0; k < kGroup; ++k)
    if (!near_zero(state.reference[k])) return;
  Running settled{};
  for (int k = 0; k < kGroup; ++k) settled.total[k] = state.total[k] * ::exp2(state.reference[k]);
  if (!too_small(settled)) state = settled;
}

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

// The same for sums that may settle.
template <class T> void start_settled(Running* state, int64_t count, const T* lower) {
  for (int64_t j = 0; j < count; ++j) {
    bool near = true;
    for (int k = 0; k < kGroup; ++k) {
      const double known = static_cast<double>(lower[j * kGroup + k]);
      near &= !(known > kMostMoved || (known < kLeastSettledLog2 && known > -Float<double>::infinity));
    }
    if (near) {
      state[j] = Running{};
    } else {
      start(state + j, 1, lower + j * kGroup);
    }
  }
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
PYKERNELS_INLINE void add_settled(const Vector<T> (&exponent)[kGroup], Vector<T> (&partial)[kGroup]) {
#pragma GCC unroll 8
  for (int k = 0; k < kGroup; ++k) partial[k] = add_exp2(exponent[k], partial[k]);
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
    VectorD total = part_of_rows(sum.total, k);
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
