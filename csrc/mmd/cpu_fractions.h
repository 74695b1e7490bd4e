// The kernel of a pair of points as few fractions. With q = t^2, scales s_l that share one,
//
//   sum_l s_l / (s_l + q)     = N(q) / P(q),      P(q) = prod_l (s_l + q),
//   sum_l s_l / (s_l + q)^2   = M(q) / P(q)^2,    of which kappa'(t) is -2 t times,
//
// cost one division. All coefficients are positive, so that nothing cancels. They overflow where q is large,
// the sooner the more scales share a fraction: hence two kernels, for points that are near enough and for
// any.
#pragma once

#include <math.h>

#include "core/simd.h"
#include "mmd/mmd.h"

namespace pykernels {
namespace {

// Polynomials from the highest power down, without a leading 1: N and M are `lead` times those here.
template <class T, int kDegree> struct Fraction {
  T lead, numerator[kDegree - 1], slope[2 * kDegree - 2], denominator[kDegree];
};

// polynomial *= q + root, for one of that degree.
static inline void multiply_by_root(double* polynomial, int degree, double root) {
  for (int i = degree + 1; i > 0; --i)
    polynomial[i] = (i <= degree ? polynomial[i] : 0) + root * polynomial[i - 1];
}

// Where there are fewer scales than degrees, factors q + 1 stand above and below.
template <class T, int kDegree> Fraction<T, kDegree> fraction_of(const double* scales, int count) {
  double numerator[kDegree] = {}, slope[2 * kDegree - 1] = {}, root[kDegree], whole[kDegree + 1] = {1};
  for (int l = 0; l < kDegree; ++l) root[l] = l < count ? scales[l] : 1;
  for (int l = 0; l < kDegree; ++l) multiply_by_root(whole, l, root[l]);
  for (int l = 0; l < count; ++l) {
    double others[kDegree] = {1};
    for (int k = 0, degree = 0; k < kDegree; ++k)
      if (k != l) multiply_by_root(others, degree++, root[k]);
    for (int i = 0; i < kDegree; ++i) {
      numerator[i] += root[l] * others[i];
      for (int j = 0; j < kDegree; ++j) slope[i + j] += root[l] * others[i] * others[j];
    }
  }
  const double lead = numerator[0];
  Fraction<T, kDegree> fraction;
  fraction.lead = static_cast<T>(lead);
  for (int i = 0; i < kDegree; ++i) fraction.denominator[i] = static_cast<T>(whole[i + 1]);
  for (int i = 1; i < kDegree; ++i) fraction.numerator[i - 1] = static_cast<T>(numerator[i] / lead);
  for (int i = 1; i < 2 * kDegree - 1; ++i) fraction.slope[i - 1] = static_cast<T>(slope[i] / lead);
  return fraction;
}

template <class T, int kCount>
PYKERNELS_INLINE Vector<T> monic(Vector<T> q, const T (&coefficients)[kCount]) {
  Vector<T> p = q + splat(coefficients[0]);
#pragma GCC unroll 16
  for (int i = 1; i < kCount; ++i) p = fma(p, q, splat(coefficients[i]));
  return p;
}

// Exponents of two that T has room for.
template <class T> constexpr int kExponents = Float<T>::bias - 2;

// How far points may be apart where up to kDegree scales, the largest of them 1 to 4, share a fraction: M is
// at most 4 kDegree (4 + q)^(2 kDegree - 2). And by which power of two the scales may differ.
template <class T, int kDegree> double reach(bool slopes) {
  const int degree = slopes && kDegree > 2 ? 2 * kDegree - 2 : kDegree;
  return ::exp2(static_cast<double>(kExponents<T> - 6) / (2 * degree));
}
template <class T, int kDegree> constexpr int kRatio = kExponents<T> / (2 * kDegree);

// All scales in one fraction.
template <class T, int kDegree, bool kSlopes> struct NearKernel {
  Fraction<T, kDegree> fraction;
  T centre;

  // kappa less the centre, and -kappa' / 2 times the lead.
  __attribute__((always_inline)) void operator()(Vector<T> t, Vector<T>& kappa, Vector<T>& slope) const {
    const Vector<T> q = t * t;
    const Vector<T> inverse = splat(fraction.lead) / monic(q, fraction.denominator);
    kappa = fma(monic(q, fraction.numerator), inverse, splat(-centre));
    if constexpr (kSlopes) slope = (monic(q, fraction.slope) * inverse) * (t * inverse);
  }
};

constexpr int kShared = 3;  // scales of one fraction, of points anywhere

template <class T> struct FarFraction {
  Fraction<T, kShared> fraction;
  T factor;  // of distances: makes the largest scale 1 to 4
  T slope_factor;
};

// Fractions of up to three scales each, of distances cut to where the kernel is 0 to all that counts.
template <class T, bool kSlopes> struct FarKernel {
  const FarFraction<T>* fractions;
  int count;
  T farthest, centre;

  __attribute__((always_inline)) void operator()(Vector<T> t, Vector<T>& kappa, Vector<T>& slope) const {
    const Vector<T> most = splat(farthest);
    kappa = splat(-centre);
    slope = Vector<T>{};
    for (int g = 0; g < count; ++g) {
      const FarFraction<T>& far = fractions[g];
      Vector<T> scaled = t * splat(far.factor);
      scaled = scaled > -most ? scaled : -most;
      scaled = scaled < most ? scaled : most;
      const Vector<T> q = scaled * scaled;
      const Vector<T> inverse = splat(far.fraction.lead) / monic(q, far.fraction.denominator);
      kappa = fma(monic(q, far.fraction.numerator), inverse, kappa);
      if constexpr (kSlopes)
        slope = fma((monic(q, far.fraction.slope) * inverse) * (scaled * inverse), splat(far.slope_factor),
                    slope);
    }
  }
};

// The power of two whose square makes a scale 1 to 4, as far as T has it and its inverse.
template <class T> double unit_factor(double scale) {
  int exponent;
  ::frexp(scale, &exponent);  // below 2^exponent
  const int half = 1 - ((exponent + 1) >> 1), most = kExponents<T> - 1;
  return ::ldexp(1.0, half > most ? most : half < -most ? -most : half);
}

// What the scales of one call come to: one fraction, if they are few and alike, and those for any distance.
template <class T> struct Fractions {
  int degree;           // of the one: 3 or 6; 0: there is none
  double factor;        // of its points
  double slope_factor;  // of what is summed for its slopes
  Fraction<T, 3> three;
  Fraction<T, 6> six;
  FarFraction<T> far[kMostMmdScales];
  int count;
};

template <class T> Fractions<T> fractions_of(const MmdProblem& problem) {
  Fractions<T> fractions{};
  double scales[kMostMmdScales];
  const int total = problem.num_scales;
  for (int l = 0; l < total; ++l) {  // in order
    int at = l;
    for (; at > 0 && scales[at - 1] < problem.scales[l]; --at) scales[at] = scales[at - 1];
    scales[at] = problem.scales[l];
  }
  double scaled[kMostMmdScales];
  const auto scale_from = [&](int first, int count) {
    const double factor = unit_factor<T>(scales[first]);
    for (int l = 0; l < count; ++l) scaled[l] = scales[first + l] * factor * factor;
    return factor;
  };
  fractions.factor = scale_from(0, total);
  const double smallest = scaled[total - 1];
  if (scaled[0] >= 1 && scaled[0] <= 4) {
    if (total <= 3 && smallest >= ::ldexp(1.0, -kRatio<T, 3>)) {
      fractions.degree = 3;
      fractions.three = fraction_of<T, 3>(scaled, total);
    } else if (total <= 6 && smallest >= ::ldexp(1.0, -kRatio<T, 6>)) {
      fractions.degree = 6;
      fractions.six = fraction_of<T, 6>(scaled, total);
    }
  }
  const T lead = fractions.degree == 3 ? fractions.three.lead : fractions.six.lead;
  fractions.slope_factor = fractions.factor / static_cast<double>(lead);
  const double ratio = ::ldexp(1.0, -kRatio<T, kShared>);
  for (int first = 0, next; first < total; first = next) {
    FarFraction<T>& far = fractions.far[fractions.count++];
    for (next = first; next < total && next < first + kShared && scales[next] >= ratio * scales[first];)
      ++next;
    far.factor = static_cast<T>(scale_from(first, next - first));
    // Only where T has no such factor is a scale too small or too large for a fraction.
    for (int l = 0; l < next - first; ++l)
      scaled[l] = scaled[l] < ratio ? ratio : scaled[l] > 1 / ratio ? 1 / ratio : scaled[l];
    far.fraction = fraction_of<T, kShared>(scaled, next - first);
    far.slope_factor = far.factor / far.fraction.lead;
  }
  return fractions;
}

}  // namespace
}  // namespace pykernels
