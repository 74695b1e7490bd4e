// Weights that depend on the pair. All but two components weigh the same in a row, so that only few vectors
// of components hold a pair with a group of rows that differs: these are taken by themselves, with the
// logarithms of what such pairs weigh beside the others added to their exponents.
#pragma once

#include "mixture/cpu_pack.h"

namespace pykernels {
namespace {

struct Band {
  bool present;
  int64_t count;     // of rows and of components
  double own, next;  // log2 of what they weigh beside every other one
};

// Whether no weight adds much to an exponent.
PYKERNELS_INLINE bool moderate(const Band& band) {
  return !band.present || (band.own <= kModerate && band.next <= kModerate);
}

// Of the 9 neighbours that a group may meet, and the first component by itself.
template <class T> constexpr int64_t kBandVectors = 2 + kGroup / kLanes<T>;
template <class T> constexpr int64_t kOffsets = kBandVectors<T> * kGroup * kLanes<T>;

// Offsets [vectors][kGroup][lanes] of the pairs of a group with the vectors from one up to another.
template <class T>
void band_offsets(const Band& band, const Chunk<T>& chunk, int64_t group, int64_t from, int64_t to,
                  T* offsets) {
  const int64_t first = chunk.first + from * kLanes<T>, lanes = (to - from) * kLanes<T>;
  memset(offsets, 0, static_cast<size_t>(lanes * kGroup) * sizeof(T));
  for (int k = 0; k < kGroup; ++k) {
    const int64_t row = group * kGroup + k;
    if (row >= band.count) break;
    const auto put = [&](int64_t component, double offset) {
      const int64_t at = component - first;
      if (at >= 0 && at < lanes)
        offsets[(at / kLanes<T> * kGroup + k) * kLanes<T> + at % kLanes<T>] = static_cast<T>(offset);
    };
    put(row, band.own);
    put(row + 1 < band.count ? row + 1 : 0, band.next);
  }
}

// What the constants of vector v are for row k: the same for all rows, but in the band.
template <class T, bool kBand>
PYKERNELS_INLINE Vector<T> constant_of(Vector<T> constant, const T* offsets, int64_t v, int k) {
  if constexpr (kBand) return constant + load(offsets + (v * kGroup + k) * kLanes<T>);
  return constant;
}

// Cuts the vectors of a chunk where they meet the band, and calls one(from, to, offsets) for each part,
// without offsets (null) where all pairs with the group weigh the same.
template <class T, class One>
void over_parts(const Band& band, const Chunk<T>& chunk, int64_t group, T* offsets, const One& one) {
  const T* const none = nullptr;
  if (!band.present) return one(int64_t(0), chunk.vectors, none);
  const int64_t row = group * kGroup, last = at_most(row + kGroup, band.count - 1);
  const bool wraps = chunk.first == 0 && row + kGroup >= band.count;
  const int64_t low = at_least(row - chunk.first, 0), high = at_most(last + 1 - chunk.first, chunk.count);
  int64_t edge[] = {0, wraps, wraps, wraps, chunk.vectors};
  if (low < high) {
    edge[2] = at_least(low / kLanes<T>, edge[1]);
    edge[3] = at_least(ceil_div(high, kLanes<T>), edge[1]);
  }
  for (int part = 0; part < 4; ++part) {
    const int64_t from = edge[part], to = edge[part + 1];
    if (from == to) continue;
    const bool meets = part % 2 == 0;
    if (meets) band_offsets(band, chunk, group, from, to, offsets);
    one(from, to, meets ? offsets : none);
  }
}

}  // namespace
}  // namespace pykernels
