// Sums over the pairs of some rows and columns, all of them points of one dimension: columns in lanes, rows
// one by one. Partial sums in T are short; they go on in double.
#pragma once

#include "mmd/cpu_fractions.h"
#include "mmd/cpu_plan.h"

namespace pykernels {
namespace {

constexpr int kTogether = 2;  // vectors of columns, to hide the latency of one by the others
constexpr int64_t kChunkVectors = 64;
constexpr int64_t kSomeRows = 16;  // summed by themselves: short sums of like numbers lose less to rounding

// One sample in one dimension, padded to whole vectors with masses of 0.
template <class T> struct Column {
  const T* points;
  const T* masses;  // near 1 on average
  int64_t count;
  bool weighted;   // else all masses are 1
  double* fields;  // per point: sums of -kappa' / 2 times the others' masses
};

// fields[lane] -= factor * v[lane]
template <class T> PYKERNELS_INLINE void subtract_wide(double* fields, Vector<T> v, double factor) {
  VectorD parts[kWideParts<T>];
  widen(v, parts);
  for (const VectorD part : parts) {
    store(fields, load(fields) - factor * part);
    fields += kLanes<double>;
  }
}

// Rows [first, last) with kVectors vectors of columns from `at`. Adds to sums, one for each of the strip's
// rows; returns the sum of kappa.
template <class T, int kVectors, bool kSlopes, bool kWeighted, class Kernel>
PYKERNELS_INLINE double sum_tile(const Kernel& kernel, const Column<T>& rows, int64_t first, int64_t last,
                                 const Column<T>& columns, int64_t at, Vector<T>* sums, double factor) {
  // The total is of many numbers that may be alike, so that rounding adds up: `lost` keeps what it loses.
  Vector<T> point[kVectors], mass[kVectors], field[kVectors], total{}, lost{};
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    point[v] = load(columns.points + at + v * kLanes<T>);
    if constexpr (kWeighted) mass[v] = load(columns.masses + at + v * kLanes<T>);
    field[v] = Vector<T>{};
  }
  for (int64_t row = first; row < last;) {
    Vector<T> some[kVectors] = {};
    for (const int64_t end = at_most(row + kSomeRows, last); row < end; ++row) {
      const Vector<T> x = splat(rows.points[row]);
      Vector<T> of_row{}, kappas{};
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        Vector<T> kappa, slope;
        kernel(x - point[v], kappa, slope);
        if constexpr (kWeighted) {
          kappas = fma(kappa, mass[v], kappas);
          if constexpr (kSlopes) {
            some[v] = fma(slope, splat(rows.masses[row]), some[v]);
            of_row = fma(slope, mass[v], of_row);
          }
        } else {
          kappas += kappa;
          if constexpr (kSlopes) {
            some[v] += slope;
            of_row += slope;
          }
        }
      }
      if constexpr (kWeighted) kappas *= splat(rows.masses[row]);
      const Vector<T> previous = total, added = kappas - lost;
      total = previous + added;
      lost = (total - previous) - added;
      if constexpr (kSlopes) sums[row - first] += of_row;
    }
    if constexpr (kSlopes) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) field[v] += some[v];
    }
  }
  if constexpr (kSlopes) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      subtract_wide<T>(columns.fields + at + v * kLanes<T>, field[v], factor);
  }
  return wide_sum(total) - wide_sum(lost);
}

// The same, with masses only where they are not all 1.
template <class T, int kVectors, bool kSlopes, class Kernel>
double sum_some(const Kernel& kernel, const Column<T>& rows, int64_t first, int64_t last,
                const Column<T>& columns, int64_t at, Vector<T>* sums, double factor) {
  const bool whole = at + kVectors * kLanes<T> <= columns.count;
  if (rows.weighted || columns.weighted || !whole)
    return sum_tile<T, kVectors, kSlopes, true>(kernel, rows, first, last, columns, at, sums, factor);
  return sum_tile<T, kVectors, kSlopes, false>(kernel, rows, first, last, columns, at, sums, factor);
}

// Rows [first, last), a strip of them, with columns [begin, end): adds factor_rows times what the columns are
// to them to their fields, and factor_columns times the reverse. Returns the sum of kappa.
template <class T, bool kSlopes, class Kernel>
double sum_strip(const Kernel& kernel, const Column<T>& rows, int64_t first, int64_t last,
                 const Column<T>& columns, int64_t begin, double factor_rows, double factor_columns) {
  alignas(kVectorBytes) Vector<T> sums[kStripRows];
  double total = 0;
  constexpr int64_t kStep = kTogether * kLanes<T>;
  while (begin < columns.count) {
    const int64_t end = at_most(begin + kChunkVectors * kLanes<T>, columns.count);
    for (int64_t row = 0; row < last - first && kSlopes; ++row) sums[row] = Vector<T>{};
    for (; begin + kStep <= end; begin += kStep)
      total +=
          sum_some<T, kTogether, kSlopes>(kernel, rows, first, last, columns, begin, sums, factor_columns);
    for (; begin < end; begin += kLanes<T>)
      total += sum_some<T, 1, kSlopes>(kernel, rows, first, last, columns, begin, sums, factor_columns);
    for (int64_t row = 0; row < last - first && kSlopes; ++row)
      rows.fields[first + row] += factor_rows * wide_sum(sums[row]);
  }
  return total;
}

// All ordered pairs of a strip's rows among themselves, and of them with later ones: u'Ku's share.
template <class T, bool kSlopes, class Kernel>
double sum_within(const Kernel& kernel, const Column<T>& sample, int64_t first, int64_t last, double factor) {
  alignas(kVectorBytes) Vector<T> sums[kStripRows];
  for (Vector<T>& sum : sums) sum = Vector<T>{};
  double total = 0;
  for (int64_t at = first; at < last; at += kLanes<T>) {
    // Rows before the vector's own, and then its own, where each pair is met twice.
    const int64_t end = at_most(at + kLanes<T>, last);
    Vector<T> unused[kLanes<T>] = {};
    total += 2 * sum_some<T, 1, kSlopes>(kernel, sample, first, at, sample, at, sums, factor);
    total += sum_some<T, 1, kSlopes>(kernel, sample, at, end, sample, at, unused, factor);
  }
  for (int64_t row = first; row < last && kSlopes; ++row)
    sample.fields[row] += factor * wide_sum(sums[row - first]);
  return total + 2 * sum_strip<T, kSlopes>(kernel, sample, first, last, sample, last, factor, factor);
}

}  // namespace
}  // namespace pykernels
