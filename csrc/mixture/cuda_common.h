// What the CUDA kernels of this room share: reading the problem, the pair formula in standardised form, and
// the running sum of exponentials.
//
// With s = sqrt(log2(e)/2) / sigma the density of one dimension is  log2 N = log2(s) + kLog2Unit - t^2,  t =
// (z - m) s. Multiplied out, t = z s - m s takes one fused instruction instead of two, but carries the
// rounding of m s. So each tile of components is looked at as it is read: only where every |m s| is small
// does its loop use the multiplied-out form. float64 is rarer, and never does: that halves its code.
#pragma once

#include <cstring>
#include <type_traits>

#include "core/cuda_kernel.h"
#include "core/tensor.h"
#include "mixture/mixture.h"
#include "mixture/mixture_math.h"

namespace pykernels {

template <class T> struct Limits;

template <> struct Limits<float> {
  static constexpr float kLargest = 3.4e38f;           // of a log-weight, and below zero of any density
  static constexpr float kNarrowest = 1.7e38f;         // s: twice as much must be a number
  static constexpr float kSmallest = 1.17549435e-38f;  // without losing digits
  static constexpr float kSafeProduct = 8;             // t is then off by at most 5e-7
};

template <> struct Limits<double> {
  static constexpr double kLargest = 1.79e308;
  static constexpr double kNarrowest = 8.9e307;
  static constexpr double kSmallest = 2.2250738585072014e-308;
};

constexpr double kRootHalfLog2E = 0.84932180028801904272;  // sqrt(log2(e) / 2)
constexpr double kLog2Unit = -1.0901312512086082;          // -log2(kRootHalfLog2E) - log2(2 pi) / 2

// A part of a tensor that belongs to one batch element.
template <class T> struct Matrix {
  T* data;
  int64_t row_stride, column_stride;
};

template <class T> PYKERNELS_DEVICE T& at(const Matrix<T>& matrix, int64_t row, int64_t column) {
  return matrix.data[row * matrix.row_stride + column * matrix.column_stride];
}

template <class T>
PYKERNELS_DEVICE Matrix<T> matrix_of(const BatchShape& batch, const StridedTensor& tensor, uint32_t element) {
  return {static_cast<T*>(tensor.data) + batch_offset(batch, tensor, element), tensor.strides[batch.ndim],
          tensor.strides[batch.ndim + 1]};
}

template <class T> struct Components {
  Matrix<const T> loc, scale, log_weights;  // log_weights.data null: each weighs log2_weight
  double log2_weight;
  int64_t count;
  int dims;
};

// One batch element of a problem.
template <class T> struct Element {
  Components<T> components;
  Matrix<const T> value;
};

template <class T> PYKERNELS_DEVICE Element<T> element_of(const MixtureProblem& problem, uint32_t index) {
  const StridedTensor &value = problem.value, &loc = problem.loc, &scale = problem.scale,
                      &weights = problem.log_weights;
  int64_t of_value = 0, of_loc = 0, of_scale = 0, of_weights = 0;
  const int rank = problem.batch.ndim;
  PYKERNELS_UNROLL_BY(1)
  for (int dim = rank - 1; dim >= 0; --dim) {  // batch_offset of all four at once: divisions are slow
    const uint32_t size = static_cast<uint32_t>(problem.batch.sizes[dim]);
    const int64_t position = index % size;
    index /= size;
    of_value += position * value.strides[dim];
    of_loc += position * loc.strides[dim];
    of_scale += position * scale.strides[dim];
    of_weights += position * weights.strides[dim];
  }
  const auto part = [&](const StridedTensor& tensor, int64_t offset, int64_t column_stride) {
    return Matrix<const T>{static_cast<const T*>(tensor.data) + offset, tensor.strides[rank], column_stride};
  };
  Element<T> element;
  element.components = {part(loc, of_loc, loc.strides[rank + 1]),
                        part(scale, of_scale, scale.strides[rank + 1]),
                        {nullptr, 0, 0},
                        problem.pairs.other,
                        problem.components,
                        static_cast<int>(problem.dims)};
  if (weights.data) element.components.log_weights = part(weights, of_weights, 0);
  element.value = part(value, of_value, value.strides[rank + 1]);
  return element;
}

// In base 2; cut to the finite range above, so that differences of running sums stay numbers.
template <class T> PYKERNELS_DEVICE T log2_weight(const Components<T>& components, int64_t i) {
  if (!components.log_weights.data) return static_cast<T>(components.log2_weight);
  const T weight = static_cast<T>(kLog2E) * at(components.log_weights, i, 0);
  return weight > Limits<T>::kLargest ? Limits<T>::kLargest : weight;
}

template <class T> PYKERNELS_DEVICE bool is_absent(const Components<T>& components, int64_t i) {
  return components.log_weights.data && at(components.log_weights, i, 0) == -static_cast<T>(INFINITY);
}

template <class T> struct Standard {
  T s, m;
};

// A component in one dimension. An absent one stands at 0 with s = 1: its log-weight keeps it out, whatever
// its loc and scale are, and wherever the value is.
template <class T> PYKERNELS_DEVICE Standard<T> standard(T loc, T scale, bool absent) {
  if (absent) return {1, 0};
  T s = static_cast<T>(kRootHalfLog2E) / scale;
  if (s > Limits<T>::kNarrowest) s = Limits<T>::kNarrowest;
  if (!(scale > 0)) s = static_cast<T>(NAN);
  return {s, loc};
}

template <class T>
PYKERNELS_DEVICE Standard<T> standard_of(const Components<T>& components, int64_t i, int64_t d) {
  return standard(at(components.loc, i, d), at(components.scale, i, d), is_absent(components, i));
}

template <class T>
constexpr bool kAlwaysAccurate = sizeof(T) == 8;  // the compiler then drops the other loops

template <class T> PYKERNELS_DEVICE bool needs_accurate_form(const Standard<T>& component) {
  if constexpr (kAlwaysAccurate<T>)
    return true;
  else
    return !(fabs(component.m * component.s) <= Limits<T>::kSafeProduct);  // NaN does, too
}

template <bool accurate, class T> PYKERNELS_DEVICE T standardized(T z, T s, T m) {
  return accurate ? (z - m) * s : fma(z, s, -m);
}

// 16 bytes at once between memory and registers.
template <class T> struct alignas(16) Quad {
  static constexpr int kCount = 16 / sizeof(T);
  T values[kCount];
};

template <int count, class T> PYKERNELS_DEVICE void load_aligned(const T* source, T (&values)[count]) {
  constexpr int kStep = Quad<T>::kCount;
  static_assert(count % kStep == 0, "whole quads");
  PYKERNELS_UNROLL
  for (int i = 0; i < count; i += kStep) {
    const Quad<T> quad = *reinterpret_cast<const Quad<T>*>(source + i);
    PYKERNELS_UNROLL
    for (int j = 0; j < kStep; ++j) values[i + j] = quad.values[j];
  }
}

template <int count, class T> PYKERNELS_DEVICE void store_aligned(const T (&values)[count], T* target) {
  constexpr int kStep = Quad<T>::kCount;
  static_assert(count % kStep == 0, "whole quads");
  PYKERNELS_UNROLL
  for (int i = 0; i < count; i += kStep) {
    Quad<T> quad;
    PYKERNELS_UNROLL
    for (int j = 0; j < kStep; ++j) quad.values[j] = values[i + j];
    *reinterpret_cast<Quad<T>*>(target + i) = quad;
  }
}

// Where 2^x is 0, but x times that still a number.
template <class T> constexpr T kLeastLog2 = sizeof(T) == 4 ? -512 : -4096;

// sum_i 2^x_i = mass 2^top. The top starts finite: a sum of nothing but -inf then has mass 0, not NaN.
template <class T> struct alignas(2 * sizeof(T)) ExpSum {
  T top, mass;
};

template <class T> PYKERNELS_DEVICE ExpSum<T> empty_sum() { return {-Limits<T>::kLargest, 0}; }

template <class T> PYKERNELS_DEVICE ExpSum<T> merge(ExpSum<T> a, ExpSum<T> b) {
  const T top = fmax(a.top, b.top);
  return {top, fma(a.mass, fast_exp2(a.top - top), b.mass * fast_exp2(b.top - top))};
}

template <class T> PYKERNELS_DEVICE T log2_of(ExpSum<T> sum) {
  if (sum.top >= Limits<T>::kLargest) return static_cast<T>(INFINITY);  // a log-weight of +inf
  return sum.top + log2(sum.mass);
}

// By how much a component's number is larger than a row's. It fits: 2^31 of both would make 2^62 pairs.
PYKERNELS_DEVICE int ahead_of(int64_t component, int64_t row) { return static_cast<int>(component - row); }

// Whether some pair of a tile has an offset. `ahead` is of its first component and row.
PYKERNELS_DEVICE bool meets_band(const MixtureProblem& problem, int ahead, int rows, int components) {
  if (!depend_on_pair(problem.pairs)) return false;
  return (ahead <= rows && -ahead < components) || ahead + static_cast<int>(problem.rows) <= rows;
}

// What a pair weighs beside its component: nothing, in most tiles; and in the others what PairWeights says.
struct NoOffsets {};

// Of rows `step` apart; `ahead` is of the first of them and the first component. r and i count them.
template <int step> struct BandOffsets {
  const MixtureProblem& problem;
  int ahead;
};

template <class T> PYKERNELS_DEVICE T with_offset(T log2, NoOffsets, int, int) { return log2; }

template <class T, int step>
PYKERNELS_DEVICE T with_offset(T log2, const BandOffsets<step>& band, int r, int i) {
  const int ahead = band.ahead + i - r * step;
  if (ahead == 0) log2 += static_cast<T>(band.problem.pairs.own);
  if (ahead == 1 || ahead == 1 - static_cast<int>(band.problem.rows))
    log2 += static_cast<T>(band.problem.pairs.next);
  return log2;
}

// A product as mantissa 2^exponent, whose logarithm costs one log2 and no more rounding than the factors'.
template <class T> struct LogProduct {
  T mantissa = 1;  // from 1 to 2; or 0, infinite or NaN, as the product is
  int exponent = 0;
};

template <class T> PYKERNELS_DEVICE void multiply(LogProduct<T>& product, T factor) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52, kMost = sizeof(T) == 4 ? 255 : 2047;
  product.mantissa *= factor;
  if (product.mantissa < Limits<T>::kSmallest) {  // a denormal number has no exponent to read
    product.mantissa *= static_cast<T>(1ull << kMantissa);
    product.exponent -= kMantissa;
  }
  Bits bits;
  memcpy(&bits, &product.mantissa, sizeof bits);
  const int exponent = static_cast<int>(bits >> kMantissa) & kMost;
  if (exponent == 0 || exponent == kMost) return;
  constexpr Bits kOne = static_cast<Bits>(kMost / 2) << kMantissa,
                 kRest = (static_cast<Bits>(1) << kMantissa) - 1;
  bits = (bits & kRest) | kOne;
  memcpy(&product.mantissa, &bits, sizeof bits);
  product.exponent += exponent - kMost / 2;
}

template <class T> PYKERNELS_DEVICE void join(LogProduct<T>& product, LogProduct<T> other) {
  multiply(product, other.mantissa);
  product.exponent += other.exponent;
}

// What a component's log-density has beside -t^2, from the product of its s.
template <class T> PYKERNELS_DEVICE T log2_constant(T log2_weight, const LogProduct<T>& product, int dims) {
  const T log2_s = static_cast<T>(product.exponent) + log2(product.mantissa);
  return log2_weight + (log2_s + static_cast<T>(dims * kLog2Unit));
}

}  // namespace pykernels
