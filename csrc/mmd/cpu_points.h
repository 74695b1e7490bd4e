// Points in memory as the hot loops read them: rows one after the other, in units of a few numbers that run
// on from row to row, so that no lane is idle whatever the number of dimensions. kUnit rows make dims units;
// then the dimensions of the lanes repeat.
#pragma once

#include <math.h>

#include "core/arena.h"
#include "core/simd.h"
#include "core/tensor.h"
#include "mmd/mmd.h"

namespace pykernels {
namespace {

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// As wide as eight numbers where a register holds them, for eight is what a panel has; at least four.
template <class T> constexpr int kUnit = kLanes<T> >= 8 ? 8 : 4;
template <class T, int kCount> struct UnitOf {
  using type = Octet<T>;
};
template <class T> struct UnitOf<T, 4> {
  using type = Quad<T>;
};
template <class T> using Unit = typename UnitOf<T, kUnit<T>>::type;

template <class T> PYKERNELS_INLINE Unit<T> load_unit(const T* from) {
  Unit<T> unit;
  std::memcpy(&unit, from, sizeof unit);
  return unit;
}
template <class T> PYKERNELS_INLINE void store_unit(T* to, Unit<T> unit) {
  std::memcpy(to, &unit, sizeof unit);
}

// rows[i][j] and rows[j][i] change places.
template <class V> PYKERNELS_INLINE void transpose_units(V (&rows)[4]) {
  const V a = __builtin_shufflevector(rows[0], rows[1], 0, 4, 2, 6),
          b = __builtin_shufflevector(rows[0], rows[1], 1, 5, 3, 7),
          c = __builtin_shufflevector(rows[2], rows[3], 0, 4, 2, 6),
          d = __builtin_shufflevector(rows[2], rows[3], 1, 5, 3, 7);
  rows[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  rows[1] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  rows[2] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  rows[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}
template <class V> PYKERNELS_INLINE void transpose_units(V (&rows)[8]) {
  V pair[8], quad[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pair[i] = __builtin_shufflevector(rows[i], rows[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    pair[i + 1] = __builtin_shufflevector(rows[i], rows[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      quad[i + j] = __builtin_shufflevector(pair[i + j], pair[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      quad[i + j + 2] = __builtin_shufflevector(pair[i + j], pair[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = __builtin_shufflevector(quad[i], quad[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    rows[i + 4] = __builtin_shufflevector(quad[i], quad[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// One sample of one batch element.
template <class T> struct Points {
  const T* data;
  int64_t stride_i, stride_d, count, dims;
  const double* masses;  // null: equal ones
  int64_t mass_stride;
  const double* ranges;  // [dims][2]; null: not known yet

  T at(int64_t i, int64_t d) const { return data[i * stride_i + d * stride_d]; }
  double mass(int64_t i) const { return masses ? masses[i * mass_stride] : 1.0 / static_cast<double>(count); }
  bool defined(int64_t d) const { return ranges[2 * d] == ranges[2 * d]; }
  bool all_defined() const {
    for (int64_t d = 0; ranges && d < dims; ++d)
      if (!defined(d)) return false;
    return true;
  }
  bool dense() const { return stride_i == dims && (dims == 1 || stride_d == 1); }
};

template <class T>
Points<T> points_of(const MmdProblem& problem, bool of_x, int64_t index, const double* ranges) {
  const BatchShape& batch = problem.batch;
  const StridedTensor& tensor = of_x ? problem.x : problem.y;
  const StridedTensor& masses = of_x ? problem.x_masses : problem.y_masses;
  return {
      static_cast<const T*>(tensor.data) + batch_offset(batch, tensor, index),
      tensor.strides[batch.ndim],
      tensor.strides[batch.ndim + 1],
      of_x ? problem.n : problem.m,
      problem.dims,
      masses.data ? static_cast<const double*>(masses.data) + batch_offset(batch, masses, index) : nullptr,
      masses.strides[batch.ndim],
      ranges ? ranges + index * problem.dims * 2 : nullptr};
}

// One batch element, and where its results go.
template <class T> struct Element {
  Points<T> samples[2];
  double counts[2];       // n and m, of all processes
  double excess[2];       // c_u and c_v; 0 for the biased estimate
  T* slopes[2];           // null: not asked for
  const MmdShare* share;  // null: there is one process
  bool any_slopes() const { return slopes[0] || slopes[1]; }
};

// Rows [first, first + count) without gaps: as they are, or copied to scratch, undefined dimensions as 0.
template <class T>
const T* rows_of(const Points<T>& points, bool in_place, int64_t first, int64_t count, T* scratch) {
  if (in_place) return points.data + first * points.stride_i;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t d = 0; d < points.dims; ++d)
      scratch[i * points.dims + d] = points.ranges && !points.defined(d) ? T(0) : points.at(first + i, d);
  return scratch;
}

// Calls unit(position in the rows, unit's place among dims units, numbers in it) for all of `count` rows.
template <class T, class Body>
PYKERNELS_INLINE void for_units(int64_t count, int64_t dims, const Body& unit) {
  const int64_t numbers = count * dims;
  int64_t position = 0, place = 0;
  for (; position + kUnit<T> <= numbers; position += kUnit<T>) {
    unit(position, place, kUnit<T>);
    place = place + 1 == dims ? 0 : place + 1;
  }
  if (position < numbers) unit(position, place, static_cast<int>(numbers - position));
}

// The unit at `position`, filled up with zeros.
template <class T> PYKERNELS_INLINE Unit<T> unit_at(const T* rows, int64_t position, int held) {
  if (held == kUnit<T>) return load_unit(rows + position);
  Unit<T> unit{};
  for (int lane = 0; lane < held; ++lane) unit[lane] = rows[position + lane];
  return unit;
}

}  // namespace
}  // namespace pykernels
