// Sums over all pairs of points: the method "direct", and columns whose points reach too far for panels.
#pragma once

#include "mmd/cuda_fractions.h"

namespace pykernels {
namespace mmd {

// A thread has some points of its own; the lanes of a warp share what they are paired with, and the warps of
// a block, its ways, share the points and divide what these are paired with.
constexpr int kWays = kThreads / 32;
constexpr int kRun = 8;  // pairs of a point whose sum rounds
template <class T> constexpr int kOwn = sizeof(T) == 4 ? 4 : 2;
template <class T> constexpr int kPairTile = 32 * kOwn<T>;
template <class T> constexpr size_t kPairBytes = 2 * kThreads * (kOwn<T> * sizeof(double) + sizeof(T));

struct PairPlan {
  int64_t tiles[2];                      // of each sample, one after the other
  int64_t first_tile, count;             // of the launch
  int64_t columns;                       // to be summed over, or
  const int64_t *listed, *listed_count;  // those that were found to be; null: all
  int cross;  // the sample whose tiles see to the pairs of a point of x and one of y
};

// What a tile adds to the quadratic form of its own sample, and to u'Kv: forms[elements][dims][tiles][2].
template <class T> struct PairOutput {
  double* forms;
  T* slopes[2];  // [*batch, rows, dims]
};

// A sum whose rounding does not grow with its length.
template <class T> struct LongSum {
  T high, low;
};

template <class T> PYKERNELS_DEVICE void add(LongSum<T>& sum, T term) {
  const T high = sum.high + term, part = high - sum.high;
  sum.low += (sum.high - (high - part)) + (term - part);
  sum.high = high;
}

template <class T> struct PairSums {
  LongSum<T> kappa[kOwn<T>], slope[kOwn<T>];
};

// Pairs of a thread's own points with [begin, end) of a line.
template <class T, int count, bool slopes, bool weighted>
PYKERNELS_DEVICE void add_pairs(const Fractions<T>& kernel, const Line<T>& points, const Line<double>& masses,
                                int64_t begin, int64_t end, const T (&own)[kOwn<T>], T* staged, int thread,
                                PairSums<T>& sums, T& defined) {
  T* const staged_masses = staged + kThreads;
  for (int64_t first = begin; first < end; first += kThreads) {
    const int64_t i = first + thread;
    if (i < end) {
      const T x = at(points, i);
      defined += x - x;  // 0, or NaN
      staged[thread] = x * kernel.unit;
      if (weighted) staged_masses[thread] = masses.data ? static_cast<T>(at(masses, i)) : 1;
    }
    __syncthreads();
    const int held = end - first < kThreads ? static_cast<int>(end - first) : kThreads;
    for (int j = thread / 32; j < held;) {
      const int stop = j + kRun * kWays < held ? j + kRun * kWays : held;
      T kappa[kOwn<T>] = {}, slope[kOwn<T>] = {};
      PYKERNELS_UNROLL_BY(2)
      for (; j < stop; j += kWays) {
        const T other = staged[j], mass = weighted ? staged_masses[j] : 1;
        PYKERNELS_UNROLL
        for (int r = 0; r < kOwn<T>; ++r)
          add_pair<count, slopes>(kernel, own[r] - other, mass, weighted, kappa[r], slope[r]);
      }
      PYKERNELS_UNROLL
      for (int r = 0; r < kOwn<T>; ++r) {
        add(sums.kappa[r], kappa[r]);
        if (slopes) add(sums.slope[r], slope[r]);
      }
    }
    __syncthreads();
  }
}

// What the ways have of a thread's point: that of number `thread` in the tile.
struct PointSums {
  double kappa, slope;
};

template <class T, bool slopes>
PYKERNELS_DEVICE PointSums join_ways(const PairSums<T>& sums, double* totals, int thread) {
  PYKERNELS_UNROLL
  for (int r = 0; r < kOwn<T>; ++r) {
    totals[r * kThreads + thread] =
        static_cast<double>(sums.kappa[r].high) + static_cast<double>(sums.kappa[r].low);
    if (slopes)
      totals[(kOwn<T> + r) * kThreads + thread] =
          static_cast<double>(sums.slope[r].high) + static_cast<double>(sums.slope[r].low);
  }
  __syncthreads();
  PointSums joined{0, 0};
  if (thread >= kPairTile<T>) return joined;
  const double* const kappa = totals + thread / 32 * kThreads + thread % 32;
  for (int way = 0; way < kWays; ++way) {
    joined.kappa += kappa[way * 32];
    if (slopes) joined.slope += kappa[kOwn<T> * kThreads + way * 32];
  }
  return joined;
}

// Blocks take tiles of points by turns. Without slopes, of two points of a sample only the tile of the first
// sees to the pair.
template <class T, int count, bool slopes, bool weighted>
__global__ void __launch_bounds__(kThreads, kOwn<T> == 4 ? 3 : 2) sum_over_pairs(
    PYKERNELS_PARAMETER Inputs inputs, PYKERNELS_PARAMETER Fractions<T> kernel,
    PYKERNELS_PARAMETER PairPlan plan, PYKERNELS_PARAMETER Excess excess,
    PYKERNELS_PARAMETER PairOutput<T> out, uint32_t first_element) {
  PYKERNELS_SHARED(double, totals);
  T* const staged = reinterpret_cast<T*>(totals + 2 * kOwn<T> * kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t items = (plan.listed ? *plan.listed_count : plan.columns) * plan.count, step = gridDim.x;
  for (int64_t item = blockIdx.x; item < items; item += step) {
    const int64_t number = item / plan.count, tile = plan.first_tile + item % plan.count;
    const int64_t column = plan.listed ? plan.listed[number] : number;
    const int64_t element = column / inputs.dims, d = column % inputs.dims;
    const uint32_t whole = first_element + static_cast<uint32_t>(element);
    const int sample = tile >= plan.tiles[0];
    const int64_t begin = (sample ? tile - plan.tiles[0] : tile) * kPairTile<T>;
    const int64_t rows = inputs.counts[sample];
    const int64_t end = begin + kPairTile<T> < rows ? begin + kPairTile<T> : rows;
    T own[kOwn<T>], defined = 0;
    const Line<T> line = line_of<T>(inputs, sample, whole, d);
    PYKERNELS_UNROLL
    for (int r = 0; r < kOwn<T>; ++r) {
      const int64_t i = begin + 32 * r + thread % 32;
      own[r] = i < end ? at(line, i) * kernel.unit : 0;
    }

    PointSums within{0, 0}, across{0, 0};
    for (int other = 0; other < 2; ++other) {
      if (!slopes && other && sample != plan.cross) continue;
      const int source = other ? 1 - sample : sample;
      const Line<T> points = line_of<T>(inputs, source, whole, d);
      const Line<double> masses = masses_of(inputs, source, whole);
      PairSums<T> sums{};
      const auto add = [&](int64_t from, int64_t to) {
        add_pairs<T, count, slopes, weighted>(kernel, points, masses, from, to, own, staged, thread, sums,
                                              defined);
      };
      if (slopes || other) {
        add(0, inputs.counts[source]);
      } else {
        add(end, rows);
        PYKERNELS_UNROLL
        for (int r = 0; r < kOwn<T>; ++r) {
          sums.kappa[r].high *= 2;
          sums.kappa[r].low *= 2;
        }
        add(begin, end);
      }
      const PointSums joined = join_ways<T, slopes>(sums, totals, thread);
      const double factor = unit_mass(inputs, source);
      const PointSums whole_sums{factor * joined.kappa, factor * joined.slope};
      if (other)
        across = whole_sums;
      else
        within = whole_sums;
    }

    const bool undefined = __syncthreads_or(!(defined == 0));
    const int64_t i = begin + thread;
    const bool real = thread < kPairTile<T> && i < end;
    const Line<double> masses = masses_of(inputs, sample, whole);
    const double mass = real ? masses.data ? at(masses, i) : unit_mass(inputs, sample) : 0;
    const double own_form = block_total<kThreads>(mass * within.kappa, totals, thread);
    const double cross_form = block_total<kThreads>(mass * across.kappa, totals, thread);
    if (thread == 0) {
      double* const forms = out.forms + 2 * (column * (plan.tiles[0] + plan.tiles[1]) + tile);
      forms[0] = undefined ? static_cast<double>(NAN) : own_form;
      forms[1] = sample == plan.cross ? cross_form : 0;
    }
    if (!slopes || !real) continue;
    const double field = (1 + excess_of(inputs, excess, sample, element)) * within.slope - across.slope;
    const double slope = undefined ? static_cast<double>(NAN) : -4 * kernel.unit * mass * field;
    T* const slopes_of_sample = sample ? out.slopes[1] : out.slopes[0];
    slopes_of_sample[(whole * rows + i) * inputs.dims + d] = static_cast<T>(slope);
  }
}

}  // namespace mmd
}  // namespace pykernels
