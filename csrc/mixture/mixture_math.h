// The pair formula and its derivatives as the CPU vectors V take them; cuda_common.h has the same in the form
// that a GPU likes. Logarithms have base 2:
//
//   log2 N(z; m, s^2) = -log2 s - log2(2 pi)/2 - w e^2,    e = z - m,    w = log2(e)/(2 s^2).
//
// The difference is taken first. Multiplied out, z^2 w - 2 z m w + m^2 w loses up to 1.5 nat where s = 0.01.
#pragma once

#include "core/inline.h"

namespace pykernels {

constexpr double kLog2E = 1.44269504088896340736;
constexpr double kLn2 = 0.69314718055994530942;
constexpr double kHalfLog2TwoPi = 1.32574806473615797;  // log2(2 pi) / 2

template <class T, class V> PYKERNELS_INLINE V half_precision(V scale) {
  return static_cast<T>(0.5 * kLog2E) / (scale * scale);
}

template <class V> PYKERNELS_INLINE V add_weighted_square(V e, V w, V total) { return fma(e * e, w, total); }

// Sums of one component and dimension over the rows, r being a row's upstream gradient times the component's
// responsibility for it:  first = sum r e,  second = sum r e^2,  mass = sum r.  Then
//   d/dm = 2 ln2 w first,    d/ds = (2 ln2 w second - mass) / s,    d/dz = -2 ln2 sum_i r_i w_i e_i.
template <class T, class V> PYKERNELS_INLINE V loc_gradient(V w, V first) {
  return static_cast<T>(2 * kLn2) * w * first;
}

template <class T, class V> PYKERNELS_INLINE V scale_gradient(V w, V second, V mass, V scale) {
  return (static_cast<T>(2 * kLn2) * w * second - mass) / scale;
}

constexpr double kValueGradient = -2 * kLn2;

}  // namespace pykernels
