// Random problems of the dimension-wise MMD, of all kinds of points that are hard on a kernel, and its
// formulas written out in long double.
#pragma once

#include <mmd/mmd.h>
#include <algorithm>
#include <cmath>
#include <limits>

#include "tensors.h"

namespace check {

using pykernels::kMostMmdScales;

enum class Kind { normal, offset, lattice, equal, clusters, tails, huge, tiny, outlier, undefined };
constexpr int kKinds = 10;
constexpr const char* kKindNames[] = {"normal", "offset", "lattice", "equal",   "clusters",
                                      "tails",  "huge",   "tiny",    "outlier", "undefined"};

template <class T> struct Problem {
  Kind kind;
  int64_t n, m, dims, elements = 1;
  std::vector<int64_t> batch;
  std::vector<double> scales;
  bool unbiased, slopes[2];
  Tensor<T> x, y;
  Tensor<double> x_masses, y_masses;
};

template <class T> T point_of(Random& random, Kind kind) {
  constexpr int kExponent = std::numeric_limits<T>::max_exponent;
  const double z = random.normal();
  switch (kind) {
    case Kind::offset: return static_cast<T>(z + 1e4);
    case Kind::lattice: return static_cast<T>(std::round(z));
    case Kind::equal: return static_cast<T>(1.1);
    case Kind::clusters: return static_cast<T>(z + (random.one_in(2) ? 1e5 : -1e5));
    case Kind::tails: return static_cast<T>(z / std::max(1e-12, std::fabs(random.normal())));
    case Kind::huge:
      return static_cast<T>(z < 0 ? -1 : 1) *
             std::ldexp(T(1), kExponent - 1 - static_cast<int>(random.below(40)));
    case Kind::tiny: return std::ldexp(static_cast<T>(z), -kExponent);
    default: return static_cast<T>(z);
  }
}

inline Shape shape_of(Random& random, const std::vector<int64_t>& batch, std::vector<int64_t> own) {
  Shape shape{batch, {}};
  shape.sizes.insert(shape.sizes.end(), own.begin(), own.end());
  for (size_t dim = 0; dim < shape.sizes.size(); ++dim)
    shape.shared.push_back(dim < batch.size() && random.one_in(3));
  return shape;
}

template <class T>
Tensor<T> points_of(Random& random, Kind kind, const std::vector<int64_t>& batch, int64_t count,
                    int64_t dims) {
  Tensor<T> tensor = new_tensor<T>(random, shape_of(random, batch, {count, dims}));
  for (int64_t i = 0; i < tensor.count(); ++i) tensor.memory[tensor.place(i)] = point_of<T>(random, kind);
  return tensor;
}

inline Tensor<double> masses_of(Random& random, const std::vector<int64_t>& batch, int64_t count) {
  Tensor<double> tensor = new_tensor<double>(random, shape_of(random, batch, {count}));
  for (int64_t element = 0; element < tensor.count() / count; ++element) {
    double total = 0;
    std::vector<double> masses(static_cast<size_t>(count));
    for (double& mass : masses) total += mass = random.one_in(8) ? 0 : random.uniform();
    for (int64_t i = 0; i < count; ++i)
      tensor.memory[tensor.place(element * count + i)] =
          total > 0 ? masses[static_cast<size_t>(i)] / total : 1 / static_cast<double>(count);
  }
  return tensor;
}

template <class T> Problem<T> problem_of(uint64_t number, uint64_t seed) {
  Random random(seed * 1000003 + number);
  Problem<T> p{};
  p.kind = static_cast<Kind>(number % kKinds);
  const bool large = number % 37 == 5;  // several tasks, for several threads
  p.dims = large ? 6 : 1 + random.below(random.one_in(4) ? 40 : 4);
  const auto size = [&] {
    return large ? 300 + random.below(300) : 2 + random.below(random.one_in(3) ? 160 : 40);
  };
  p.n = size();
  p.m = size();
  p.batch =
      random.one_in(3) && !large ? std::vector<int64_t>{2, 1 + random.below(2)} : std::vector<int64_t>{};
  for (const int64_t dim : p.batch) p.elements *= dim;
  p.scales = {0.2, 0.4, 1, 2, 4, 10};
  if (random.one_in(2)) {
    p.scales.resize(static_cast<size_t>(1 + random.below(random.one_in(4) ? kMostMmdScales : 8)));
    for (double& scale : p.scales) scale = std::exp2(random.normal() * (random.one_in(4) ? 20 : 3));
  }
  p.unbiased = random.one_in(2);
  for (bool& asked : p.slopes) asked = !random.one_in(3);
  p.x = points_of<T>(random, p.kind, p.batch, p.n, p.dims);
  p.y = points_of<T>(random, p.kind, p.batch, p.m, p.dims);
  if (p.kind == Kind::outlier)
    p.x.memory[p.x.place(0)] =
        std::ldexp(T(1), static_cast<int>(random.below(std::numeric_limits<T>::max_exponent)));
  if (p.kind == Kind::undefined) {
    const T bad[] = {std::numeric_limits<T>::infinity(), -std::numeric_limits<T>::infinity(),
                     std::numeric_limits<T>::quiet_NaN()};
    p.y.memory[p.y.place(random.below(p.y.count()))] = bad[random.below(3)];
  }
  if (random.one_in(2)) p.x_masses = masses_of(random, p.batch, p.n);
  if (random.one_in(2)) p.y_masses = masses_of(random, p.batch, p.m);
  return p;
}

// Of one dimension of one batch element, and how large it is that rounding acts on.
struct Dense {
  long double value = 0;
  std::vector<long double> slopes[2], sizes[2];
};

template <class T> Dense dense(const Problem<T>& p, int64_t element, int64_t d) {
  std::vector<long double> points[2], masses[2];
  long double factor[2];
  for (int s = 0; s < 2; ++s) {
    const Tensor<T>& tensor = s == 0 ? p.x : p.y;
    const Tensor<double>& mass = s == 0 ? p.x_masses : p.y_masses;
    const int64_t count = s == 0 ? p.n : p.m;
    long double squares = 0;
    for (int64_t i = 0; i < count; ++i) {
      points[s].push_back(tensor.memory[tensor.place((element * count + i) * p.dims + d)]);
      masses[s].push_back(mass.given()
                              ? static_cast<long double>(mass.memory[mass.place(element * count + i)])
                              : 1 / static_cast<long double>(count));
      squares += masses[s].back() * masses[s].back();
    }
    factor[s] = p.unbiased ? 1 / (1 - squares) : 1;
  }
  Dense out;
  for (const std::vector<long double>& sample : points)
    for (const long double point : sample) out.value += 0 * point;  // NaN where one is not finite
  for (int a = 0; a < 2; ++a) {
    out.slopes[a].resize(points[a].size());
    out.sizes[a].resize(points[a].size());
    for (int b = 0; b < 2; ++b)
      for (size_t i = 0; i < points[a].size(); ++i)
        for (size_t j = 0; j < points[b].size(); ++j) {
          if (a == b && i == j && p.unbiased) continue;
          const long double mass = masses[a][i] * masses[b][j] * (a == b ? factor[a] : -1);
          const long double t = points[a][i] - points[b][j];
          for (const double scale : p.scales) {
            const long double r = 1 / (scale + t * t);
            out.value += mass * scale * r;
            out.slopes[a][i] += -4 * mass * scale * t * r * r;
            out.sizes[a][i] += std::fabs(4 * mass * scale * t * r * r);
          }
        }
  }
  return out;
}

}  // namespace check
