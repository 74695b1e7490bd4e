// Backward pass. One chunk of components meets all rows of a task, so that the components' gradients are
// finished where they are made; the rows' gradients are summed over splits afterwards. Notation as in
// mixture_math.h.
#pragma once

#include <type_traits>

#include "mixture/cpu_band.h"

namespace pykernels {
namespace {

constexpr int64_t kFlushGroups = 64;  // groups of rows after which single sums are added to the totals: two
                                      // short sums round less than a long one

// Upstream gradients and results of the rows, in groups like the rows themselves; results in base 2.
template <class T> struct Upstream {
  T* rows;                      // [groups][dims][kGroup]
  T *joint, *grad_joint;        // [groups][kGroup]
  T *of_log, *of_share;         // [groups][kGroup]: see grad_statistics, that of a log in base 2; null: zero
  T *marginal, *grad_marginal;  // [groups][dims][kGroup]; or 0, and the gradient times 2^-marginal
  Band band;
};

template <class T> struct BackwardScratch {
  Chunk<T> chunk;
  T* first;  // sums over the rows of one flush, and their totals: [vectors][dims][lanes]
  T* second;
  T* mass;        // of both, in each dimension; null without marginals
  T* joint_mass;  // [vectors][lanes]
  T *total_first, *total_second, *total_mass, *total_joint_mass;
  T* weight;   // of the pairs at hand: [vectors][kGroup][lanes]
  T* offsets;  // of the band: [vectors][kGroup][lanes]
};

// Vectors of a chunk to work on, and how their pairs with a group differ, see cpu_band.h; offsets null: they
// do not.
template <class T> struct Part {
  int64_t from, to;
  const T* offsets;
};

// The constants of vector v for row k.
template <bool kBand, class T>
PYKERNELS_INLINE Vector<T> constant_in(const Part<T>& part, Vector<T> constant, int64_t v, int k) {
  return constant_of<T, kBand>(constant, part.offsets, v - part.from, k);
}

template <class T> BackwardScratch<T> take_backward_scratch(Arena& arena, int64_t dims, bool marginal) {
  const int64_t capacity = chunk_capacity<T>(dims, marginal ? 6 : 4, (marginal ? 512 : 256) << 10);
  const int64_t plane = capacity * dims * kLanes<T>;
  BackwardScratch<T> scratch;
  scratch.chunk = take_chunk<T>(arena, dims, capacity, marginal);
  T** const planes[] = {&scratch.first, &scratch.second, &scratch.total_first, &scratch.total_second};
  for (T** p : planes) *p = take<T>(arena, plane);
  scratch.mass = marginal ? take<T>(arena, plane) : nullptr;
  scratch.total_mass = marginal ? take<T>(arena, plane) : nullptr;
  scratch.joint_mass = take<T>(arena, capacity * kLanes<T>);
  scratch.total_joint_mass = take<T>(arena, capacity * kLanes<T>);
  scratch.weight = take<T>(arena, capacity * kGroup * kLanes<T>);
  scratch.offsets = take<T>(arena, kOffsets<T>);
  return scratch;
}

// Weights r_kv = grad_joint_k * responsibility of every component of the part for one group of rows, 0 where
// that cannot matter: smaller numbers would become denormal, with which processors are slow. Returns how many
// vectors hold a pair that can, and lists them in `live`; with kAll every vector is kept.
template <class T, bool kAll, bool kBand, bool kStatistics>
int64_t joint_weights(BackwardScratch<T>& scratch, const Upstream<T>& up, int64_t group, const Part<T>& part,
                      T negligible, int64_t (&live)[kMostVectors]) {
  const Chunk<T>& chunk = scratch.chunk;
  const T* rows = up.rows + group * chunk.dims * kGroup;
  const T *joint = up.joint + group * kGroup, *grad = up.grad_joint + group * kGroup;
  const T *of_log = kStatistics ? up.of_log + group * kGroup : nullptr,
          *of_share = kStatistics ? up.of_share + group * kGroup : nullptr;
  int64_t count = 0;
  for (int64_t v = part.from; v < part.to; ++v) {
    Vector<T> x[kGroup];
    squared_distances(chunk, v, rows, x);
    const Vector<T> constant = load(chunk.constant + v * kLanes<T>);
    T* weight = scratch.weight + count * kGroup * kLanes<T>;
    unsigned alive = kAll;
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      x[k] = (constant_in<kBand>(part, constant, v, k) - x[k]) - splat(joint[k]);
      alive |= not_le(x[k], splat(negligible));
      store(weight + k * kLanes<T>, x[k]);
    }
    // No branch on what is as good as random.
    live[count] = v;
    count += alive != 0;
  }
  for (int64_t j = 0; j < count; ++j) {
    T* const sum = scratch.joint_mass + live[j] * kLanes<T>;
    T* const weight = scratch.weight + j * kGroup * kLanes<T>;
    Vector<T> mass = load(sum);
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      const Vector<T> exponent = load(weight + k * kLanes<T>), share = exp2(exponent);
      Vector<T> gradient = splat(grad[k]);
      if constexpr (kStatistics) {
        const Vector<T> log2 = exponent > splat(negligible) ? exponent : splat(negligible);
        gradient = fma(splat(of_log[k]), log2, fma(splat(of_share[k]), share, gradient));
      }
      const Vector<T> r = share * gradient;
      mass += r;
      store(weight + k * kLanes<T>, r);
    }
    store(sum, mass);
  }
  return count;
}

