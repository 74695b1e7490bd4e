// The problems: first those that every kernel meets its edges in, then random ones without end.
#pragma once

#include <mixture/mixture.h>
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "tensors.h"

namespace check {

enum class Kind {
  plain,    // components that overlap
  narrow,   // so narrow that one component outweighs all others, near 0: the multiplied-out form is accurate
  distant,  // as narrow, but far from 0: there it is not
  tail,     // narrow, with rows far out: their shares are right only if both passes round alike
  extreme,  // wide ones and some so narrow that a standardised difference is infinite
  mixed,    // both in one call, and wide ones
  absent,   // some log-weights are -inf, and what stands there otherwise is NaN
  nothing,  // all are
  far,      // rows that no component reaches, some of them at infinity
};
constexpr const char* kKindNames[] = {"plain", "narrow", "distant", "tail", "extreme",
                                      "mixed", "absent", "nothing", "far"};

constexpr int kOneScale = -1;  // one number for all components and dimensions

struct Problem {
  Kind kind;
  int64_t rows, components, dims;
  std::vector<int64_t> batch;
  bool joint, marginal;  // asked for
  int sharing;           // one in so many strides is 0; 0: none; or kOneScale
  bool weighted;
  int64_t wanted_blocks = 12, most_memory = 32 << 10;  // what the emulated variant takes for its constants
  bool single = true;                                  // float32
  uint64_t seed = 0;                                   // of its numbers and its memory layout

  // Whether weights depend on the pair: wherever they may.
  bool paired() const { return rows == components && rows > 1 && joint && marginal && !weighted; }

  pykernels::PairWeights pairs() const {
    const double every = -std::log2(static_cast<double>(components));
    if (!paired()) return {0, 0, every};
    return {-7.5, 2.5, every};  // the own component weighs little, as of a large data set
  }

