// The kernel, its derivative, and the Chebyshev nodes of a panel, written once.
#pragma once

#include <math.h>

#include "core/inline.h"

namespace pykernels {

// sum_l s_l / (s_l + t^2) and its derivative -2 t sum_l s_l / (s_l + t^2)^2. No t^2 may overflow.
template <class V>
PYKERNELS_INLINE void cauchy_kernel(V t, const double* scales, int count, V& kappa, V& derivative) {
  const V q = t * t;
  V sum{}, slope{};
  for (int l = 0; l < count; ++l) {
    const V inverse = 1.0 / (scales[l] + q);
    sum += scales[l] * inverse;
    slope += (scales[l] * inverse) * inverse;
  }
  kappa = sum;
  derivative = (-2.0 * t) * slope;
}

// Quadratic forms of w, u and v, and what u and v sum to: 1, up to rounding.
struct QuadraticForms {
  double w, u, v, mass_u = 1, mass_v = 1;
};

// The value of a dimension. u'Ku and kappa(0) nearly cancel where the kernel is wide, so that both get the
// same mass.
PYKERNELS_INLINE double value_of_forms(const QuadraticForms& of, double kappa_0, double excess_u,
                                       double excess_v) {
  return of.w + excess_u * (of.u - kappa_0 * of.mass_u * of.mass_u) +
         excess_v * (of.v - kappa_0 * of.mass_v * of.mass_v);
}

constexpr int kMostOrder = 16;

// Interpolation at the p roots of T_p, from -1 to 1.
struct ChebyshevRule {
  int order;
  double root[kMostOrder];                  // symmetric to the last bit
  double lagrange[kMostOrder][kMostOrder];  // [k][a]: c_k T_k(root_a), c_0 = 1 / p, else 2 / p
};

static inline ChebyshevRule chebyshev_rule(int order) {
  ChebyshevRule rule{};
  rule.order = order;
  const double step = 3.14159265358979323846 / (2 * order);
  for (int a = 0; a < order; ++a) {
    rule.root[a] = ::sin(step * (2 * a + 1 - order));
    for (int k = 0; k < order; ++k) {
      // T_k(-x) = (-1)^k T_k(x): sin(k pi / 2 + k asin x) at the mirrored root.
      const double t = ::cos(step * (static_cast<double>(k) * (2 * (order - 1 - a) + 1)));
      rule.lagrange[k][a] = (k == 0 ? 1.0 : 2.0) / order * t;
    }
  }
  return rule;
}

}  // namespace pykernels