// One dimension of a group of rows, with what 2^rest is to be multiplied by: see fraction_times.
template <class T> struct RowsOfDim {
  const T *value, *marginal;
  T terms[kExp2Terms<T> * kGroup];
  bool settled;  // no marginal is to be subtracted
};

template <class T>
PYKERNELS_INLINE void take_marginals(RowsOfDim<T>& rows, const T* marginal, const T* grad_marginal) {
  rows.marginal = marginal;
  rows.settled = true;
  for (int k = 0; k < kGroup; ++k) rows.settled &= marginal[k] == 0;
  for (int i = 0; i < kExp2Terms<T>; ++i)
    for (int k = 0; k < kGroup; ++k) rows.terms[i * kGroup + k] = Exp2<T>::polynomial[i] * grad_marginal[k];
}

// Adds one dimension of a group of rows to the sums of a vector of components, and its pull on the rows to
// `pull`. The weights of the joint density are in `weight`.
template <class T, bool kJoint, bool kMarginal, bool kRows, bool kComponents, bool kBand, bool kSettled>
PYKERNELS_INLINE void add_vector(const BackwardScratch<T>& scratch, int64_t v, const T* weight, int64_t d,
                                 const RowsOfDim<T>& rows, const Part<T>& part, Vector<T> (&pull)[kGroup]) {
  const Chunk<T>& chunk = scratch.chunk;
  const int64_t o = (v * chunk.dims + d) * kLanes<T>;
  const Vector<T> m = load(chunk.loc + o), w = load(chunk.precision + o);
  Vector<T> first{}, second{}, mass{}, constant{};
  if constexpr (kComponents) {
    first = load(scratch.first + o);
    second = load(scratch.second + o);
  }
  if constexpr (kMarginal) {
    mass = load(scratch.mass + o);
    constant = load(chunk.marginal_constant + o);
  }
#pragma GCC unroll 8
  for (int k = 0; k < kGroup; ++k) {
    const Vector<T> e = splat(rows.value[k]) - m;
    Vector<T> r{};
    if constexpr (kJoint) r = load(weight + k * kLanes<T>);
    if constexpr (kMarginal) {
      Vector<T> x = fnma(e * e, w, constant_in<kBand>(part, constant, v, k));
      if constexpr (!kSettled) x = x - splat(rows.marginal[k]);
      const PowerOfTwo<T> power = power_of_two(x);
      const Vector<T> fraction = fraction_times(power, rows.terms + k, kGroup);
      r = kJoint ? fma(power.scale, fraction, r) : power.scale * fraction;
      mass += r;
    }
    const Vector<T> pulled = r * e;
    if constexpr (kComponents) {
      first += pulled;
      second = fma(pulled, e, second);
    }
    if constexpr (kRows) pull[k] = fma(pulled, w, pull[k]);
  }
  if constexpr (kComponents) {
    store(scratch.first + o, first);
    store(scratch.second + o, second);
  }
  if constexpr (kMarginal) store(scratch.mass + o, mass);
}

