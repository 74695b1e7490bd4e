// How far the points of each column reach, and what follows from it: its panels, or that it has none.
#pragma once

#include "mmd/cuda_common.h"

namespace pykernels {
namespace mmd {

// The lower, or the higher, of two; NaN if one is.
template <class T> PYKERNELS_DEVICE T lower(T a, T b) { return a < b || a != a ? a : b; }
template <class T> PYKERNELS_DEVICE T higher(T a, T b) { return a > b || a != a ? a : b; }

// Each block takes a part of the rows of both samples: ranges[elements][parts][2][dims].
template <class T>
__global__ void __launch_bounds__(kThreads) measure_ranges(PYKERNELS_PARAMETER Inputs inputs, Lanes lanes,
                                                           T* ranges, uint32_t first_element) {
  PYKERNELS_SHARED(T, lowest);
  T* const highest = lowest + kThreads;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % lanes.dims, group = thread / lanes.dims;
  const int64_t part = blockIdx.x, parts = gridDim.x, element = blockIdx.z;
  const int64_t d = static_cast<int64_t>(blockIdx.y) * lanes.dims + lane;
  const bool active = group < lanes.groups && d < inputs.dims;
  T low = static_cast<T>(INFINITY), high = -static_cast<T>(INFINITY), defined = 0;
  for (int sample = 0; active && sample < 2; ++sample) {
    const Line<T> line = line_of<T>(inputs, sample, first_element + static_cast<uint32_t>(element), d);
    const int64_t rows = (inputs.counts[sample] + parts - 1) / parts, begin = part * rows;
    const int64_t end = begin + rows < inputs.counts[sample] ? begin + rows : inputs.counts[sample];
    PYKERNELS_UNROLL_BY(8)
    for (int64_t i = begin + group; i < end; i += lanes.groups) {
      const T x = at(line, i);
      low = fmin(low, x);
      high = fmax(high, x);
      defined += x - x;  // 0, or NaN
    }
  }
  low += defined;
  high += defined;
  lowest[thread] = low;
  highest[thread] = high;
  for (int count = lanes.groups; count > 1;) {
    const int half = (count + 1) / 2, other = thread + half * lanes.dims;
    __syncthreads();
    if (group + half < count) {
      lowest[thread] = low = lower(low, lowest[other]);
      highest[thread] = high = higher(high, highest[other]);
    }
    count = half;
  }
  if (!active || group != 0) return;
  T* const out = ranges + (element * parts + part) * 2 * inputs.dims;
  out[d] = low;
  out[inputs.dims + d] = high;
}

// What the ranges come to. pairs: the columns to be summed over in pairs, in their order.
struct Columns {
  Column* columns;  // [elements][dims]
  int64_t* pairs;
  int64_t* pair_count;
  int* most_panels;  // of any column
};

// Whose positions in panels are exact in every dtype.
constexpr double kFarthestPanel = 0x1p21;

PYKERNELS_DEVICE Column column_of(double lowest, double highest, double width, int most_panels) {
  if (!(highest - highest == lowest - lowest)) return {0, kUndefined};
  const double first = nearbyint(lowest / width), last = nearbyint(highest / width);
  if (!(first >= -kFarthestPanel && last <= kFarthestPanel && last - first < most_panels)) return {0, kPairs};
  return {first, static_cast<int>(last - first) + 1};
}

// A single block, because the list of columns without panels has an order.
template <class T>
__global__ void __launch_bounds__(kThreads) choose_ways(const T* ranges, int64_t elements, int64_t dims,
                                                        int parts, double width, int most_panels,
                                                        PYKERNELS_PARAMETER Columns out) {
  constexpr int kWarps = kThreads / 32;
  PYKERNELS_SHARED(int, counts);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  int64_t listed = 0;
  int most = 0;
  for (int64_t first = 0; first < elements * dims; first += kThreads) {
    const int64_t index = first + thread;
    bool in_pairs = false;
    if (index < elements * dims) {
      const T* range = ranges + index / dims * parts * 2 * dims + index % dims;
      T low = static_cast<T>(INFINITY), high = -static_cast<T>(INFINITY);
      PYKERNELS_UNROLL_BY(16)
      for (int part = 0; part < parts; ++part, range += 2 * dims) {
        low = lower(low, range[0]);
        high = higher(high, range[dims]);
      }
      const Column column = column_of(low, high, width, most_panels);
      out.columns[index] = column;
      in_pairs = column.panels == kPairs;
      most = column.panels > most ? column.panels : most;
    }
    const unsigned votes = __ballot_sync(kWholeWarp, in_pairs);
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();
    int64_t place = listed + __popc(votes & ((1u << lane) - 1));
    for (int other = 0; other < kWarps; ++other) {
      if (other < warp) place += counts[other];
      listed += counts[other];
    }
    if (in_pairs) out.pairs[place] = index;
    __syncthreads();
  }
  counts[thread] = most;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half && counts[thread + half] > counts[thread]) counts[thread] = counts[thread + half];
  }
  if (thread != 0) return;
  *out.pair_count = listed;
  *out.most_panels = counts[0];
}

}  // namespace mmd
}  // namespace pykernels
