// The kernel of a pair of points as few fractions. With q = t^2, up to three scales s_l share one:
//
//   sum_l s_l / (s_l + q) = N(q) / P(q),    sum_l s_l / (s_l + q)^2 = M(q) / P(q)^2,    P(q) = prod_l (s_l +
//   q),
//
// of which kappa'(t) is -2 t times the second. All coefficients are positive, so that nothing cancels. So
// that nothing overflows, distances are in units that make the largest scale about 1, a power of two each,
// and are cut to where the kernel is 0 to all that counts.
#pragma once

#include "mmd/cuda_common.h"

namespace pykernels {
namespace mmd {

constexpr int kShared = 3;  // scales of a fraction

// Polynomials, the highest power first.
template <class T> struct Fraction {
  T whole[kShared + 1], numerator[kShared], slope[2 * kShared - 1];
};

template <class T> struct Fractions {
  T unit, farthest, farthest_squared;  // unit times a distance is cut to farthest
  int count;
  Fraction<T> fractions[kMostMmdScales];
};

template <class T> struct PairLimits;
template <> struct PairLimits<float> {
  static constexpr double kFarthest = 0x1p14;      // M, of degree 8 in t, is below 2^116
  static constexpr double kLeastShared = 0x1p-24;  // M at 0 is above 2^-122
  static constexpr double kLeast = 0x1p-100, kLeastUnit = 0x1p-60;
};
template <> struct PairLimits<double> {
  static constexpr double kFarthest = 0x1p100, kLeastShared = 0x1p-180;
  static constexpr double kLeast = 0x1p-900, kLeastUnit = 0x1p-500;
};

template <class T> Fraction<T> fraction_of(const double* scales, int count) {
  double whole[kShared + 1] = {}, numerator[kShared] = {}, slope[2 * kShared - 1] = {};
  // The product of s + q for all scales but one; ascending powers.
  const auto product_without = [&](int left_out, double (&product)[kShared + 1]) {
    product[0] = 1;
    for (int l = 0; l < count; ++l) {
      if (l == left_out) continue;
      for (int power = kShared; power > 0; --power)
        product[power] = product[power - 1] + scales[l] * product[power];
      product[0] *= scales[l];
    }
  };
  product_without(-1, whole);
  for (int l = 0; l < count; ++l) {
    double others[kShared + 1] = {};
    product_without(l, others);
    for (int i = 0; i < kShared; ++i) {
      numerator[i] += scales[l] * others[i];
      for (int j = 0; j < kShared; ++j) slope[i + j] += scales[l] * others[i] * others[j];
    }
  }
  Fraction<T> fraction;
  for (int i = 0; i <= kShared; ++i) fraction.whole[i] = static_cast<T>(whole[kShared - i]);
  for (int i = 0; i < kShared; ++i) fraction.numerator[i] = static_cast<T>(numerator[kShared - 1 - i]);
  for (int i = 0; i < 2 * kShared - 1; ++i) fraction.slope[i] = static_cast<T>(slope[2 * kShared - 2 - i]);
  return fraction;
}

template <class T> Fractions<T> fractions_of(const MmdProblem& problem) {
  using Limits = PairLimits<T>;
  double scales[kMostMmdScales];
  const int total = problem.num_scales;
  for (int l = 0; l < total; ++l) {  // the largest first
    int at = l;
    for (; at > 0 && scales[at - 1] < problem.scales[l]; --at) scales[at] = scales[at - 1];
    scales[at] = problem.scales[l];
  }
  // Large scales are made about 1. Small ones stay as they are, lest far points become infinite.
  int exponent;
  ::frexp(scales[0], &exponent);
  const double wanted = ::ldexp(1.0, -(exponent / 2));
  const double unit = scales[0] <= 16 ? 1 : wanted < Limits::kLeastUnit ? Limits::kLeastUnit : wanted;
  for (int l = 0; l < total; ++l) {
    scales[l] *= unit * unit;
    if (scales[l] < Limits::kLeast) scales[l] = Limits::kLeast;
  }
  Fractions<T> fractions{};
  fractions.unit = static_cast<T>(unit);
  fractions.farthest = static_cast<T>(Limits::kFarthest);
  fractions.farthest_squared = fractions.farthest * fractions.farthest;
  for (int first = 0; first < total;) {
    int count = 1;
    while (count < kShared && first + count < total && scales[first + count] >= Limits::kLeastShared) ++count;
    fractions.fractions[fractions.count++] = fraction_of<T>(scales + first, count);
    first += count;
  }
  return fractions;
}

template <int terms, class T> PYKERNELS_DEVICE T polynomial(const T (&coefficients)[terms], T q) {
  T value = fma(coefficients[0], q, coefficients[1]);
  PYKERNELS_UNROLL
  for (int i = 2; i < terms; ++i) value = fma(value, q, coefficients[i]);
  return value;
}

// Adds mass kappa(t), and with slopes mass t times the derivative's fraction. count: of fractions; 0: as many
// as there are.
template <int count, bool slopes, class T>
PYKERNELS_DEVICE void add_pair(const Fractions<T>& kernel, T distance, T mass, bool weighted, T& kappa,
                               T& slope) {
  // A distance of infinity is one, too.
  const T t = slopes ? fmax(-kernel.farthest, fmin(kernel.farthest, distance)) : distance;
  const T q = slopes ? t * t : fmin(kernel.farthest_squared, t * t);
  T value = 0, steepness = 0;
  const auto add = [&](const Fraction<T>& fraction) {
    const T inverse = fast_reciprocal(polynomial(fraction.whole, q));
    T& sum = weighted ? value : kappa;
    sum = fma(polynomial(fraction.numerator, q), inverse, sum);
    if (slopes) steepness = fma(polynomial(fraction.slope, q) * inverse, inverse, steepness);
  };
  if constexpr (count > 0) {
    PYKERNELS_UNROLL
    for (int i = 0; i < count; ++i) add(kernel.fractions[i]);
  } else {
    PYKERNELS_UNROLL_BY(1)
    for (int i = 0; i < kernel.count; ++i) add(kernel.fractions[i]);
  }
  if (weighted) kappa = fma(mass, value, kappa);
  if (slopes) slope = fma(weighted ? mass * t : t, steepness, slope);
}

}  // namespace mmd
}  // namespace pykernels
