// The points' side of the panels: Chebyshev moments of what a panel holds, and series evaluated at the
// points.
//
// In a panel a point is at xi = 2 (x / h - j), from -1 to 1 and exact, because h is a power of two. Its
// moments are T_k(xi); each unit of points gives kOrder vectors of them, transposed into one row of each
// point's panel.
#pragma once

#include "mmd/cpu_points.h"

namespace pykernels {
namespace {

// From a point to the first number of its panel, in an array [dims][panels][order].
template <class T> struct Places {
  T inverse_width;
  int64_t* offsets;  // [dims][kUnit], lanes as in the rows: (d panels - the dimension's first panel) order
};

template <class T>
void fill_places(const MmdProblem& problem, const double* ranges, int64_t panels, Places<T>& places) {
  places.inverse_width = static_cast<T>(1 / problem.width);
  for (int64_t at = 0; at < problem.dims * kUnit<T>; ++at) {
    const int64_t d = at % problem.dims;
    const double lowest = ranges[2 * d];
    const double first = lowest == lowest ? ::nearbyint(lowest / problem.width) : 0;
    places.offsets[at] = (d * panels - static_cast<int64_t>(first)) * problem.order;
  }
}

template <class T> PYKERNELS_INLINE Unit<T> splat_unit(T x) { return x - Unit<T>{}; }

// The panels of a unit's points, and where in them they are.
template <class T, int kOrder>
PYKERNELS_INLINE Unit<T> locate(Unit<T> x, const Places<T>& places, int64_t place,
                                int64_t (&start)[kUnit<T>]) {
  const Unit<T> scaled = x * splat_unit(places.inverse_width);
  const Unit<T> shifted = scaled + splat_unit(Float<T>::round_to_int);
  const Unit<T> panel = shifted - splat_unit(Float<T>::round_to_int);
  typename Float<T>::integer bits[kUnit<T>];
  std::memcpy(bits, &shifted, sizeof bits);
  typename Float<T>::integer zero;
  const T round_to_int = Float<T>::round_to_int;
  std::memcpy(&zero, &round_to_int, sizeof zero);
  const int64_t* const offsets = places.offsets + place * kUnit<T>;
#pragma GCC unroll 8
  for (int lane = 0; lane < kUnit<T>; ++lane)
    start[lane] = static_cast<int64_t>(bits[lane] - zero) * kOrder + offsets[lane];
  const Unit<T> half = scaled - panel;
  return half + half;
}

// Adds the moments of rows to sums[dims][panels][kOrder]; masses has one number for each of the rows'.
template <class T, int kOrder, bool kWeighted>
void add_moments(const T* rows, int64_t count, int64_t dims, const Places<T>& places, const T* masses,
                 T* sums) {
  for_units<T>(count, dims, [&](int64_t position, int64_t place, int held) __attribute__((always_inline)) {
    int64_t start[kUnit<T>];
    const Unit<T> xi = locate<T, kOrder>(unit_at(rows, position, held), places, place, start);
    const Unit<T> twice = xi + xi;
    Unit<T> previous = kWeighted ? unit_at(masses, position, held) : splat_unit(T(1));
    Unit<T> current = xi * previous;
#pragma GCC unroll 4
    for (int first = 0; first < kOrder; first += kUnit<T>) {
      Unit<T> polynomial[kUnit<T>];
#pragma GCC unroll 8
      for (int k = 0; k < kUnit<T>; ++k) {
        polynomial[k] = previous;
        const Unit<T> next = twice * current - previous;
        previous = current;
        current = next;
      }
      transpose_units(polynomial);
#pragma GCC unroll 8
      for (int lane = 0; lane < held; ++lane) {
        T* const at = sums + start[lane] + first;
        store_unit<T>(at, load_unit(at) + polynomial[lane]);
      }
    }
  });
}

// out = sum_k coefficients[k] T_k(xi) at every number of the rows, by Clenshaw's recurrence; times factors.
template <class T, int kOrder, bool kWeighted>
void evaluate_series(const T* rows, int64_t count, int64_t dims, const Places<T>& places,
                     const T* coefficients, const T* factors, T* out) {
  for_units<T>(count, dims, [&](int64_t position, int64_t place, int held) __attribute__((always_inline)) {
    int64_t start[kUnit<T>];
    const Unit<T> xi = locate<T, kOrder>(unit_at(rows, position, held), places, place, start);
    const Unit<T> twice = xi + xi;
    Unit<T> later{}, latest{}, result{};
#pragma GCC unroll 4
    for (int first = kOrder - kUnit<T>; first >= 0; first -= kUnit<T>) {
      Unit<T> coefficient[kUnit<T>];
#pragma GCC unroll 8
      for (int lane = 0; lane < kUnit<T>; ++lane)
        coefficient[lane] = load_unit(coefficients + (lane < held ? start[lane] : 0) + first);
      transpose_units(coefficient);
#pragma GCC unroll 8
      for (int k = kUnit<T> - 1; k > 0; --k) {
        const Unit<T> next = (coefficient[k] - later) + twice * latest;
        later = latest;
        latest = next;
      }
      if (first > 0) {
        const Unit<T> next = (coefficient[0] - later) + twice * latest;
        later = latest;
        latest = next;
      } else {
        result = (coefficient[0] - later) + xi * latest;
      }
    }
    if (kWeighted) result *= unit_at(factors, position, held);
    if (held == kUnit<T>) {
      store_unit<T>(out + position, result);
    } else {
      for (int lane = 0; lane < held; ++lane) out[position + lane] = result[lane];
    }
  });
}

}  // namespace
}  // namespace pykernels
