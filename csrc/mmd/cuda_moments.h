// The points' side of the panels: Chebyshev moments of what a panel holds, and slopes as series evaluated at
// the points. In a panel a point is at xi = 2 (x / h - j), from -1 to 1 and exact, because h is a power of
// two.
#pragma once

#include "mmd/cuda_common.h"

namespace pykernels {
namespace mmd {

// Adding it leaves the nearest integer in the low bits.
template <class T> struct Rounding;
template <> struct Rounding<float> {
  using Bits = int32_t;
  static constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
};
template <> struct Rounding<double> {
  using Bits = int64_t;
  static constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
};

template <class T> PYKERNELS_DEVICE int bits_of(T x) {
  typename Rounding<T>::Bits bits;
  memcpy(&bits, &x, sizeof bits);
  return static_cast<int>(bits);
}

// Panels of one column.
template <class T> struct Grid {
  T inverse_width;
  int first;  // low bits of a shifted number in the first panel
};

template <class T> PYKERNELS_DEVICE Grid<T> grid_of(const Column& column, double width) {
  return {static_cast<T>(1 / width), bits_of(static_cast<T>(column.first) + Rounding<T>::kShift)};
}

template <class T> struct Place {
  int panel;
  T xi;
};

template <class T> PYKERNELS_DEVICE Place<T> place_of(T x, const Grid<T>& grid) {
  const T scaled = x * grid.inverse_width, shifted = scaled + Rounding<T>::kShift;
  const T half = scaled - (shifted - Rounding<T>::kShift);
  return {bits_of(shifted) - grid.first, half + half};
}

// 16 bytes at once.
template <class T> struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(T);
  T values[kCount];
};

constexpr int64_t kMomentRows = 512;  // whose moments a thread sums in T before they go on in double
constexpr int kMomentThreads = 128;
constexpr int kMomentDims = 8;          // of a block, at most: it then reads whole sectors of memory
constexpr int kMomentBytes = 48 << 10;  // of shared memory

struct MomentPlan {
  int64_t rows[2];  // of a split
  int splits[2];
  int dims;        // of a block
  int most_nodes;  // of a column
  double width;
};

template <class T, int order> PYKERNELS_DEVICE void add_point(T x, T mass, const Grid<T>& grid, T* sums) {
  const Place<T> place = place_of(x, grid);
  const T twice = place.xi + place.xi;
  T previous = mass, current = place.xi * mass;
  Pack<T>* const packs = reinterpret_cast<Pack<T>*>(sums + place.panel * order);
  PYKERNELS_UNROLL
  for (int first = 0; first < order / Pack<T>::kCount; ++first) {
    Pack<T> pack = packs[first];
    PYKERNELS_UNROLL
    for (int k = 0; k < Pack<T>::kCount; ++k) {
      pack.values[k] += previous;
      const T next = fma(twice, current, -previous);
      previous = current;
      current = next;
    }
    packs[first] = pack;
  }
}

// `count` points, `stride` apart, and their masses; the next ones are read while these are added. masses
// null: 1 each.
template <class T, int order, bool weighted>
PYKERNELS_DEVICE void add_points(const T* points, int64_t stride, const double* masses, int64_t mass_stride,
                                 int count, const Grid<T>& grid, T* sums) {
  constexpr int kAhead = 4;
  T next[kAhead], next_mass[kAhead];
  const auto read = [&](int left) {
    PYKERNELS_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      next[k] = k < left ? points[k * stride] : 0;
      next_mass[k] = weighted && masses && k < left ? static_cast<T>(masses[k * mass_stride]) : 1;
    }
    points += kAhead * stride;
    if (weighted) masses += kAhead * mass_stride;
  };
  read(count);
  for (; count > 0; count -= kAhead) {
    T x[kAhead], mass[kAhead];
    PYKERNELS_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      x[k] = next[k];
      mass[k] = weighted ? next_mass[k] : 1;
    }
    read(count - kAhead);
    PYKERNELS_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (k < count) add_point<T, order>(x[k], mass[k], grid, sums);
  }
}

