// Statistics of the responsibilities in the pass that sums them. With e_i = 2^(x_i - reference), where x_i is
// the exponent of component i, three sums give them all:
//
//   total = sum e_i,    square = sum e_i^2,    product = sum e_i (x_i - reference),
//
//   log2 perplexity = log2(total) - product / total,    collision count = total^2 / square.
#pragma once

#include "mixture/cpu_forward.h"

namespace pykernels {
namespace {

// Beside the reference and the total, which are in a Running.
struct Moments {
  double square[kGroup], product[kGroup];
};

// The reference, and with it every exponent's distance from it, has moved by `gap`, to where 2^gap =
// shrink^-1.
template <class Sum, class Number>
PYKERNELS_INLINE void move_moments(Sum& square, Sum& product, const Sum& total, Number gap, Number shrink) {
  square *= shrink * shrink;
  product = shrink * (product - gap * total);
}

// As in add_joint, where some exponents are over the headroom, NaN or infinite.
template <class T>
__attribute__((noinline)) void move_all(Vector<T> (&exponent)[kGroup], Vector<T> (&total)[kGroup],
                                        Vector<T> (&square)[kGroup], Vector<T> (&product)[kGroup],
                                        T (&reference)[kGroup], Running& state, Moments& moments) {
  T before[kGroup];
  Vector<T> held[kGroup];
  const Running old = state;
  for (int k = 0; k < kGroup; ++k) {
    before[k] = reference[k];
    held[k] = total[k];
  }
  move_references<T, Close>(exponent, total, reference, state);
  for (int k = 0; k < kGroup; ++k) {
    if (reference[k] == before[k]) continue;
    if (before[k] == Float<T>::lowest) {  // nothing finite was there
      square[k] = product[k] = Vector<T>{};
      continue;
    }
    const double gap = static_cast<double>(reference[k]) - static_cast<double>(before[k]);
    const double shrink = shrinkage(-gap);
    move_moments(square[k], product[k], held[k], static_cast<T>(gap), static_cast<T>(shrink));
    move_moments(moments.square[k], moments.product[k], old.total[k], gap, shrink);
  }
}

// Adds the components of one chunk to the sums of one group of rows.
template <class T>
void add_statistics(const Chunk<T>& chunk, const T* rows, Running& state, Moments& moments) {
  // Where 2^x is 0, but x times that still a number.
  const Vector<T> floor = splat(static_cast<T>(-4 * Float<T>::bias));
  Vector<T> total[kGroup], square[kGroup], product[kGroup];
  T reference[kGroup];
  for (int k = 0; k < kGroup; ++k) {
    total[k] = square[k] = product[k] = Vector<T>{};
    reference[k] = static_cast<T>(state.reference[k]);
  }
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    const Vector<T> constant = load(chunk.constant + v * kLanes<T>);
    Vector<T> x[kGroup];
    squared_distances(chunk, v, rows, x);
    AllLe<T> below;
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      x[k] = constant - x[k];
      below.look(x[k] - splat(reference[k]), splat(T(Close::kHeadroom)));
    }
    if (__builtin_expect(below.failed(), 0))
      move_all<T>(x, total, square, product, reference, state, moments);
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      x[k] = x[k] - splat(reference[k]);
      x[k] = x[k] > floor ? x[k] : floor;
      const Vector<T> e = exp2(x[k]);
      total[k] += e;
      square[k] = fma(e, e, square[k]);
      product[k] = fma(e, x[k], product[k]);
    }
  }
  for (int k = 0; k < kGroup; ++k) {
    state.total[k] += static_cast<double>(sum(total[k]));
    moments.square[k] += static_cast<double>(sum(square[k]));
    moments.product[k] += static_cast<double>(sum(product[k]));
  }
}

struct Statistics {
  double log2, perplexity, collision_count;
};

// Of one row, from its sums in all splits: split s is at index s * stride.
PYKERNELS_INLINE Statistics statistics_of_splits(const Running* state, const Moments* moments, int64_t splits,
                                                 int64_t stride, int k) {
  double top = state[0].reference[k], total = state[0].total[k];
  double square = moments[0].square[k], product = moments[0].product[k];
  for (int64_t s = 1; s < splits; ++s) {
    double other = state[s * stride].total[k];
    double other_square = moments[s * stride].square[k], other_product = moments[s * stride].product[k];
    const double gap = state[s * stride].reference[k] - top;
    if (gap > 0) {
      const double shrink = shrinkage(-gap);
      move_moments(square, product, total, gap, shrink);
      total *= shrink;
      top += gap;
    } else {
      const double shrink = shrinkage(gap);
      move_moments(other_square, other_product, other, -gap, shrink);
      other *= shrink;
    }
    total += other;
    square += other_square;
    product += other_product;
  }
  const double of_total = ::log2(total);
  const bool defined = total > 0 && of_total < Float<double>::infinity;  // some component has density
  const double undefined = __builtin_nan("");
  return {top + of_total, defined ? ::exp2(of_total - product / total) : undefined,
          defined ? total / square * total : undefined};
}

}  // namespace
}  // namespace pykernels