// Adds one group of rows to the sums of the live components, and their pull on the rows to grad_rows
// [dims][kGroup].
template <class T, bool kJoint, bool kMarginal, bool kRows, bool kComponents, bool kBand>
void add_gradients(BackwardScratch<T>& scratch, const Upstream<T>& up, int64_t group, const Part<T>& part,
                   const int64_t* live, int64_t count, T* grad_rows) {
  const int64_t dims = scratch.chunk.dims;
  for (int64_t d = 0; d < dims; ++d) {
    const int64_t o = (group * dims + d) * kGroup;
    RowsOfDim<T> rows;
    rows.value = up.rows + o;
    if constexpr (kMarginal) take_marginals(rows, up.marginal + o, up.grad_marginal + o);
    Vector<T> pull[kGroup];
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) pull[k] = Vector<T>{};
    const auto add = [&](auto settled) __attribute__((always_inline)) {
      for (int64_t j = 0; j < count; ++j)
        add_vector<T, kJoint, kMarginal, kRows, kComponents, kBand, decltype(settled)::value>(
            scratch, live[j], scratch.weight + j * kGroup * kLanes<T>, d, rows, part, pull);
    };
    constexpr bool kMaySettle = kMarginal && !kBand;
    if (kMaySettle && rows.settled) {
      add(std::integral_constant<bool, kMaySettle>{});
    } else {
      add(std::false_type{});
    }
    if constexpr (kRows) add_lane_sums(pull, grad_rows + d * kGroup);
  }
}

// Adds the sums since the last flush to the totals.
template <class T> void flush(BackwardScratch<T>& scratch) {
  const int64_t lanes = scratch.chunk.vectors * kLanes<T>, plane = lanes * scratch.chunk.dims;
  const auto move = [](T* sums, T* totals, int64_t count) {
    for (int64_t o = 0; o < count; o += kLanes<T>) {
      store(totals + o, load(totals + o) + load(sums + o));
      store(sums + o, Vector<T>{});
    }
  };
  move(scratch.first, scratch.total_first, plane);
  move(scratch.second, scratch.total_second, plane);
  if (scratch.mass) move(scratch.mass, scratch.total_mass, plane);
  move(scratch.joint_mass, scratch.total_joint_mass, lanes);
}

template <class T> void clear(BackwardScratch<T>& scratch) {
  const int64_t lanes = scratch.chunk.vectors * kLanes<T>, plane = lanes * scratch.chunk.dims;
  T* const planes[] = {scratch.first,       scratch.second,       scratch.mass,
                       scratch.total_first, scratch.total_second, scratch.total_mass};
  for (T* p : planes)
    if (p) memset(p, 0, static_cast<size_t>(plane) * sizeof(T));
  memset(scratch.joint_mass, 0, static_cast<size_t>(lanes) * sizeof(T));
  memset(scratch.total_joint_mass, 0, static_cast<size_t>(lanes) * sizeof(T));
}

