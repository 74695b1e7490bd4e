// The joint density for few dimensions: a thread owns some rows and holds them in registers; the components
// pass by in tiles of shared memory, every thread reading the same one at a time. A block turns the
// components of a tile into the form its loop wants as it reads them, which costs each tile a few percent and
// saves a launch and its memory.
#pragma once

#include "mixture/cuda_merge.h"

namespace pykernels {

constexpr int kThreads = 128;
// Components in a thread's hands in the backward pass; a warp's are a tile of the forward pass.
template <class T> constexpr int kOwnComponents = sizeof(T) == 4 ? 2 : 1;
// Components, or rows, in shared memory at a time.
template <class T> constexpr int kTile = 32 * kOwnComponents<T>;
// Threads that bring in one of them together, each some of its dimensions.
template <class T> constexpr int kShare = kThreads / kTile<T>;

// How the threads of a block divide its work: each has some rows, and `ways` of them go halves, or quarters,
// in the components for the same rows. That is for few rows, or few pairs: more blocks then share them.
constexpr int kFewWays = 4;
template <class T, bool slopes> constexpr int kManyRows = (slopes ? 1 : 2) * kOwnComponents<T>;
template <int rows, int ways> constexpr int kBlockRows = kThreads / ways * rows;

// Blocks that a multiprocessor shall hold at once, which bounds the registers of a thread.
template <class T, int D, bool slopes> constexpr int joint_blocks() {
  return slopes ? 2 : sizeof(T) == 4 ? (D <= 10 ? 4 : 3) : D <= 6 ? 3 : 2;
}

// One component in shared memory: s, then m (or m s), then its log-weight with all that does not depend on
// the value.
template <class T, int D> struct Record {
  static constexpr int kLane = Quad<T>::kCount;
  static constexpr int kPadded = (D + kLane - 1) / kLane * kLane;
  static constexpr int kSize = 2 * kPadded + kLane;
};

// Reads `count` components from `first` on and says whether the loop over them has to use the accurate form.
template <class T, int D>
PYKERNELS_DEVICE bool load_records(const Components<T>& components, int64_t first, int count, int thread,
                                   T* records) {
  using R = Record<T, D>;
  const int i = thread / kShare<T>, part = thread % kShare<T>;
  const bool real = i < count;
  T* record = records + i * R::kSize;
  bool inaccurate = false;
  LogProduct<T> product;
  if (real) {
    const bool absent = is_absent(components, first + i);
    const T* loc = &at(components.loc, first + i, part);
    const T* scale = &at(components.scale, first + i, part);
    PYKERNELS_UNROLL_BY(1)
    for (int d = part; d < D; d += kShare<T>) {
      Standard<T> component{0, 0};
      if (d < components.dims) {
        component = standard(*loc, *scale, absent);
        multiply(product, component.s);
      }
      inaccurate |= needs_accurate_form(component);
      record[d] = component.s;
      record[R::kPadded + d] = component.m;
      loc += kShare<T> * components.loc.column_stride;
      scale += kShare<T> * components.scale.column_stride;
    }
  }
  const bool accurate = __syncthreads_or(inaccurate) || kAlwaysAccurate<T>;
  PYKERNELS_UNROLL
  for (int step = 1; step < kShare<T>; step *= 2)
    join(product, {__shfl_xor_sync(kWholeWarp, product.mantissa, step),
                   __shfl_xor_sync(kWholeWarp, product.exponent, step)});
  if (real) {
    PYKERNELS_UNROLL_BY(1)
    for (int d = part; !accurate && d < D; d += kShare<T>) record[R::kPadded + d] *= record[d];
    if (part == 0)
      record[2 * R::kPadded] = log2_constant(log2_weight(components, first + i), product, components.dims);
  }
  __syncthreads();
  return accurate;
}

template <class T, int D, int rows, bool slopes> struct RowSums {
  T z[rows][D];
  ExpSum<T> sum[rows];
  T recent[rows];  // the mass of this tile, added to the sum at its end: rounding errors grow with the terms
  T slope[slopes ? rows : 1][slopes ? D : 1];  // sum_i 2^(x_i - top) s t
};

// Adds `many` components from `record`, the tile's number `first`, on.
template <bool accurate, int many, class T, int D, int rows, bool slopes, class Offsets>
PYKERNELS_DEVICE void add_components(const T* record, int first, const Offsets& offsets,
                                     RowSums<T, D, rows, slopes>& own) {
  using R = Record<T, D>;
  T s[many][R::kPadded], t[many][rows][D], log2[many][rows];
  PYKERNELS_UNROLL
  for (int i = 0; i < many; ++i) {
    T m[R::kPadded];
    load_aligned(record + i * R::kSize, s[i]);
    load_aligned(record + i * R::kSize + R::kPadded, m);
    PYKERNELS_UNROLL
    for (int row = 0; row < rows; ++row) {
      log2[i][row] = record[i * R::kSize + 2 * R::kPadded];
      PYKERNELS_UNROLL
      for (int d = 0; d < D; ++d) {
        t[i][row][d] = standardized<accurate>(own.z[row][d], s[i][d], m[d]);
        log2[i][row] = fma(-t[i][row][d], t[i][row][d], log2[i][row]);
      }
      log2[i][row] = with_offset(log2[i][row], offsets, row, first + i);
    }
  }
  PYKERNELS_UNROLL
  for (int row = 0; row < rows; ++row) {
    ExpSum<T>& sum = own.sum[row];
    T top = log2[0][row];
    PYKERNELS_UNROLL
    for (int i = 1; i < many; ++i) top = fmax(top, log2[i][row]);
    if (top > sum.top) {
      const T factor = fast_exp2(sum.top - top);
      sum = {top, sum.mass * factor};
      own.recent[row] *= factor;
      if (slopes) {
        PYKERNELS_UNROLL
        for (int d = 0; d < D; ++d) own.slope[row][d] *= factor;
      }
    }
    PYKERNELS_UNROLL
    for (int i = 0; i < many; ++i) {
      const T weight = fast_exp2(log2[i][row] - sum.top);
      own.recent[row] += weight;
      // Where the weight is 0, t may be infinite; and there is nothing to add.
      if (slopes && weight != 0) {
        PYKERNELS_UNROLL
        for (int d = 0; d < D; ++d)
          own.slope[row][d] = fma(weight * s[i][d], t[i][row][d], own.slope[row][d]);
      }
    }
  }
}

// Adds every `ways`-th group of `many` components, from number `way` on, and what is left over one by one.
template <bool accurate, int many, int ways, class T, int D, int rows, bool slopes, class Offsets>
PYKERNELS_DEVICE void add_tile(const T* records, int count, int way, const Offsets& offsets,
                               RowSums<T, D, rows, slopes>& own) {
  constexpr int kSize = Record<T, D>::kSize;
  int i = way * many;
  PYKERNELS_UNROLL_BY(1)
  for (; many > 1 && i + many <= count; i += ways * many)
    add_components<accurate, many>(records + i * kSize, i, offsets, own);
  PYKERNELS_UNROLL_BY(1)
  for (i = (many > 1 ? count / many * many : 0) + way; i < count; i += ways)
    add_components<accurate, 1>(records + i * kSize, i, offsets, own);
  PYKERNELS_UNROLL
  for (int row = 0; row < rows; ++row) {
    own.sum[row].mass += own.recent[row];
    own.recent[row] = 0;
  }
}

// What the ways beyond the first have, in shared memory: top, mass and slopes, each of all threads.
template <class T, int D, int ways, bool slopes>
constexpr int kWaysSize = (slopes ? 2 + D : 2) * (kThreads - kThreads / ways);

template <class T, int D, int ways, bool slopes> constexpr int joint_shared_size() {
  constexpr int records = kTile<T> * Record<T, D>::kSize, joined = kWaysSize<T, D, ways, slopes>;
  return records > joined ? records : joined;
}

// The first way gets all sums of its row, in order.
template <int ways, class T, int D, bool slopes>
PYKERNELS_DEVICE void join_ways(T* shared, int thread, RowSums<T, D, 1, slopes>& own) {
  constexpr int kFirst = kThreads / ways, kOthers = kThreads - kFirst;
  if (thread >= kFirst) {
    T* place = shared + thread - kFirst;
    place[0] = own.sum[0].top;
    place[kOthers] = own.sum[0].mass;
    PYKERNELS_UNROLL
    for (int d = 0; slopes && d < D; ++d) place[(2 + d) * kOthers] = own.slope[0][d];
  }
  __syncthreads();
  if (thread >= kFirst) return;
  PYKERNELS_UNROLL
  for (int way = 1; way < ways; ++way) {
    const T* place = shared + (way - 1) * kFirst + thread;
    const ExpSum<T> mine = own.sum[0], other{place[0], place[kOthers]};
    const T top = fmax(mine.top, other.top);
    const T factor = fast_exp2(mine.top - top), other_factor = fast_exp2(other.top - top);
    own.sum[0] = {top, fma(mine.mass, factor, other.mass * other_factor)};
    PYKERNELS_UNROLL
    for (int d = 0; slopes && d < D; ++d)
      own.slope[0][d] = fma(own.slope[0][d], factor, place[(2 + d) * kOthers] * other_factor);
  }
}

// Grid: blocks of rows, splits of the components, batch elements from `first_element` on.
template <class T, int D, int rows, int ways, bool slopes>
__global__ void __launch_bounds__(kThreads, (joint_blocks<T, D, slopes>())) forward_joint(
    PYKERNELS_PARAMETER MixtureProblem problem, PYKERNELS_PARAMETER DensityOutput<T> out,
    int64_t tiles_per_split, uint32_t first_element) {
  constexpr int kRowThreads = kThreads / ways;
  PYKERNELS_SHARED(T, records);
  const int thread = static_cast<int>(threadIdx.x), way = thread / kRowThreads;
  const uint32_t local_element = blockIdx.z, element = first_element + local_element;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kBlockRows<rows, ways> + thread % kRowThreads;
  const int64_t split = blockIdx.y, splits = gridDim.y;
  const auto [components, value] = element_of<T>(problem, element);

  RowSums<T, D, rows, slopes> own;
  PYKERNELS_UNROLL
  for (int r = 0; r < rows; ++r) {
    const int64_t row = first_row + r * kRowThreads;
    own.sum[r] = empty_sum<T>();
    own.recent[r] = 0;
    PYKERNELS_UNROLL
    for (int d = 0; d < D; ++d) {
      own.z[r][d] = row < problem.rows && d < components.dims ? at(value, row, d) : 0;
      if (slopes) own.slope[r][d] = 0;
    }
  }

  // Components at a time: as many as registers hold, which with slopes have to keep every t. In float64 an
  // exponential is so long that two are enough.
  constexpr int kMany = (sizeof(T) == 4 ? 4 : 2) / (slopes && D > 10 ? 2 : 1);
  int64_t first = split * tiles_per_split * kTile<T>;
  int64_t end = first + tiles_per_split * kTile<T>;
  if (end > components.count) end = components.count;
  for (; first < end; first += kTile<T>) {
    const int count = static_cast<int>(end - first < kTile<T> ? end - first : kTile<T>);
    const bool accurate = load_records<T, D>(components, first, count, thread, records);
    constexpr int kRows = kBlockRows<rows, ways>;
    const int ahead = ahead_of(first, blockIdx.x * static_cast<int64_t>(kRows));
    if (meets_band(problem, ahead, kRows, count)) {
      const BandOffsets<kRowThreads> offsets{problem, ahead - thread % kRowThreads};
      if (accurate)
        add_tile<true, 1, ways>(records, count, way, offsets, own);
      else
        add_tile<false, 1, ways>(records, count, way, offsets, own);
    } else if (accurate) {
      add_tile<true, kMany, ways>(records, count, way, NoOffsets{}, own);
    } else {
      add_tile<false, kMany, ways>(records, count, way, NoOffsets{}, own);
    }
    __syncthreads();  // before the next tile overwrites this one
  }
  if constexpr (ways > 1) {
    join_ways<ways>(records, thread, own);
    if (way > 0) return;
  }

  PYKERNELS_UNROLL
  for (int r = 0; r < rows; ++r) {
    const int64_t row = first_row + r * kRowThreads;
    if (row >= problem.rows) continue;
    const int64_t whole = element * problem.rows + row;
    const int64_t part = (local_element * splits + split) * problem.rows + row;
    if (out.part)
      out.part[part] = own.sum[r];
    else
      write_density(out, whole, own.sum[r]);
    if (slopes) {
      PYKERNELS_UNROLL
      for (int d = 0; d < D; ++d) {
        if (d >= components.dims) continue;
        if (out.part)
          out.part_slope[part * components.dims + d] = own.slope[r][d];
        else
          out.slope[whole * components.dims + d] = value_slope(own.slope[r][d], own.sum[r].mass);
      }
    }
  }
}

}  // namespace pykernels