// moments[elements][splits of x, of y][dims][most_nodes]. A block takes some rows of a sample in a few
// dimensions. Its threads have sums of their own in shared memory, so that nobody waits for another; what
// room there is for decides how many of them work, and whether the dimensions take turns.
template <class T, int order, bool weighted>
__global__ void __launch_bounds__(kMomentThreads) sum_moments(PYKERNELS_PARAMETER Inputs inputs,
                                                              PYKERNELS_PARAMETER MomentPlan plan,
                                                              const Column* columns, double* moments,
                                                              uint32_t first_element) {
  PYKERNELS_SHARED(T, sums);
  const int thread = static_cast<int>(threadIdx.x);
  const int block = static_cast<int>(blockIdx.x), sample = block >= plan.splits[0];
  const int64_t element = blockIdx.z, first_dim = static_cast<int64_t>(blockIdx.y) * plan.dims;
  const int dims =
      static_cast<int>(inputs.dims - first_dim < plan.dims ? inputs.dims - first_dim : plan.dims);
  columns += element * inputs.dims + first_dim;
  moments +=
      ((element * (plan.splits[0] + plan.splits[1]) + block) * inputs.dims + first_dim) * plan.most_nodes;
  int panels = 0;
  for (int d = 0; d < dims; ++d) panels = columns[d].panels > panels ? columns[d].panels : panels;
  if (panels == 0) return;

  const int64_t begin = (sample ? block - plan.splits[0] : block) * plan.rows[sample];
  const int64_t end =
      begin + plan.rows[sample] < inputs.counts[sample] ? begin + plan.rows[sample] : inputs.counts[sample];
  // An odd number of packs spreads the same panel of many threads over the banks.
  const int nodes = panels * order, stride = nodes + Pack<T>::kCount;
  const int room = kMomentBytes / static_cast<int>(sizeof(T)) / stride;
  const int owners = room < kMomentThreads ? room : kMomentThreads;
  const int together = dims < owners ? dims : owners, groups = owners / together;
  const int group = thread / together;
  const int64_t round = groups * kMomentRows;
  for (int first = 0; first < dims; first += together) {
    const int d = first + thread % together;
    const bool active = group < groups && d < dims && columns[d < dims ? d : 0].panels > 0;
    for (int64_t row = begin; row < end; row += round) {
      for (int i = thread; i < groups * together * stride; i += kMomentThreads) sums[i] = 0;
      __syncthreads();
      if (active) {
        const uint32_t whole = first_element + static_cast<uint32_t>(element);
        const Line<T> points = line_of<T>(inputs, sample, whole, first_dim + d);
        const Line<double> masses = masses_of(inputs, sample, whole);
        const int64_t from = row + group, to = row + round < end ? row + round : end;
        add_points<T, order, weighted>(points.data + from * points.stride, groups * points.stride,
                                       masses.data + from * masses.stride, groups * masses.stride,
                                       static_cast<int>((to - from + groups - 1) / groups),
                                       grid_of<T>(columns[d], plan.width), sums + thread * stride);
      }
      __syncthreads();
      for (int i = thread; i < together * nodes; i += kMomentThreads) {
        const int local = i / nodes, node = i % nodes, own = first + local;
        if (own >= dims || node >= columns[own].panels * order) continue;
        T total = 0;
        for (int g = 0; g < groups; ++g) total += sums[(g * together + local) * stride + node];
        double* const out = moments + static_cast<int64_t>(own) * plan.most_nodes + node;
        *out = row == begin ? static_cast<double>(total) : *out + static_cast<double>(total);
      }
      __syncthreads();
    }
  }
}

// The slopes at the points.

constexpr int kSlopeRows = 8;  // of a thread

template <class T> struct SlopeOutput {
  T* slopes[2];        // [*batch, rows, dims]; null: not asked for
  const T* series[2];  // [elements][dims][most_nodes]
  int64_t blocks_x;    // of the grid: those of x
};

// sum_k series[k] T_k(xi), by Clenshaw's recurrence.
template <class T, int order> PYKERNELS_DEVICE T value_of(const T* series, T xi) {
  const Pack<T>* const packs = reinterpret_cast<const Pack<T>*>(series);
  const T twice = xi + xi;
  T later = 0, latest = 0;
  PYKERNELS_UNROLL
  for (int first = order / Pack<T>::kCount - 1; first >= 0; --first) {
    const Pack<T> pack = packs[first];
    PYKERNELS_UNROLL
    for (int k = Pack<T>::kCount - 1; k >= 0; --k) {
      if (first == 0 && k == 0) return fma(xi, latest, pack.values[0] - later);
      const T next = fma(twice, latest, pack.values[k] - later);
      later = latest;
      latest = next;
    }
  }
  return 0;
}

template <class T, int order, bool weighted>
__global__ void __launch_bounds__(kThreads, 3) slopes_at_points(PYKERNELS_PARAMETER Inputs inputs,
                                                                PYKERNELS_PARAMETER SlopeOutput<T> out,
                                                                Lanes lanes, const Column* columns,
                                                                double width, int most_nodes,
                                                                uint32_t first_element) {
  const int thread = static_cast<int>(threadIdx.x), group = thread / lanes.dims;
  const int sample = static_cast<int64_t>(blockIdx.x) >= out.blocks_x;
  const int64_t block = blockIdx.x - (sample ? out.blocks_x : 0), element = blockIdx.z;
  const int64_t d = static_cast<int64_t>(blockIdx.y) * lanes.dims + thread % lanes.dims;
  if (group >= lanes.groups || d >= inputs.dims) return;
  const Column column = columns[element * inputs.dims + d];
  if (column.panels == kPairs) return;
  const uint32_t whole = first_element + static_cast<uint32_t>(element);
  const int64_t count = inputs.counts[sample];
  const Line<T> points = line_of<T>(inputs, sample, whole, d);
  const Line<double> masses = masses_of(inputs, sample, whole);
  const T* const series = out.series[sample] + (element * inputs.dims + d) * most_nodes;
  T* const slopes = out.slopes[sample] + whole * count * inputs.dims + d;
  const Grid<T> grid = grid_of<T>(column, width);
  const int64_t first = block * kSlopeRows * lanes.groups + group;
  if (first >= count) return;
  const int64_t left = (count - first + lanes.groups - 1) / lanes.groups;
  const int rows = left < kSlopeRows ? static_cast<int>(left) : kSlopeRows;
  const T* from = points.data + first * points.stride;
  const double* mass = masses.data + first * masses.stride;
  T* to = slopes + first * inputs.dims;
  if (column.panels == kUndefined) {
    for (int k = 0; k < rows; ++k) to[k * lanes.groups * inputs.dims] = static_cast<T>(NAN);
    return;
  }
  PYKERNELS_UNROLL_BY(4)
  for (int k = 0; k < rows; ++k) {
    const Place<T> place = place_of(*from, grid);
    T slope = value_of<T, order>(series + place.panel * order, place.xi);
    if (weighted && masses.data) slope *= static_cast<T>(*mass);
    *to = slope;
    from += lanes.groups * points.stride;
    to += lanes.groups * inputs.dims;
    if (weighted) mass += lanes.groups * masses.stride;
  }
}

}  // namespace mmd
}  // namespace pykernels
