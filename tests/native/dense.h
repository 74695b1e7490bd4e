// The formulas of mixture.h, written out in double precision: every pair of a row and a component. With each
// number comes how far rounding may take a kernel's from it, to first order: an analysis, not a measurement,
// so that a tolerance follows from its problem and need not be chosen.
#pragma once

#include <algorithm>

#include "problems.h"

namespace check {

struct Near {
  double value = 0, error = 0;
};

template <class T> struct Upstream {
  std::vector<T> joint, marginal;  // empty: not asked for
};

// What a kernel may return for a problem; gradients of components for each, before anything shared is summed.
struct Dense {
  std::vector<Near> joint, marginal;              // [elements, rows] and [elements, rows, dims]
  std::vector<Near> joint_slope, marginal_slope;  // [elements, rows, dims]
  std::vector<Near> grad_value;                   // [elements, rows, dims]
  std::vector<Near> grad_loc, grad_scale;         // [elements, components, dims]
  std::vector<Near> grad_log_weights;             // [elements, components]
};

template <class T> class DenseMixture {
 public:
  DenseMixture(const Problem& problem, Inputs<T>& inputs, const Upstream<T>& upstream)
      : p_(problem), inputs_(inputs), upstream_(upstream) {
    for (const int64_t size : p_.batch) elements_ *= size;
    const size_t by_row = count(elements_ * p_.rows), by_value = by_row * count(p_.dims);
    const size_t by_component = count(elements_ * p_.components);
    for (auto* numbers : {&out_.marginal, &out_.joint_slope, &out_.marginal_slope, &out_.grad_value})
      numbers->resize(by_value);
    for (auto* numbers : {&out_.grad_loc, &out_.grad_scale}) numbers->resize(by_component * count(p_.dims));
    out_.joint.resize(by_row);
    out_.grad_log_weights.resize(by_component);
    terms_.resize(count(p_.components * p_.dims));
    logs_.resize(count(p_.components));
    shares_.resize(count(p_.components));
  }

  Dense run() {
    for (int64_t element = 0; element < elements_; ++element)
      for (int64_t row = 0; row < p_.rows; ++row) run_row(element, row);
    return std::move(out_);
  }

 private:
  // A component in one dimension, seen from a value: e = (z - m) / sigma, and the log of the density.
  struct Term {
    Near e, log;
    double per_scale;  // 1 / sigma
  };

  static constexpr double kUnit = std::numeric_limits<T>::epsilon() / 2;
  static constexpr double kLargest = std::numeric_limits<T>::max();
  // Up to here z s - m s may stand for (z - m) s, at the price of the rounding of m s.
  static constexpr double kMultipliedOut = sizeof(T) == 4 ? 20 : 5000;

  static size_t count(int64_t number) { return static_cast<size_t>(number); }

  template <class Number> static double number(const Tensor<Number>& tensor, int64_t index) {
    return static_cast<double>(tensor.memory[tensor.place(index)]);
  }

  double log_weight(int64_t element, int64_t row, int64_t i) const {
    if (inputs_.log_weights.given()) return number(inputs_.log_weights, element * p_.components + i);
    const pykernels::PairWeights pairs = p_.pairs();
    const double beside = i == row ? pairs.own : i == (row + 1) % p_.components ? pairs.next : 0;
    return std::log(2.0) * (pairs.other + beside);
  }

  bool absent(int64_t element, int64_t i) const { return std::isinf(log_weight(element, 0, i)); }

  Term term(double z, double m, double sigma) const {
    const double e = (z - m) / sigma, product = std::fabs(m / sigma), log_sigma = std::log(sigma);
    const double e_error = kUnit * (2 * std::fabs(e) + (product < kMultipliedOut ? product : 0));
    const double log = -0.5 * e * e - log_sigma - 0.91893853320467274178;
    const double log_error = std::fabs(e) * e_error + kUnit * (e * e + std::fabs(log_sigma) + 2);
    return {{e, e_error}, {log, log_error}, 1 / sigma};
  }

  void run_row(int64_t element, int64_t row) {
    for (int64_t i = 0; i < p_.components; ++i) {
      if (absent(element, i)) continue;
      for (int64_t d = 0; d < p_.dims; ++d) {
        const int64_t at = (element * p_.components + i) * p_.dims + d;
        const double z = number(inputs_.value, (element * p_.rows + row) * p_.dims + d);
        terms_[count(i * p_.dims + d)] = term(z, number(inputs_.loc, at), number(inputs_.scale, at));
      }
    }
    const size_t at = count(element * p_.rows + row);
    if (p_.joint) {
      out_.joint[at] = weigh(element, row, 0, p_.dims);
      const double upstream = static_cast<double>(upstream_.joint[at]);
      for (int64_t d = 0; d < p_.dims; ++d)
        add_gradients(element, row, d, upstream, out_.joint_slope[at * count(p_.dims) + count(d)]);
      add_weight_gradients(element, upstream);
    }
    for (int64_t d = 0; p_.marginal && d < p_.dims; ++d) {
      const size_t here = at * count(p_.dims) + count(d);
      out_.marginal[here] = weigh(element, row, d, d + 1);
      const double upstream = static_cast<double>(upstream_.marginal[here]);
      add_gradients(element, row, d, upstream, out_.marginal_slope[here]);
      add_weight_gradients(element, upstream);
    }
  }

  // The logarithm of the sum over the components, of the product of the dimensions from `first` up to `end`.
  // Leaves the logarithms of its terms in logs_ and their shares of the sum in shares_.
  Near weigh(int64_t element, int64_t row, int64_t first, int64_t end) {
    double top = -std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < p_.components; ++i) {
      logs_[count(i)] = {top, 0};
      if (!absent(element, i)) logs_[count(i)] = sum_of_terms(i, log_weight(element, row, i), first, end);
      shares_[count(i)] = {};
    }
    for (const Near& log : logs_) top = std::max(top, log.value);
    // The row counts for nothing.
    if (top < -kLargest / 2) return {-std::numeric_limits<double>::infinity(), 0};
    double mass = 0, others = 0;
    for (const Near& log : logs_) {
      mass += std::exp(log.value - top);
      if (log.value < top) others += std::exp(log.value - top);
    }
    const double result = top + std::log(mass), summing = 8 + std::sqrt(static_cast<double>(p_.components));
    // Where one component outweighs all others, the result rounds to that one's logarithm.
    const double rounding = std::min(kUnit * std::fabs(result), 1.5 * others / mass);
    double error = 0;
    for (size_t i = 0; i < shares_.size(); ++i) {
      shares_[i].value = std::exp(logs_[i].value - result);
      if (shares_[i].value > 0) error += shares_[i].value * logs_[i].error;
    }
    for (size_t i = 0; i < shares_.size(); ++i)
      shares_[i].error = share_error(shares_[i].value, logs_[i].error, error, rounding + kUnit * summing);
    return {result, error + kUnit * (2 * std::fabs(result) + summing)};
  }

