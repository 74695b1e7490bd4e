// Components and rows in the layout that the hot loops read: lanes across components, kGroup rows side by
// side.
#pragma once

#include <math.h>

#include "core/arena.h"
#include "core/exp2.h"
#include "core/subnormals.h"
#include "core/tensor.h"
#include "mixture/cpu_plan.h"
#include "mixture/mixture.h"
#include "mixture/mixture_math.h"

namespace pykernels {
namespace {

// One batch element of a tensor.
template <class T> struct View {
  const T* data;
  int64_t stride_i, stride_d;
  bool present() const { return data != nullptr; }
  T at(int64_t i, int64_t d) const { return data[i * stride_i + d * stride_d]; }
};

template <class T> struct Components {
  View<T> loc, scale, log_weights;
  double log2_weight;  // of each where there are no log_weights
  int64_t count, dims;
  const int32_t* order;  // the sequence in which to take them; null: as they come
  int64_t index(int64_t i) const { return order ? order[i] : i; }
};

// Vectors of components, each array [vectors][dims][lanes] or [vectors][lanes]. A lane that holds no
// component, or an absent one, has loc = 0, scale = 1 and a constant of -inf: its density is 0 and its
// gradient finite.
template <class T> struct Chunk {
  int64_t capacity;      // in vectors
  int64_t first, count;  // components held
  int64_t vectors, dims;
  T *loc, *scale, *precision;  // precision = log2(e) / (2 scale^2)
  T* constant;                 // log2 of weight and normaliser
  T* marginal_constant;        // the same of each dimension; null unless marginals are asked for
  // No constant, or marginal_constant, is above kModerate: 2^it, summed, cannot overflow.
  bool moderate_joint, moderate_marginals;
};

constexpr double kModerate = 32;

constexpr int64_t kMostVectors = 32;

// The vectors from one up to another, as a chunk of their own.
template <class T> Chunk<T> part_of(const Chunk<T>& chunk, int64_t from, int64_t to) {
  Chunk<T> part = chunk;
  const int64_t lanes = from * kLanes<T>;
  part.first += lanes;
  part.count = at_most(chunk.count, to * kLanes<T>) - lanes;
  part.vectors = to - from;
  part.loc += lanes * chunk.dims;
  part.scale += lanes * chunk.dims;
  part.precision += lanes * chunk.dims;
  part.constant += lanes;
  if (part.marginal_constant) part.marginal_constant += lanes * chunk.dims;
  return part;
}

// As many vectors as fit `bytes` with `arrays` arrays of [dims][lanes] each.
template <class T> int64_t chunk_capacity(int64_t dims, int64_t arrays, int64_t bytes) {
  return at_most(kMostVectors, at_least(2, bytes / (arrays * dims * kVectorBytes)));
}

template <class T> Chunk<T> take_chunk(Arena& arena, int64_t dims, int64_t capacity, bool marginal) {
  const int64_t plane = capacity * dims * kLanes<T>;
  Chunk<T> chunk{};
  chunk.capacity = capacity;
  chunk.dims = dims;
  chunk.loc = take<T>(arena, plane);
  chunk.scale = take<T>(arena, plane);
  chunk.precision = take<T>(arena, plane);
  chunk.constant = take<T>(arena, capacity * kLanes<T>);
  chunk.marginal_constant = marginal ? take<T>(arena, plane) : nullptr;
  return chunk;
}

template <class T> bool absent(const Components<T>& components, int64_t i) {
  return components.log_weights.present() &&
         components.log_weights.at(components.index(i), 0) == -Float<T>::infinity;
}

// Turns the scales of one vector of components into precisions and normalisers. Logarithms are expensive: the
// scales are multiplied, with their exponents taken out and added up after every third, and one logarithm is
// taken of the product.
//
// log2_weight comes in double, and what is large and known (the weight, the normaliser's constant, the
// exponents) is put together before anything is rounded to T: constants of some hundred bits would else cost
// digits of every density.
template <class T> void pack_normalisers(Chunk<T>& chunk, int64_t v, const double* log2_weight) {
  const int64_t dims = chunk.dims, at = v * dims * kLanes<T>;
  Vector<T> joint_offset, marginal_offset;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    joint_offset[lane] = static_cast<T>(log2_weight[lane] - static_cast<double>(dims) * kHalfLog2TwoPi);
    marginal_offset[lane] = static_cast<T>(log2_weight[lane] - kHalfLog2TwoPi);
  }
  const Vector<T> smallest = splat(T(1) / Float<T>::large), largest = splat(Float<T>::large);
  Vector<T> exponent{}, product = splat(T(1));
  unsigned awkward = 0;  // some scale is NaN, not positive, or so far from 1 that three in a row may overflow
  int unsplit = 0;
  for (int64_t d = 0; d < dims; ++d) {
    const int64_t o = at + d * kLanes<T>;
    const Vector<T> scale = load(chunk.scale + o);
    awkward |= not_le(smallest, scale) | not_le(scale, largest);
    store(chunk.precision + o, half_precision<T>(scale));
    product *= scale;
    if (++unsplit == 3) {
      exponent += split_exponent<T>(product);
      unsplit = 0;
    }
  }
  exponent += split_exponent<T>(product);
  Vector<T> constant = (joint_offset - exponent) - log2_mantissa<T>(product);
  if (chunk.marginal_constant) {
    for (int64_t d = 0; d < dims; ++d) {
      Vector<T> mantissa = load(chunk.scale + at + d * kLanes<T>);
      const Vector<T> e = split_exponent<T>(mantissa);
      store(chunk.marginal_constant + at + d * kLanes<T>, (marginal_offset - e) - log2_mantissa<T>(mantissa));
    }
  }
  if (__builtin_expect(awkward != 0, 0)) {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      double total = 0;
      for (int64_t d = 0; d < dims; ++d) {
        const int64_t o = at + d * kLanes<T> + lane;
        const double log2_scale_d = ::log2(static_cast<double>(chunk.scale[o]));
        // A scale so small that its precision overflows: close enough, where infinity times a difference of 0
        // would be NaN.
        if (chunk.scale[o] > 0 && chunk.precision[o] > -Float<T>::lowest)
          chunk.precision[o] = -Float<T>::lowest / 2;
        total += log2_scale_d;
        if (chunk.marginal_constant)
          chunk.marginal_constant[o] = static_cast<T>(log2_weight[lane] - log2_scale_d - kHalfLog2TwoPi);
      }
      constant[lane] = static_cast<T>(log2_weight[lane] - static_cast<double>(dims) * kHalfLog2TwoPi - total);
    }
  }
  store(chunk.constant + v * kLanes<T>, constant);
}