// Turns the totals into gradients: total_first becomes d/dloc, total_second d/dscale, total_joint_mass
// d/dlog_weight.
template <class T> void finish_components(BackwardScratch<T>& scratch) {
  const Chunk<T>& chunk = scratch.chunk;
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    const Vector<T> joint_mass = load(scratch.total_joint_mass + v * kLanes<T>);
    Vector<T> total_mass = joint_mass;
    for (int64_t d = 0; d < chunk.dims; ++d) {
      const int64_t o = (v * chunk.dims + d) * kLanes<T>;
      const Vector<T> w = load(chunk.precision + o), scale = load(chunk.scale + o);
      const Vector<T> mass = scratch.mass ? load(scratch.total_mass + o) : joint_mass;
      total_mass += mass - joint_mass;
      store(scratch.total_first + o, loc_gradient<T>(w, load(scratch.total_first + o)));
      store(scratch.total_second + o, scale_gradient<T>(w, load(scratch.total_second + o), mass, scale));
    }
    store(scratch.total_joint_mass + v * kLanes<T>, total_mass);
  }
}

// One group of rows against a part of the components in scratch.chunk.
template <class T, bool kJoint, bool kMarginal, bool kRows, bool kComponents, bool kBand>
void backward_part(BackwardScratch<T>& scratch, const Upstream<T>& up, int64_t group, const Part<T>& part,
                   T negligible, T* grad_rows) {
  int64_t live[kMostVectors], count = part.to - part.from;
  if constexpr (!kJoint) {
    for (int64_t j = 0; j < count; ++j) live[j] = part.from + j;
  } else {
    constexpr bool kStatistics = !kMarginal;  // they come with the joint density alone
    if (kStatistics && up.of_log) {
      count = joint_weights<T, kMarginal, kBand, kStatistics>(scratch, up, group, part, negligible, live);
    } else {
      count = joint_weights<T, kMarginal, kBand, false>(scratch, up, group, part, negligible, live);
    }
  }
  if (count > 0)
    add_gradients<T, kJoint, kMarginal, kRows, kComponents, kBand && kMarginal>(scratch, up, group, part,
                                                                                live, count, grad_rows);
}

// All rows of a block against the components in scratch.chunk.
template <class T, bool kJoint, bool kMarginal, bool kRows, bool kComponents>
void backward_chunk(BackwardScratch<T>& scratch, const Upstream<T>& up, int64_t first_group,
                    int64_t last_group, T negligible, T* grad_rows) {
  const int64_t dims = scratch.chunk.dims;
  clear(scratch);
  for (int64_t group = first_group; group < last_group; ++group) {
    T* const own_rows = grad_rows + (kRows ? group * dims * kGroup : 0);
    const auto run = [&](int64_t from, int64_t to, const T* offsets) {
      const Part<T> part{from, to, offsets};
      if (offsets) {
        backward_part<T, kJoint, kMarginal, kRows, kComponents, true>(scratch, up, group, part, negligible,
                                                                      own_rows);
      } else {
        backward_part<T, kJoint, kMarginal, kRows, kComponents, false>(scratch, up, group, part, negligible,
                                                                       own_rows);
      }
    };
    over_parts(up.band, scratch.chunk, group, scratch.offsets, run);
    if ((group - first_group) % kFlushGroups == kFlushGroups - 1) flush(scratch);
  }
  flush(scratch);
  finish_components(scratch);
}

template <class T>
using BackwardChunk = void (*)(BackwardScratch<T>&, const Upstream<T>&, int64_t, int64_t, T, T*);

template <class T, bool kJoint, bool kMarginal>
BackwardChunk<T> choose_backward_chunk(bool rows, bool components) {
  if (rows && components) return backward_chunk<T, kJoint, kMarginal, true, true>;
  if (rows) return backward_chunk<T, kJoint, kMarginal, true, false>;
  return backward_chunk<T, kJoint, kMarginal, false, true>;
}

template <class T>
BackwardChunk<T> choose_backward_chunk(bool joint, bool marginal, bool rows, bool components) {
  if (joint && marginal) return choose_backward_chunk<T, true, true>(rows, components);
  if (marginal) return choose_backward_chunk<T, false, true>(rows, components);
  return choose_backward_chunk<T, true, false>(rows, components);
}

}  // namespace
}  // namespace pykernels
