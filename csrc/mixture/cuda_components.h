// Sums over the rows from which the gradients of loc, scale and log-weights follow, for few dimensions: a
// thread owns some components, the rows pass by in tiles of shared memory. With r = gradient of the row times
// 2^(log2 density - log2 q):
//
//   first = sum r t,    second = sum r t^2,    mass = sum r.
//
// The arithmetic is the forward pass's, step by step and form by form: where one component outweighs all
// others, its exponent is then 0 exactly, whatever the rounding on the way there.
#pragma once

#include "mixture/cuda_forward.h"
#include "mixture/cuda_gradients.h"

namespace pykernels {

// A row in shared memory: the value, then minus its log2 density, then its upstream gradient.
template <class T, int D> struct RowRecord {
  static constexpr int kLane = Quad<T>::kCount;
  static constexpr int kPadded = (D + kLane - 1) / kLane * kLane;
  static constexpr int kSize = kPadded + kLane;
};

// A row without density (-inf) is out of every component's reach and may stand at infinity: it counts for
// nothing.
template <class T> struct RowTerms {
  bool counts;
  T minus_log2, gradient;
};

template <class T> PYKERNELS_DEVICE RowTerms<T> row_terms(T log2, T gradient) {
  if (log2 == -static_cast<T>(INFINITY)) return {false, -Limits<T>::kLargest, 0};
  return {true, -log2, gradient};
}

template <class T, int D>
PYKERNELS_DEVICE void load_rows(const Matrix<const T>& value, const T* log2, const T* gradient, int dims,
                                int64_t first, int count, int thread, T* records) {
  using R = RowRecord<T, D>;
  const int row = thread / kShare<T>, part = thread % kShare<T>;
  if (row < count) {
    const RowTerms<T> terms = row_terms(log2[first + row], gradient[first + row]);
    T* record = records + row * R::kSize;
    const T* z = &at(value, first + row, part);
    PYKERNELS_UNROLL_BY(1)
    for (int d = part; d < D; d += kShare<T>) {
      record[d] = terms.counts && d < dims ? *z : 0;
      z += kShare<T> * value.column_stride;
    }
    if (part == 0) {
      record[R::kPadded] = terms.minus_log2;
      record[R::kPadded + 1] = terms.gradient;
    }
  }
  __syncthreads();
}

template <class T, int D, int many> struct ComponentSums {
  T s[many][D], m[many][D], constant[many];
  T first[many][D], second[many][D], mass[many];
};

// Reads the thread's components from `first` on; says whether the warp has to use the accurate form.
template <class T, int D, int many>
PYKERNELS_DEVICE bool load_own(const Components<T>& components, int64_t first,
                               ComponentSums<T, D, many>& own) {
  bool inaccurate = false;
  PYKERNELS_UNROLL
  for (int k = 0; k < many; ++k) {
    const int64_t i = first + k;
    const bool real = i < components.count;
    LogProduct<T> product[kShare<T>];  // as the threads of the forward pass share it
    PYKERNELS_UNROLL
    for (int d = 0; d < D; ++d) {
      Standard<T> component{0, 0};
      if (real && d < components.dims) {
        component = standard_of(components, i, d);
        multiply(product[d % kShare<T>], component.s);
      }
      inaccurate |= needs_accurate_form(component);
      own.s[k][d] = component.s;
      own.m[k][d] = component.m;
      own.first[k][d] = own.second[k][d] = 0;
    }
    PYKERNELS_UNROLL
    for (int step = 1; step < kShare<T>; step *= 2) {
      PYKERNELS_UNROLL
      for (int part = 0; part + step < kShare<T>; part += 2 * step) join(product[part], product[part + step]);
    }
    const T log2 = real ? log2_weight(components, i) : -static_cast<T>(INFINITY);
    own.constant[k] = log2_constant(log2, product[0], components.dims);
    own.mass[k] = 0;
  }
  const bool accurate = __any_sync(kWholeWarp, inaccurate) || kAlwaysAccurate<T>;
  if (!accurate) {
    PYKERNELS_UNROLL
    for (int k = 0; k < many; ++k) {
      PYKERNELS_UNROLL
      for (int d = 0; d < D; ++d) own.m[k][d] *= own.s[k][d];
    }
  }
  return accurate;
}

template <bool accurate, class T, int D, int many, class Offsets>
PYKERNELS_DEVICE void add_row(const T* record, int row, const Offsets& offsets,
                              ComponentSums<T, D, many>& own) {
  using R = RowRecord<T, D>;
  T z[R::kPadded];
  load_aligned(record, z);
  PYKERNELS_UNROLL
  for (int k = 0; k < many; ++k) {
    T t[D], log2 = own.constant[k];
    PYKERNELS_UNROLL
    for (int d = 0; d < D; ++d) {
      t[d] = standardized<accurate>(z[d], own.s[k][d], own.m[k][d]);
      log2 = fma(-t[d], t[d], log2);
    }
    log2 = with_offset(log2, offsets, row, k);
    const T share = record[R::kPadded + 1] * fast_exp2(log2 + record[R::kPadded]);
    // Most components are out of most rows' reach, and there t may be infinite.
    if (share != 0) {
      own.mass[k] += share;
      PYKERNELS_UNROLL
      for (int d = 0; d < D; ++d) {
        const T first = share * t[d];
        own.first[k][d] += first;
        own.second[k][d] = fma(first, t[d], own.second[k][d]);
      }
    }
  }
}

// Adds every `ways`-th row, from number `way` on.
template <bool accurate, int ways, int times, class T, int D, int many, class Offsets>
PYKERNELS_DEVICE void add_rows(const T* records, int count, int way, const Offsets& offsets,
                               ComponentSums<T, D, many>& own) {
  PYKERNELS_UNROLL_BY(times)
  for (int row = way; row < count; row += ways)
    add_row<accurate>(records + row * RowRecord<T, D>::kSize, row, offsets, own);
}

// Components of a block. With several ways, its warps own the same ones, and each takes some of the rows.
template <class T, int ways> constexpr int kBlockComponents = kThreads / ways * kOwnComponents<T>;

// A thread's sums, all of them, in shared memory: a row of it for each, the lanes of a warp beside one
// another.
template <class T, int D> constexpr int kSumRows = kOwnComponents<T> * (2 * D + 1);

template <class T, int D, int ways> constexpr int component_shared_size() {
  constexpr int records = kTile<T> * RowRecord<T, D>::kSize, sums = ways * kSumRows<T, D> * kFinishStride;
  return ways == 1 || records > sums ? records : sums;
}

template <class T, int D, int many>
PYKERNELS_DEVICE void lay_down(const ComponentSums<T, D, many>& own, T* place) {
  PYKERNELS_UNROLL
  for (int k = 0; k < many; ++k) {
    PYKERNELS_UNROLL
    for (int d = 0; d < D; ++d) {
      place[(2 * d * many + k) * kFinishStride] = own.first[k][d];
      place[((2 * d + 1) * many + k) * kFinishStride] = own.second[k][d];
    }
    place[(2 * D * many + k) * kFinishStride] = own.mass[k];
  }
}

// Sums of one split of the rows: [elements, splits, 2 dims + 1, components], first and second by dimension,
// then the mass. Without `sums`, which takes kFewWays, there is one split, and the gradients follow here; the
// blocks beyond the components are then for value. With `band` some weights depend on the pair, which takes
// registers that nobody else shall miss.
template <class T, int D, int ways, bool band>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 && D <= 10 && !band ? 4 : 2) joint_component_sums(
    PYKERNELS_PARAMETER MixtureProblem problem, PYKERNELS_PARAMETER ValueGradient<T> value,
    PYKERNELS_PARAMETER GradientOutputs<T> gradients, T* sums, int64_t tiles_per_split,
    int64_t component_blocks, uint32_t first_element) {
  constexpr int many = kOwnComponents<T>, kOwners = kThreads / ways;
  PYKERNELS_SHARED(T, records);
  const int thread = static_cast<int>(threadIdx.x), way = thread / kOwners, lane = thread % kOwners;
  const uint32_t local_element = blockIdx.z, element = first_element + local_element;
  const int64_t block = blockIdx.x, split = blockIdx.y, splits = gridDim.y;
  if (ways > 1 && block >= component_blocks) {
    finish_value(problem, value, local_element, element, (block - component_blocks) * kThreads + thread);
    return;
  }
  const int64_t first_component = block * kOwners * many, own_component = first_component + lane * many;
  const auto [components, rows] = element_of<T>(problem, element);
  const T *log2 = value.joint_log2 + element * problem.rows,
          *gradient = value.grad_joint + element * problem.rows;

  ComponentSums<T, D, many> own;
  const bool accurate = load_own(components, own_component, own);
  int64_t first = split * tiles_per_split * kTile<T>;
  int64_t end = first + tiles_per_split * kTile<T>;
  if (end > problem.rows) end = problem.rows;
  for (; first < end; first += kTile<T>) {
    const int count = static_cast<int>(end - first < kTile<T> ? end - first : kTile<T>);
    load_rows<T, D>(rows, log2, gradient, components.dims, first, count, thread, records);
    const int ahead = ahead_of(first_component, first);
    if (band && meets_band(problem, ahead, count, kOwners * many)) {
      const BandOffsets<1> offsets{problem, ahead + lane * many};
      if (accurate)
        add_rows<true, ways, 1>(records, count, way, offsets, own);
      else
        add_rows<false, ways, 1>(records, count, way, offsets, own);
    } else if (accurate) {
      add_rows<true, ways, 2>(records, count, way, NoOffsets{}, own);
    } else {
      add_rows<false, ways, 2>(records, count, way, NoOffsets{}, own);
    }
    __syncthreads();  // before the next tile overwrites this one
  }

  const int dims = components.dims;
  const int64_t count = components.count, out = (local_element * splits + split) * (2 * dims + 1) * count;
  if constexpr (ways == 1) {
    PYKERNELS_UNROLL
    for (int k = 0; k < many; ++k) {
      const int64_t i = own_component + k;
      if (i >= count) continue;
      sums[out + 2 * dims * count + i] = own.mass[k];
      PYKERNELS_UNROLL
      for (int d = 0; d < D; ++d) {
        if (d >= dims) continue;
        sums[out + d * count + i] = own.first[k][d];
        sums[out + (dims + d) * count + i] = own.second[k][d];
      }
    }
  } else {
    // Each warp has sums of the same components, over rows of its own. They are joined in order, neighbours
    // taking neighbouring dimensions, as the gradients lie in memory.
    lay_down(own, records + way * kSumRows<T, D> * kFinishStride + lane);
    __syncthreads();
    const auto total = [&](int column, int member) {
      T sum = 0;
      PYKERNELS_UNROLL
      for (int other = 0; other < ways; ++other)
        sum +=
            records[(other * kSumRows<T, D> + column * many + member % many) * kFinishStride + member / many];
      return sum;
    };
    PYKERNELS_UNROLL_BY(1)
    for (int output = thread; output < kOwners * many * (dims + 1); output += kThreads) {
      const int member = output / (dims + 1), d = output % (dims + 1);
      const int64_t i = first_component + member;
      if (i >= count) break;
      const T mass = total(2 * D, member);
      if (d == dims) {
        if (sums)
          sums[out + 2 * dims * count + i] = mass;
        else
          finish_weight(problem, gradients, components, local_element, element, i, mass);
      } else if (sums) {
        sums[out + d * count + i] = total(2 * d, member);
        sums[out + (dims + d) * count + i] = total(2 * d + 1, member);
      } else {
        finish(problem, gradients, components, local_element, element, i, d, total(2 * d, member),
               total(2 * d + 1, member), mass);
      }
    }
  }
}

}  // namespace pykernels