constexpr int64_t kLine = 64;  // bytes that come from memory together

// Components first, first + 1, .. as lanes: lanes[d][lane], for `count` <= kLanes of them; what other lanes
// get is of no account. Where dims is not a multiple of four the last block of four overlaps the one before.
template <class T>
void gather_lanes(const Components<T>& components, const View<T>& tensor, int64_t first, int64_t count,
                  T* lanes) {
  const int64_t dims = components.dims;
  const T* from[kLanes<T>];
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
    from[lane] = tensor.data + components.index(first + at_most(lane, count - 1)) * tensor.stride_i;
    // The hardware does not see the next ones coming: they are out of order, or too many streams for it.
    const int64_t next = components.index(at_most(first + lane + kLanes<T>, components.count - 1));
    for (int64_t d = 0; d < dims; d += kLine / static_cast<int64_t>(sizeof(T)))
      __builtin_prefetch(tensor.data + next * tensor.stride_i + d * tensor.stride_d);
  }
  if (tensor.stride_d == 1 && dims >= 4) {
    for (int64_t block = 0; block < dims; block += 4) {
      const int64_t d = at_most(block, dims - 4);
      gather_quads(from, d, lanes + d * kLanes<T>);
    }
    return;
  }
  for (int64_t d = 0; d < dims; ++d)
    for (int64_t lane = 0; lane < kLanes<T>; ++lane)
      lanes[d * kLanes<T> + lane] = from[lane][d * tensor.stride_d];
}

