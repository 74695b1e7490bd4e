// What a forward pass works on: the problem of one batch element, its memory, and the scratch of one thread.
#pragma once

#include "mixture/cpu_both.h"
#include "mixture/cpu_statistics.h"

namespace pykernels {
namespace {

constexpr int64_t kLeaf = 128;  // components that are skipped together
constexpr int kMostKeyBits = 16;
constexpr int64_t kProbePieces = 64;

// What a call asks for.
struct Asked {
  bool joint, marginal, statistics;
};

// What has a cost for each dimension of a group of rows wants more components between than the joint density.
template <class T> int64_t forward_capacity(int64_t dims, bool marginal) {
  return chunk_capacity<T>(dims, marginal ? 3 : 2, (marginal ? 256 : 96) << 10);
}

// Below this size a probe would cost more than a few percent of the plain pass. It takes room for a second
// copy of the components, which must stay small beside what the rows cost.
template <class T> bool skipping_possible(int64_t rows, int64_t components, int64_t dims) {
  const double slots =
      static_cast<double>(rows) * static_cast<double>(components) * (2.0 * static_cast<double>(dims) + 5);
  return rows >= 448 && components >= 16384 && components < INT32_MAX && slots >= 4e8 &&
         forward_capacity<T>(dims, false) * kLanes<T> >= kLeaf;
}

template <class T> bool may_skip(int64_t rows, int64_t components, int64_t dims, Asked asked) {
  return !asked.marginal && !asked.statistics && skipping_possible<T>(rows, components, dims);
}

// Enough for any but a lopsided tree of boxes.
static inline int64_t most_leaves(int64_t components) { return 4 * ceil_div(components, kLeaf); }

// One batch element.
template <class T> struct ForwardProblem {
  Components<T> components;
  Band band;
  View<T> value;
  int64_t rows;
  T *joint, *joint_log2;            // null: not asked for
  T *marginal, *marginal_log2;      // null: not asked for
  T *perplexity, *collision_count;  // null: not asked for
};

template <class T> Asked asked_of(const ForwardProblem<T>& problem) {
  return {problem.joint != nullptr, problem.marginal != nullptr, problem.perplexity != nullptr};
}

template <class T> struct SkipMemory {
  uint16_t* keys;                 // [components]: cells
  int32_t* order;                 // [components]; null where skipping is out of the question
  int32_t* cell_end;              // [1 + cells]
  int32_t* place;                 // [cells]
  int32_t* leaf_start;            // [leaves + 1], in terms of the order
  T *loc, *precision, *constant;  // the components, packed leaf by leaf
  T* boxes;  // [leaves][3 * dims + 1]: lowest and highest loc, lowest precision, highest constant
  T* probe;  // [kProbePieces][kGroup]
};

template <class T> struct ForwardMemory {
  T* rows;            // [groups][dims][kGroup]
  Running* joint;     // [splits][groups]
  Running* marginal;  // [splits][groups][dims]
  Moments* moments;   // [splits][groups]
  T* lower;  // [groups][kGroup]: an exponent that each row has, so its log-sum-exp is no less; or -inf
  SkipMemory<T> skip;
};

template <class T>
ForwardMemory<T> take_forward(Arena& arena, const MixturePlan& plan, int64_t rows, int64_t components,
                              int64_t dims, Asked asked) {
  const int64_t groups = ceil_div(rows, kGroup);
  ForwardMemory<T> memory{};
  memory.rows = take<T>(arena, groups * dims * kGroup);
  memory.joint = asked.joint ? take<Running>(arena, plan.splits * groups) : nullptr;
  memory.lower = asked.joint ? take<T>(arena, groups * kGroup) : nullptr;
  memory.marginal = asked.marginal ? take<Running>(arena, plan.splits * groups * dims) : nullptr;
  memory.moments = asked.statistics ? take<Moments>(arena, plan.splits * groups) : nullptr;
  if (may_skip<T>(rows, components, dims, asked)) {
    const int64_t leaves = most_leaves(components);
    memory.skip.keys = take<uint16_t>(arena, components);
    memory.skip.order = take<int32_t>(arena, components);
    memory.skip.cell_end = take<int32_t>(arena, (1 << kMostKeyBits) + 1);
    memory.skip.place = take<int32_t>(arena, 1 << kMostKeyBits);
    memory.skip.leaf_start = take<int32_t>(arena, leaves + 1);
    const int64_t slots = components + (leaves + 2) * kLanes<T>;
    memory.skip.loc = take<T>(arena, slots * dims);
    memory.skip.precision = take<T>(arena, slots * dims);
    memory.skip.constant = take<T>(arena, slots);
    memory.skip.boxes = take<T>(arena, leaves * (3 * dims + 1));
    memory.skip.probe = take<T>(arena, kProbePieces * kGroup);
  }
  return memory;
}

template <class T> struct ForwardScratch {
  Chunk<T> chunk;
  T* sums;     // [dims][kGroup][lanes]: of the marginals
  T* offsets;  // [vectors][kGroup][lanes]: of the band
  T* picked;   // [dims][kGroup]: rows chosen from several groups
  T* bounds;   // [leaves][kGroup]
};

template <class T>
ForwardScratch<T> take_forward_scratch(Arena& arena, int64_t rows, int64_t components, int64_t dims,
                                       Asked asked) {
  const int64_t capacity = forward_capacity<T>(dims, asked.marginal);
  const bool both = asked.joint && asked.marginal;
  ForwardScratch<T> scratch;
  scratch.picked = take<T>(arena, dims * kGroup);
  scratch.chunk = take_chunk<T>(arena, dims, capacity, asked.marginal);
  scratch.sums = both ? take<T>(arena, dims * kGroup * kLanes<T>) : nullptr;
  scratch.offsets = both ? take<T>(arena, kOffsets<T>) : nullptr;
  const bool skipping = may_skip<T>(rows, components, dims, asked);
  scratch.bounds = skipping ? take<T>(arena, most_leaves(components) * kGroup) : nullptr;
  return scratch;
}

}  // namespace
}  // namespace pykernels
