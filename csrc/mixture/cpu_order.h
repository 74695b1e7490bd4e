// Puts components in spatial order, so that neighbours in memory are neighbours in space.
#pragma once

#include "mixture/cpu_forward_memory.h"

namespace pykernels {
namespace {

// Cuts space into 2^bits cells, one bit after the other, each along the dimension that is then widest in
// units of its components' scales. Cuts are quantiles of a sample.
constexpr int kSample = 256, kMostLevels = 6, kMostCutDims = 64;
constexpr int kFinerBits = 3;  // more than leaves need: a leaf is as many cells as fit

template <class T> struct Cells {
  int bits;
  int dim[kMostKeyBits];  // what each bit halves
  T cut[kMostKeyBits]
       [1 << (kMostLevels - 1)];  // where, in each of the pieces that earlier bits left of that dimension

  // The cell of a point; earlier bits weigh more.
  uint16_t of(const T* point, int64_t stride) const {
    int cell = 0, piece[kMostCutDims] = {};
    for (int bit = 0; bit < bits; ++bit) {
      const int d = dim[bit], side = point[d * stride] > cut[bit][piece[d]];
      piece[d] = 2 * piece[d] + side;
      cell = 2 * cell + side;
    }
    return static_cast<uint16_t>(cell);
  }

  // Cuts a box down to what lies in a cell of the first `levels` bits.
  void clip(int cell, int levels, T* low, T* high) const {
    int piece[kMostCutDims] = {};
    for (int bit = 0; bit < levels; ++bit) {
      const int d = dim[bit], side = cell >> (levels - 1 - bit) & 1;
      (side ? low : high)[d] = cut[bit][piece[d]];
      piece[d] = 2 * piece[d] + side;
    }
  }
};

template <class T> void sort_ascending(T* values, int count) {  // Shell's sort: short, and safe for NaN
  for (int gap = count / 2; gap > 0; gap /= 2)
    for (int i = gap; i < count; ++i)
      for (int j = i - gap; j >= 0 && values[j + gap] < values[j]; j -= gap) {
        const T swap = values[j];
        values[j] = values[j + gap];
        values[j + gap] = swap;
      }
}

template <class T> Cells<T> choose_cells(const Components<T>& components) {
  Cells<T> cells{};
  const int64_t count = at_most(kSample, components.count), step = components.count / count;
  const int64_t dims = at_most(components.dims, kMostCutDims);
  T sample[kSample];
  double width[kMostCutDims];
  int level[kMostCutDims] = {};
  for (int64_t d = 0; d < dims; ++d) {
    double sum = 0, squares = 0, scales = 0;
    for (int64_t j = 0; j < count; ++j) {
      const double loc = static_cast<double>(components.loc.at(j * step, d));
      sum += loc;
      squares += loc * loc;
      scales += static_cast<double>(components.scale.at(j * step, d));
    }
    const double mean = sum / static_cast<double>(count),
                 variance = squares / static_cast<double>(count) - mean * mean;
    width[d] = variance > 0 ? ::sqrt(variance) * static_cast<double>(count) / scales : 0;
  }
  while (cells.bits < kMostKeyBits && (kLeaf << cells.bits) < (components.count << kFinerBits)) {
    int64_t widest = -1;
    for (int64_t d = 0; d < dims; ++d)
      if (level[d] < kMostLevels && width[d] > 0 && (widest < 0 || width[d] > width[widest])) widest = d;
    if (widest < 0) break;
    for (int64_t j = 0; j < count; ++j) sample[j] = components.loc.at(j * step, widest);
    sort_ascending(sample, static_cast<int>(count));
    const int64_t pieces = int64_t(2) << level[widest];
    for (int64_t piece = 1; piece < pieces; piece += 2)
      cells.cut[cells.bits][piece / 2] = sample[piece * count / pieces];
    cells.dim[cells.bits++] = static_cast<int>(widest);
    ++level[widest];
    width[widest] /= 2;
  }
  return cells;
}

// Sorts components by cell, those of one cell in their own order, and cuts the sequence into leaves of at
// most kLeaf components: the largest boxes of the tree that the bits make, or pieces of a single cell (and,
// should the tree be so lopsided that memory for leaves runs out, pieces of what is left). Returns how many.
template <class T>
int64_t order_components(const Components<T>& components, const SkipMemory<T>& memory, int threads,
                         Interrupt& interrupt) {
  const Cells<T> cells = choose_cells(components);
  const int64_t n = components.count, pieces = at_most(n, 4 * threads), count = int64_t(1) << cells.bits;
  parallel_tasks(pieces, threads, interrupt, [&](int64_t piece, int) {
    for (int64_t i = piece * n / pieces; i < (piece + 1) * n / pieces; ++i)
      memory.keys[i] = cells.of(components.loc.data + i * components.loc.stride_i, components.loc.stride_d);
  });
  if (__atomic_load_n(&interrupt.raised, __ATOMIC_RELAXED)) return 0;  // some keys were never set
  int32_t* const end = memory.cell_end + 1;                            // end[cell], and end[-1] = 0
  memset(memory.cell_end, 0, static_cast<size_t>(count + 1) * sizeof(int32_t));
  for (int64_t i = 0; i < n; ++i) ++end[memory.keys[i]];
  for (int64_t cell = 0; cell < count; ++cell) end[cell] += end[cell - 1];
  int32_t* const place = memory.place;
  memcpy(place, memory.cell_end, static_cast<size_t>(count) * sizeof(int32_t));
  for (int64_t i = 0; i < n; ++i) memory.order[place[memory.keys[i]]++] = static_cast<int32_t>(i);

  int64_t leaves = 0;
  for (int64_t cell = 0; cell < count;) {
    int64_t width = cell == 0 ? count : cell & -cell;
    while (width > 1 && end[cell + width - 1] - end[cell - 1] > kLeaf) width /= 2;
    if (leaves + ceil_div(n - end[cell - 1], kLeaf) + 1 >= most_leaves(n)) width = count - cell;
    const int64_t last = end[cell + width - 1];
    for (int64_t first = end[cell - 1]; first < last; first += kLeaf)
      memory.leaf_start[leaves++] = static_cast<int32_t>(first);
    cell += width;
  }
  memory.leaf_start[leaves] = static_cast<int32_t>(n);
  return leaves;
}

}  // namespace
}  // namespace pykernels