  std::string text() const {
    std::string sizes;
    for (const int64_t size : batch) sizes += std::to_string(size) + " x ";
    sizes += std::to_string(rows) + " rows, " + std::to_string(components) + " components, ";
    return (single ? "float32, " : "float64, ") + sizes + std::to_string(dims) + " dims, " +
           kKindNames[static_cast<int>(kind)] + (joint ? ", joint" : "") + (marginal ? ", marginal" : "") +
           (paired() ? ", paired" : "");
  }
};

// Each in float32 and in float64.
inline const std::vector<Problem>& edge_problems() {
  constexpr bool joint = true, marginal = true, no = false, weighted = true;
  static const std::vector<Problem> problems = {
      {Kind::plain, 1, 1, 1, {}, joint, marginal, 0, no},
      {Kind::plain, 33, 129, 2, {}, joint, marginal, 0, weighted},  // several tiles
      {Kind::plain, 3, 8700, 2, {}, joint, no, 0, weighted, 300},   // several splits for each way of a merge
      {Kind::plain, 2200, 5, 2, {}, joint, marginal, 0, weighted, 40},  // and for those of the gradients
      {Kind::plain, 70, 100, 2, {}, joint, no, 0, weighted, 2640},      // in one launch
      {Kind::plain, 40, 70, 10, {3}, joint, no, 2, weighted, 2640},     // the same
      {Kind::plain, 3, 4200, 2, {}, joint, no, kOneScale, weighted},    // a gradient from all components
      {Kind::plain, 3, 4, 2, {300}, joint, marginal, 1, weighted},      // and from all of a large batch
      {Kind::plain, 550, 300, 3, {}, joint, no, 0, weighted},           // as many rows as a thread takes
      {Kind::plain, 140, 150, 40, {}, joint, no, 0, weighted},          // squares of tiles, by twos
      {Kind::plain, 140, 150, 70, {}, joint, no, 0, weighted},          // and for long sums
      {Kind::plain, 70, 150, 40, {}, joint, no, 0, weighted, 2640},     // one by one
      {Kind::plain, 129, 400, 10, {}, joint, marginal, 0, weighted},    // splits of rows and of components
      {Kind::plain, 33, 400, 9, {3}, joint, no, 2, weighted},           // splits of several tiles
      {Kind::plain, 400, 65, 4, {2, 3}, joint, marginal, 2, weighted},  // batch elements after one another
      {Kind::plain, 33, 300, 17, {6}, joint, no, 2, weighted},          // the same for many dimensions
      {Kind::plain, 200, 40, 20, {}, joint, marginal, 0, weighted},     // splits of the rows
      {Kind::plain, 65, 129, 66, {}, joint, marginal, 0, no},           // long sums, a last part of 2
      {Kind::plain, 31, 63, 33, {2, 2}, joint, marginal, 2, weighted},  // a chunk of one dimension
      {Kind::plain, 2, 3, 130, {}, no, marginal, 0, weighted},          // three blocks of dimensions
      {Kind::narrow, 64, 200, 5, {}, joint, marginal, 0, weighted},
      {Kind::narrow, 64, 300, 24, {}, joint, no, 0, weighted},
      {Kind::narrow, 40, 129, 100, {}, joint, no, 0, weighted},  // long sums, in both passes alike
      {Kind::distant, 64, 129, 3, {}, joint, marginal, 0, weighted},
      {Kind::distant, 64, 129, 20, {}, joint, no, 0, weighted},
      {Kind::tail, 64, 200, 5, {}, joint, marginal, 0, weighted},
      {Kind::tail, 64, 150, 24, {}, joint, no, 0, weighted},
      {Kind::tail, 40, 129, 100, {}, joint, no, 0, weighted},
      {Kind::extreme, 33, 70, 3, {}, joint, marginal, 0, weighted},
      {Kind::extreme, 33, 70, 18, {}, joint, no, 0, weighted},
      {Kind::mixed, 33, 400, 16, {3}, joint, no, 0, weighted},
      {Kind::mixed, 33, 300, 18, {3}, joint, marginal, 0, weighted},
      {Kind::absent, 33, 100, 6, {2}, joint, marginal, 0, weighted},
      {Kind::absent, 33, 150, 20, {2}, joint, marginal, 2, weighted},
      {Kind::nothing, 5, 40, 2, {}, joint, marginal, 0, weighted},
      {Kind::nothing, 5, 40, 20, {}, joint, marginal, 0, weighted},
      {Kind::far, 40, 70, 3, {2}, joint, marginal, 0, weighted},
      {Kind::far, 40, 70, 19, {2}, joint, marginal, 0, weighted},
      {Kind::plain, 2, 2, 1, {}, joint, marginal, 0, no},  // weights that depend on the pair, from here on
      {Kind::plain, 9, 9, 3, {2}, joint, marginal, 2, no},
      {Kind::plain, 550, 550, 2, {}, joint, marginal, 0, no},  // as many rows as a thread takes
      {Kind::plain, 300, 300, 10, {}, joint, marginal, 0, no, 2640},
      {Kind::plain, 140, 140, 40, {}, joint, marginal, 0, no},  // squares of tiles
      {Kind::plain, 129, 129, 70, {}, joint, marginal, 0, no},  // and for long sums
      {Kind::plain, 65, 65, 130, {}, joint, marginal, 0, no},   // three blocks of dimensions
      {Kind::narrow, 64, 64, 5, {}, joint, marginal, 0, no},
      {Kind::far, 70, 70, 19, {2}, joint, marginal, 0, no},
  };
  return problems;
}

// For variants of the CPU, which leave components out where there are many.
inline const std::vector<Problem>& large_problems() {
  static const std::vector<Problem> problems = {
      {Kind::narrow, 1600, 17000, 5, {}, true, false, 0, true},
      {Kind::plain, 1200, 1500, 4, {}, true, true, 0, true},
      {Kind::plain, 1300, 1300, 2, {}, true, true, 0, false},
  };
  return problems;
}

// First all in float32, then all in float64.
inline Problem in_a_dtype(const std::vector<Problem>& problems, size_t number, uint64_t seed) {
  Problem problem = problems[number % problems.size()];
  problem.single = number < problems.size();
  problem.seed = seed * 1000003 + number;
  return problem;
}

inline Problem random_problem(uint64_t seed) {
  static const std::vector<int64_t> edges = {1, 2, 5, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200};
  static const std::vector<int64_t> many_dims = {17, 24, 33, 50, 64, 65, 66, 100};
  static const std::vector<std::vector<int64_t>> batches = {{}, {}, {1}, {3}, {2, 3}, {3, 1, 2}};
  constexpr int64_t kMostWork = 300000;
  Random random(seed);
  Problem p{};
  p.seed = seed;
  p.kind = random.one_in(2) ? Kind::plain : static_cast<Kind>(random.below(9));
  p.single = random.one_in(2);
  p.joint = !random.one_in(4);
  p.marginal = !p.joint || random.one_in(3);
  p.batch = random.one_of(batches);
  p.sharing = static_cast<int>(random.below(4));
  p.weighted = p.kind == Kind::absent || p.kind == Kind::nothing || !random.one_in(3);
  p.wanted_blocks = random.one_of(std::vector<int64_t>{1, 5, 12, 100, 2640});
  p.most_memory = random.one_in(2) ? 256 << 20 : 16 << 10;
  p.dims = random.one_in(3) ? random.one_of(many_dims) : 1 + random.below(17);
  int64_t elements = 1;
  for (const int64_t size : p.batch) elements *= size;
  do {
    p.rows = random.one_of(edges);
    p.components = random.one_in(6) ? 2 * random.one_of(edges) : random.one_of(edges);
    if (!p.weighted && p.joint && p.marginal && random.one_in(2)) p.components = p.rows;
  } while (elements * p.rows * p.components * p.dims > kMostWork);
  return p;
}

inline Problem problem_of(size_t number, uint64_t seed) {
  if (number < 2 * edge_problems().size()) return in_a_dtype(edge_problems(), number, seed);
  return random_problem(seed * 1000003 + number);
}

template <class T> struct Inputs {
  Tensor<T> value, loc, scale, log_weights;
};

inline Shape shape_of(Random& random, const Problem& p, const std::vector<int64_t>& inner) {
  Shape shape{p.batch, {}};
  shape.sizes.insert(shape.sizes.end(), inner.begin(), inner.end());
  for (size_t dim = 0; dim < shape.sizes.size(); ++dim)
    shape.shared.push_back(p.sharing > 0 && random.one_in(p.sharing));
  return shape;
}

template <class T, class Number> void fill(Tensor<T>& tensor, const Number& number) {
  for (int64_t i = 0; i < tensor.count(); ++i) tensor.memory[tensor.place(i)] = static_cast<T>(number(i));
}

// Scales such that m s is or is not below the bound of the multiplied-out form.
template <class T> double narrow_scale() { return sizeof(T) == 4 ? 0.01 : 0.0001; }

// Their squares are in the range of T, their quotient is not.
template <class T> double extreme_scale() { return sizeof(T) == 4 ? 1e17 : 1e140; }
template <class T> double extremely_narrow() { return sizeof(T) == 4 ? 1e-23 : 1e-180; }

template <class T> void fill_components(Random& random, const Problem& p, Inputs<T>& inputs) {
  const double narrow = narrow_scale<T>();
  const bool near_0 = p.kind == Kind::narrow || p.kind == Kind::tail;
  const auto kind = [&](int64_t i) {  // of a component: of `mixed` ones the latter half differs
    if (p.kind != Kind::mixed) return p.kind;
    const int64_t component = i / p.dims % p.components;
    return 2 * component < p.components ? Kind::plain : Kind::distant;
  };
  fill(inputs.scale, [&](int64_t i) {
    const double spread = std::exp(0.5 * random.normal());
    if (kind(i) == Kind::distant) return narrow * spread;
    if (p.kind == Kind::extreme)
      return spread * (i / p.dims % 2 == 0 ? extreme_scale<T>() : extremely_narrow<T>());
    return near_0 ? 0.01 * spread : spread;
  });
  fill(inputs.loc, [&](int64_t i) {
    if (kind(i) == Kind::distant) return 30 * random.normal();
    return near_0 ? 0.05 * random.normal() : random.normal();
  });
}

// Near a component each, so that narrow ones are met at all.
template <class T> void fill_value(Random& random, const Problem& p, Inputs<T>& inputs) {
  const bool near = p.kind == Kind::narrow || p.kind == Kind::distant || p.kind == Kind::mixed;
  const double width = p.kind == Kind::narrow ? 0.01 : narrow_scale<T>();
  fill(inputs.value, [&](int64_t i) {
    if (!near) return random.normal() * (p.kind == Kind::extreme ? extreme_scale<T>() : 1);
    const int64_t row = i / p.dims % p.rows, element = i / p.dims / p.rows;
    const int64_t other = (element * p.components + row * 7 % p.components) * p.dims + i % p.dims;
    return inputs.loc.memory[inputs.loc.place(other)] + width * random.normal();
  });
  if (p.kind != Kind::far) return;
  const double out_of_reach = sizeof(T) == 4 ? 1e30 : 1e200;
  fill(inputs.value, [&](int64_t i) {
    const double before = inputs.value.memory[inputs.value.place(i)];
    if (random.below(4 * p.dims) > 0) return before;
    return random.one_in(2) ? out_of_reach : -std::numeric_limits<double>::infinity();
  });
}

template <class T> void take_away(Random& random, const Problem& p, Inputs<T>& inputs) {
  constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
  Tensor<T>& weights = inputs.log_weights;
  fill(weights, [&](int64_t i) {
    const bool absent = p.kind == Kind::nothing || random.one_in(3);
    return absent ? -std::numeric_limits<double>::infinity() : weights.memory[weights.place(i)];
  });
  for (Tensor<T>* tensor : {&inputs.loc, &inputs.scale}) {
    const std::vector<bool>& shared = tensor->shape.shared;
    if (std::count(shared.begin(), shared.end(), true)) continue;  // with components that are there
    for (int64_t i = 0; i < tensor->count(); ++i)
      if (weights.memory[weights.place(i / p.dims)] == -std::numeric_limits<T>::infinity())
        tensor->memory[tensor->place(i)] = kNan;
  }
}

template <class T> Inputs<T> inputs_of(Random& random, const Problem& p) {
  Inputs<T> inputs;
  inputs.value = new_tensor<T>(random, shape_of(random, p, {p.rows, p.dims}));
  inputs.loc = new_tensor<T>(random, shape_of(random, p, {p.components, p.dims}));
  Shape scale = shape_of(random, p, {p.components, p.dims});
  if (p.sharing == kOneScale) scale.shared.assign(scale.shared.size(), true);
  inputs.scale = new_tensor<T>(random, scale);
  fill_components(random, p, inputs);
  fill_value(random, p, inputs);
  if (!p.weighted) return inputs;
  inputs.log_weights = new_tensor<T>(random, shape_of(random, p, {p.components}));
  fill(inputs.log_weights, [&](int64_t) { return random.normal(); });
  if (p.kind == Kind::absent || p.kind == Kind::nothing) take_away(random, p, inputs);
  return inputs;
}

}  // namespace check
