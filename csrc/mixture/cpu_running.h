// Running sums of exponentials, kGroup rows at a time: what the joint density and the marginals have in
// common.
#pragma once

#include "mixture/cpu_band.h"

namespace pykernels {
namespace {

// sum_i 2^x_i is kept as total * 2^reference. Where nothing is known the reference starts at the lowest
// finite number, so that -inf minus it is still -inf. When an exponent exceeds it by more than some headroom
// it moves to where that vector's largest exponent says.
//
// Sums of exponentials want that seldom, and no digit of an exponent lost. A reference of 0 does both where
// densities are neither huge nor, summed over all components, tiny. Elsewhere it is an integer: subtracting
// that is exact where the difference is no larger than the exponent, which holds for those that count.
struct Seldom {
  static constexpr int kHeadroom = 16;
  template <class T> static T reference_for(T largest) {
    if (largest >= T(-64) && largest <= T(kHeadroom)) return 0;
    return ::ceil(largest) + (largest < 0 ? T(48) : T(kHeadroom));
  }
};

// Products of exponentials with their exponents want it close: they are rounded to that distance.
struct Close {
  static constexpr int kHeadroom = 8;
  template <class T> static T reference_for(T largest) { return largest + T(kHeadroom); }
};

// 2^x for x <= 0. Not 0: an infinite total, multiplied by it, stays infinite.
PYKERNELS_INLINE double shrinkage(double x) { return x == 0 ? 1 : ::exp2(at_least_real(x, -1000)); }

// State of one group of rows.
struct Running {
  double reference[kGroup], total[kGroup];
};

// A sum is called settled if all its references are 0. Where, besides, Chunk says that no exponent is too
// large, they are added without a comparison. Marginals begin settled; where their first components leave
// some row's sum too small, it begins anew, with nothing known.
constexpr double kLeastSettled = 0x1p-80;  // what is below the normal range does not count beside it

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

// Whether a group is new, or its first row still is.
template <class T> PYKERNELS_INLINE bool nothing_known(const Running& state) {
  return state.reference[0] == static_cast<double>(Float<T>::lowest);
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

// Called when some exponents of some rows are over the headroom, NaN or +inf. Moves the references of those
// rows up and rescales what was summed for them. NaN and +inf go straight into the total, and leave -inf
// behind.
template <class T, class Moves>
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
    if (largest[k] - reference[k] <= T(Moves::kHeadroom)) continue;
    const T moved = Moves::reference_for(largest[k]);
    if (reference[k] > Float<T>::lowest) {  // else nothing was summed yet, unless NaN
      const double shrink = shrinkage(static_cast<double>(reference[k]) - static_cast<double>(moved));
      partial[k] *= static_cast<T>(shrink);
      state.total[k] *= shrink;
    }
    reference[k] = moved;
    state.reference[k] = static_cast<double>(moved);
  }
}

// `lower`, [count][kGroup], holds exponents that will occur, or -inf where nothing is known.
template <class Moves, class T> void start(Running* state, int64_t count, const T* lower) {
  for (int64_t j = 0; j < count; ++j)
    for (int k = 0; k < kGroup; ++k) {
      const bool known = lower[j * kGroup + k] > Float<T>::lowest;
      state[j].reference[k] =
          static_cast<double>(known ? Moves::reference_for(lower[j * kGroup + k]) : Float<T>::lowest);
      state[j].total[k] = 0;
    }
}

// Adds a vector of exponents for each row; to settled sums as they are.
template <class T, bool kSettled>
PYKERNELS_INLINE void add_exponents(const Vector<T> (&exponent)[kGroup], Vector<T> (&partial)[kGroup],
                                    T (&reference)[kGroup], Running& state) {
  Vector<T> x[kGroup];
#pragma GCC unroll 8
  for (int k = 0; k < kGroup; ++k) x[k] = kSettled ? exponent[k] : exponent[k] - splat(reference[k]);
  Vector<T> largest = x[0];  // may miss a NaN, which then goes into the sum as it is; unused where settled
#pragma GCC unroll 8
  for (int k = 1; k < kGroup; ++k) largest = x[k] > largest ? x[k] : largest;
  if (!kSettled && __builtin_expect(not_le(largest, splat(T(Seldom::kHeadroom))) != 0, 0)) {
    // Copies, so that the sums themselves can stay in registers.
    Vector<T> moved[kGroup], summed[kGroup];
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      moved[k] = exponent[k];
      summed[k] = partial[k];
    }
    move_references<T, Seldom>(moved, summed, reference, state);
#pragma GCC unroll 8
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