  Near sum_of_terms(int64_t i, double log_weight, int64_t first, int64_t end) const {
    Near sum{log_weight, 0};
    double magnitude = std::fabs(log_weight);
    for (int64_t d = first; d < end; ++d) {
      const Near& log = terms_[count(i * p_.dims + d)].log;
      sum.value += log.value;
      sum.error += log.error;
      magnitude += std::fabs(log.value);
    }
    sum.error += kUnit * magnitude * (1 + 0.5 * std::sqrt(static_cast<double>(end - first)));
    return sum;
  }

  // A share of almost 1 does not suffer from the error of its own logarithm, which the sum has, too. One of
  // less than the working precision may be left out.
  double share_error(double share, double own_error, double mean_error, double more) const {
    if (!(share > 0)) return 0;
    const double relative = (1 - share) * own_error + std::fabs(mean_error - share * own_error) + more;
    const double left_out = std::min(share, kUnit / static_cast<double>(std::max(p_.components, p_.rows)));
    return std::max(share * std::expm1(std::min(relative, 50.0)), left_out);
  }

  // Adds share * (factor, which is wrong by factor_error).
  static void add(Near& sum, const Near& share, double scale, double factor, double factor_error) {
    if (!(share.value > 0)) return;
    sum.value += share.value * scale * factor;
    const double rounded = 4 * kUnit * share.value * std::fabs(factor);
    sum.error += std::fabs(scale) * (share.error * std::fabs(factor) + share.value * factor_error + rounded);
  }

  void add_gradients(int64_t element, int64_t row, int64_t d, double upstream, Near& slope) {
    const size_t at = count((element * p_.rows + row) * p_.dims + d);
    for (int64_t i = 0; i < p_.components; ++i) {
      const Term& term = terms_[count(i * p_.dims + d)];
      const Near &share = shares_[count(i)], &e = term.e;
      const size_t component = count((element * p_.components + i) * p_.dims + d);
      const double square_error = 2 * std::fabs(e.value) * e.error + 4 * kUnit * (e.value * e.value + 1);
      add(slope, share, -term.per_scale, e.value, e.error);
      add(out_.grad_value[at], share, -upstream * term.per_scale, e.value, e.error);
      add(out_.grad_loc[component], share, upstream * term.per_scale, e.value, e.error);
      add(out_.grad_scale[component], share, upstream * term.per_scale, e.value * e.value - 1, square_error);
    }
  }

  void add_weight_gradients(int64_t element, double upstream) {
    for (int64_t i = 0; i < p_.components; ++i)
      add(out_.grad_log_weights[count(element * p_.components + i)], shares_[count(i)], upstream, 1, 0);
  }

  const Problem& p_;
  Inputs<T>& inputs_;
  const Upstream<T>& upstream_;
  int64_t elements_ = 1;
  Dense out_;
  std::vector<Term> terms_;  // of one row, [components, dims]
  std::vector<Near> logs_, shares_;
};

}  // namespace check