template <class T>
void pack_components(const Components<T>& components, int64_t first, int64_t count, Chunk<T>& chunk) {
  const int64_t dims = chunk.dims;
  chunk.first = first;
  chunk.count = count;
  chunk.vectors = ceil_div(count, kLanes<T>);
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    T* const loc = chunk.loc + v * dims * kLanes<T>;
    T* const scale = chunk.scale + v * dims * kLanes<T>;
    const int64_t start = v * kLanes<T>, held = at_most(kLanes<T>, count - start);
    gather_lanes(components, components.loc, first + start, held, loc);
    gather_lanes(components, components.scale, first + start, held, scale);
    double log2_weight[kLanes<T>];
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      const bool empty = lane >= held || absent(components, first + start + lane);
      if (empty) {
        for (int64_t d = 0; d < dims; ++d) {
          loc[d * kLanes<T> + lane] = 0;
          scale[d * kLanes<T> + lane] = 1;
        }
        log2_weight[lane] = -Float<double>::infinity;
      } else if (components.log_weights.present()) {
        log2_weight[lane] =
            static_cast<double>(components.log_weights.at(components.index(first + start + lane), 0)) *
            kLog2E;
      } else {
        log2_weight[lane] = components.log2_weight;
      }
    }
    pack_normalisers(chunk, v, log2_weight);
  }
  const auto moderate = [&](const T* constants, int64_t size) {
    AllLe<T> all;
    for (int64_t o = 0; o < size; o += kLanes<T>) all.look(load(constants + o), splat(T(kModerate)));
    return !all.failed();
  };
  const int64_t lanes = chunk.vectors * kLanes<T>;
  chunk.moderate_joint = moderate(chunk.constant, lanes);
  chunk.moderate_marginals = chunk.marginal_constant && moderate(chunk.marginal_constant, lanes * dims);
}

template <class T> T highest_precision(const Chunk<T>& chunk) {
  Vector<T> highest{};
  for (int64_t o = 0; o < chunk.vectors * chunk.dims * kLanes<T>; o += kLanes<T>) {
    const Vector<T> w = load(chunk.precision + o);
    highest = w > highest ? w : highest;
  }
  return max_lane<T>(highest);
}

// Rows as [groups][dims][kGroup]; the last group is filled up with copies of the last row.
template <class T>
void pack_rows(const View<T>& value, int64_t rows, int64_t dims, int64_t group, T* packed) {
  for (int k = 0; k < kGroup; ++k) {
    const int64_t row = at_most(group * kGroup + k, rows - 1);
    for (int64_t d = 0; d < dims; ++d) packed[(group * dims + d) * kGroup + k] = value.at(row, d);
  }
}

// Dimensions are summed in blocks of this many: long sums of single terms round more.
constexpr int64_t kSummedDims = 32;

template <class T>
PYKERNELS_INLINE void sum_of_dims(const T* loc, const T* precision, const T* rows, int64_t first,
                                  int64_t last, Vector<T> (&sum)[kGroup]) {
#pragma GCC unroll 8
  for (int k = 0; k < kGroup; ++k) sum[k] = Vector<T>{};
  for (int64_t d = first; d < last; ++d) {
    const Vector<T> m = load(loc + d * kLanes<T>), w = load(precision + d * kLanes<T>);
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) sum[k] = add_weighted_square(m - splat(rows[d * kGroup + k]), w, sum[k]);
  }
}

// Adds the dimensions after the first block. Not inlined: it would cost registers where there are none.
template <class T>
__attribute__((noinline)) void add_further_dims(const T* loc, const T* precision, const T* rows, int64_t dims,
                                                Vector<T> (&squared)[kGroup]) {
  for (int64_t first = kSummedDims; first < dims; first += kSummedDims) {
    Vector<T> block[kGroup];
    sum_of_dims(loc, precision, rows, first, at_most(dims, first + kSummedDims), block);
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) squared[k] += block[k];
  }
}

// squared[k] = sum_d precision_d (loc_d - row_kd)^2 for the components of vector v.
template <class T>
PYKERNELS_INLINE void squared_distances(const Chunk<T>& chunk, int64_t v, const T* rows,
                                        Vector<T> (&squared)[kGroup]) {
  const T* loc = chunk.loc + v * chunk.dims * kLanes<T>;
  const T* precision = chunk.precision + v * chunk.dims * kLanes<T>;
  sum_of_dims(loc, precision, rows, 0, at_most(chunk.dims, kSummedDims), squared);
  if (chunk.dims > kSummedDims) {
    Vector<T> total[kGroup];  // a copy, so that squared itself can stay in registers
    for (int k = 0; k < kGroup; ++k) total[k] = squared[k];
    add_further_dims(loc, precision, rows, chunk.dims, total);
    for (int k = 0; k < kGroup; ++k) squared[k] = total[k];
  }
}

}  // namespace
}  // namespace pykernels
