// Forward pass for encodings that overlap little: components are put in spatial order, cut into leaves, and a
// leaf is left out for every row that it cannot matter to. The result is the same in the working precision:
// what is left out is, in sum, less than 2^-(mantissa + 3) of what is kept. A probe on a sample of the data
// decides whether it pays.
#pragma once

#include "mixture/cpu_order.h"

namespace pykernels {
namespace {

// Bounds of the components in the chunk. One NaN among them makes the constant NaN: such a leaf is never left
// out.
template <class T> void bound_leaf(const Chunk<T>& chunk, T* box) {
  const int64_t dims = chunk.dims;
  const Vector<T> infinity = splat(Float<T>::infinity);
  Vector<T> highest = -infinity, poison{};
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    const Vector<T> constant = load(chunk.constant + v * kLanes<T>);
    highest = constant > highest ? constant : highest;
    poison += constant == constant ? poison : constant;
  }
  for (int64_t d = 0; d < dims; ++d) {
    Vector<T> low = infinity, high = -infinity, precision = infinity;
    for (int64_t v = 0; v < chunk.vectors; ++v) {
      const int64_t o = (v * dims + d) * kLanes<T>;
      const Vector<T> m = load(chunk.loc + o), w = load(chunk.precision + o);
      const Bits<T> there = load(chunk.constant + v * kLanes<T>) != -infinity;
      low = (m < low) & there ? m : low;
      high = (m > high) & there ? m : high;
      precision = (w < precision) & there ? w : precision;
      poison += (m == m) & (w == w) ? Vector<T>{} : m + w;
    }
    box[d] = -max_lane<T>(-low);
    box[dims + d] = max_lane<T>(high);
    box[2 * dims + d] = -max_lane<T>(-precision);
  }
  box[3 * dims] = max_lane<T>(highest) + (sum(poison) == 0 ? T(0) : sum(poison));
}

// Upper bounds of every exponent that a leaf gives kGroup rows.
template <class T> PYKERNELS_INLINE Octet<T> bound_rows(const T* box, const T* rows, int64_t dims) {
  const Octet<T> zero{};
  Octet<T> bound = zero + box[3 * dims];
  for (int64_t d = 0; d < dims; ++d) {
    const Octet<T> z = load_octet(rows + d * kGroup), under = box[d] - z, over = z - box[dims + d];
    Octet<T> outside = under > over ? under : over;
    outside = outside > zero ? outside : zero;
    bound -= outside * outside * box[2 * dims + d];
  }
  return bound;
}

// Leaf l in packed form: filled by pack_components, read by all.
template <class T> Chunk<T> leaf_chunk(const SkipMemory<T>& memory, int64_t dims, int64_t l, T* scale) {
  Chunk<T> chunk{};
  const int64_t slot =
      round_up(memory.leaf_start[l], kLanes<T>) + l * kLanes<T>;  // room for each leaf's last, partial vector
  chunk.dims = dims;
  chunk.first = memory.leaf_start[l];
  chunk.count = memory.leaf_start[l + 1] - chunk.first;
  chunk.vectors = ceil_div(chunk.count, kLanes<T>);
  chunk.loc = memory.loc + slot * dims;
  chunk.precision = memory.precision + slot * dims;
  chunk.constant = memory.constant + slot;
  chunk.scale = scale;
  return chunk;
}

// Puts the components in order, packs them leaf by leaf and bounds each leaf; returns the number of leaves.
template <class T>
int64_t make_leaves(Components<T> components, const SkipMemory<T>& memory, ForwardScratch<T>* scratch,
                    int threads, Interrupt& interrupt) {
  const int64_t leaves = order_components(components, memory, threads, interrupt), dims = components.dims;
  components.order = memory.order;
  parallel_tasks(leaves, threads, interrupt, [&](int64_t l, int thread) {
    Chunk<T> chunk = leaf_chunk(memory, dims, l, scratch[thread].chunk.scale);
    pack_components(components, chunk.first, chunk.count, chunk);
    bound_leaf(chunk, memory.boxes + l * (3 * dims + 1));
  });
  return leaves;
}

// Raises the lower bounds of a group's rows to the largest exponents among their most promising leaves. These
// are tried until none is left that could hold a larger one, or a few have been.
template <class T>
void bound_group(int64_t leaves, const T* rows, int64_t dims, const SkipMemory<T>& memory, T* lower,
                 T* bounds) {
  constexpr int kRounds = 6;
  for (int64_t l = 0; l < leaves; ++l) {
    const Octet<T> bound = bound_rows(memory.boxes + l * (3 * dims + 1), rows, dims);
    memcpy(bounds + l * kGroup, &bound, sizeof bound);
  }
  for (int round = 0; round < kRounds; ++round) {
    const Octet<T> none{};
    Octet<T> best = none - Float<T>::infinity;
    decltype(best > best) where{};
    for (int64_t l = 0; l < leaves; ++l) {
      const Octet<T> bound = load_octet(bounds + l * kGroup);
      const auto better = bound > best;
      where = better ? static_cast<typename Float<T>::integer>(l) + (where & 0) : where;
      best = better ? bound : best;
    }
    bool tried = false;
    for (int k = 0; k < kGroup; ++k) {
      if (!(best[k] > lower[k])) continue;
      tried = true;
      const Chunk<T> chunk = leaf_chunk<T>(memory, dims, where[k], nullptr);
      for (int j = 0; j < kGroup; ++j)
        bounds[where[k] * kGroup + j] = -Float<T>::infinity;  // now known to all rows
      for (int64_t v = 0; v < chunk.vectors; ++v) {
        Vector<T> x[kGroup];
        squared_distances(chunk, v, rows, x);
        for (int j = 0; j < kGroup; ++j) {
          x[j] = load(chunk.constant + v * kLanes<T>) - x[j];
          if (not_le(x[j], splat(lower[j])) && !not_le(x[j], splat(-Float<T>::lowest)))
            lower[j] = max_lane<T>(x[j]);
        }
      }
    }
    if (!tried) break;
  }
}

// An exponent this far under a row's log-sum-exp cannot matter to it, nor can all of them together.
template <class T> T negligible_gap(int64_t components) {
  return static_cast<T>(Float<T>::mantissa_bits + 4 + ::ceil(::log2(static_cast<double>(components))));
}

// Which rows of a group a leaf may matter to, as bits. A bound that is NaN or infinite says yes.
template <class T>
PYKERNELS_INLINE unsigned rows_reached(const T* box, const T* rows, int64_t dims, const T* lower, T gap) {
  const auto out_of_reach = bound_rows(box, rows, dims) < load_octet(lower) - gap;
  unsigned reached = 0;
  for (int k = 0; k < kGroup; ++k) reached |= static_cast<unsigned>(out_of_reach[k] + 1) << k;
  return reached;
}

// Sets lower[k] to the largest exponent that row k of a group has anywhere.
template <class T>
void largest_exponents(const Components<T>& components, const T* rows, T* partial, T* lower,
                       ForwardScratch<T>* scratch, int threads, Interrupt& interrupt) {
  const int64_t n = components.count, piece_size = round_up(ceil_div(n, kProbePieces), kLeaf);
  parallel_tasks(kProbePieces, threads, interrupt, [&](int64_t piece, int thread) {
    Chunk<T>& chunk = scratch[thread].chunk;
    Vector<T> largest[kGroup];
    for (int k = 0; k < kGroup; ++k) largest[k] = splat(-Float<T>::infinity);
    const int64_t last = at_most(n, (piece + 1) * piece_size), step = chunk.capacity * kLanes<T>;
    for (int64_t first = piece * piece_size; first < last; first += step) {
      pack_components(components, first, at_most(step, last - first), chunk);
      for (int64_t v = 0; v < chunk.vectors; ++v) {
        Vector<T> x[kGroup];
        squared_distances(chunk, v, rows, x);
        for (int k = 0; k < kGroup; ++k) {
          x[k] = load(chunk.constant + v * kLanes<T>) - x[k];
          largest[k] = x[k] > largest[k] ? x[k] : largest[k];
        }
      }
    }
    for (int k = 0; k < kGroup; ++k) partial[piece * kGroup + k] = max_lane<T>(largest[k]);
  });
  for (int k = 0; k < kGroup; ++k) lower[k] = partial[k];
  for (int64_t piece = 1; piece < kProbePieces; ++piece)
    for (int k = 0; k < kGroup; ++k)
      lower[k] = partial[piece * kGroup + k] > lower[k] ? partial[piece * kGroup + k] : lower[k];
}

// Whether most leaves are out of reach of most rows, judged by kGroup rows and by what leaves will look like:
// a cell of the tree, as wide as a leaf's worth of random components where the tree does not cut.
template <class T>
bool skipping_pays(const ForwardProblem<T>& problem, const ForwardMemory<T>& memory,
                   ForwardScratch<T>* scratch, int threads, Interrupt& interrupt) {
  constexpr double kReached = 0.25;
  const Components<T>& components = problem.components;
  const int64_t dims = components.dims;
  T* const rows = scratch->picked;
  for (int k = 0; k < kGroup; ++k)
    for (int64_t d = 0; d < dims; ++d) rows[d * kGroup + k] = problem.value.at(k * problem.rows / kGroup, d);

  Components<T> sample = components;
  sample.count = kLeaf;
  sample.loc.stride_i *= components.count / kLeaf;
  sample.scale.stride_i *= components.count / kLeaf;
  sample.log_weights.stride_i *= components.count / kLeaf;
  pack_components(sample, 0, kLeaf, scratch->chunk);
  T* const any = memory.skip.boxes;
  T* const box = any + 3 * dims + 1;
  bound_leaf(scratch->chunk, any);
  // Packed as if there were kLeaf components in all, which only matters to equal weights.
  if (!components.log_weights.present())
    any[3 * dims] +=
        static_cast<T>(::log2(static_cast<double>(kLeaf) / static_cast<double>(components.count)));

  const Cells<T> cells = choose_cells(components);
  const T gap = negligible_gap<T>(components.count);
  const int bits = cells.bits < kFinerBits ? 0 : cells.bits - kFinerBits;
  const auto few_reached = [&](const T* lower) {
    int64_t reached = 0;
    for (int cell = 0; cell < 1 << bits; ++cell) {
      memcpy(box, any, static_cast<size_t>(3 * dims + 1) * sizeof(T));
      cells.clip(cell, bits, box, box + dims);
      reached += __builtin_popcount(rows_reached(box, rows, dims, lower, gap));
    }
    return static_cast<double>(reached) < kReached * kGroup * static_cast<double>(1 << bits);
  };
  // Asked first as if every row lay as far from a component as its own points do (log2(e) / 2 for each
  // dimension), which costs next to nothing and is enough to say no.
  T lower[kGroup];
  for (int k = 0; k < kGroup; ++k)
    lower[k] = any[3 * dims] - static_cast<T>(0.5 * kLog2E * static_cast<double>(dims));
  if (!few_reached(lower)) return false;
  largest_exponents(components, rows, memory.skip.probe, lower, scratch, threads, interrupt);
  return few_reached(lower);
}

// The leaves of one split for the rows of one block.
template <class T>
void skipping_task(const ForwardProblem<T>& problem, int64_t leaves, const MixturePlan& plan,
                   const ForwardMemory<T>& memory, int64_t task, ForwardScratch<T>& scratch,
                   Interrupt& interrupt, int thread) {
  const int64_t dims = problem.components.dims, groups = ceil_div(problem.rows, kGroup);
  const int64_t split = task % plan.splits, block = task / plan.splits;
  const int64_t first_group = block * plan.rows_per_block / kGroup;
  const int64_t last_group = at_most(groups, first_group + plan.rows_per_block / kGroup);
  const T gap = negligible_gap<T>(problem.components.count);
  Running* const state = memory.joint + split * groups;
  start<Seldom>(state + first_group, last_group - first_group, memory.lower + first_group * kGroup);

  T* const picked = scratch.picked;  // rows that the leaf reaches, from any group, side by side
  int64_t source[kGroup];
  const SubnormalsAsZero flushed;
  for (int64_t l = split * leaves / plan.splits;
       l < (split + 1) * leaves / plan.splits && !interrupted(interrupt, thread); ++l) {
    const T* const box = memory.skip.boxes + l * (3 * dims + 1);
    const Chunk<T> chunk = leaf_chunk<T>(memory.skip, dims, l, nullptr);
    int held = 0;
    const auto run = [&] {
      Running together{};
      for (int k = 0; k < held; ++k) {
        together.reference[k] = state[source[k] / kGroup].reference[source[k] % kGroup];
        together.total[k] = state[source[k] / kGroup].total[source[k] % kGroup];
      }
      for (int k = held; k < kGroup; ++k) {  // an incomplete group is filled up with its first row
        together.reference[k] = together.reference[0];
        for (int64_t d = 0; d < dims; ++d) picked[d * kGroup + k] = picked[d * kGroup];
      }
      add_joint<T, false>(chunk, picked, nullptr, together);
      for (int k = 0; k < held; ++k) {
        state[source[k] / kGroup].reference[source[k] % kGroup] = together.reference[k];
        state[source[k] / kGroup].total[source[k] % kGroup] = together.total[k];
      }
      held = 0;
    };
    for (int64_t group = first_group; group < last_group; ++group) {
      const T* const rows = memory.rows + group * dims * kGroup;
      unsigned reached = rows_reached(box, rows, dims, memory.lower + group * kGroup, gap);
      for (; reached != 0; reached &= reached - 1) {
        const int k = __builtin_ctz(reached);
        for (int64_t d = 0; d < dims; ++d) picked[d * kGroup + held] = rows[d * kGroup + k];
        source[held] = group * kGroup + k;
        if (++held == kGroup) run();
      }
    }
    if (held > 0) run();
  }
}

}  // namespace
}  // namespace pykernels
