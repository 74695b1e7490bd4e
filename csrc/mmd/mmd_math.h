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

// A value from its quadratic forms: of w, of u and of v.
PYKERNELS_INLINE double mmd_of_forms(double w, double u, double v, double kappa_0, double excess_u,
                                     double excess_v) {
  return w + excess_u * (u - kappa_0) + excess_v * (v - kappa_0);
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
