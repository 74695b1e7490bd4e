// Forward pass: a running log-sum-exp per row, over chunks of components.
#pragma once

#include "mixture/cpu_pack.h"

namespace pykernels {
namespace {

// sum_i 2^x_i is kept as total * 2^reference. The reference starts at the lowest finite number, so that -inf minus it is
// still -inf; an exponent may exceed the reference by kHeadroom before the reference moves up to the largest exponent seen.
constexpr int kHeadroom = 60;

PYKERNELS_INLINE double at_least_real(double a, double b) { return a < b ? b : a; }

// Called for a vector of exponents some of which are over the headroom, NaN or +inf. Moves the reference up, rescales what
// was summed, and returns the exponents relative to the new reference. NaN and +inf go straight into the total.
template <class T>
__attribute__((noinline)) void move_reference(Vector<T>& exponent, Vector<T>& partial, double& reference, double& total) {
  double special = 0;
  const Vector<T> finite = splat(-Float<T>::lowest);
  if (not_le(exponent, finite)) {
    for (int lane = 0; lane < kLanes<T>; ++lane)
      if (!(exponent[lane] <= -Float<T>::lowest)) special += static_cast<double>(exponent[lane]);
    exponent = exponent <= finite ? exponent : splat(-Float<T>::infinity);
  }
  const T largest = max_lane<T>(exponent);
  if (static_cast<double>(largest) > reference) {
    if (reference == static_cast<double>(Float<T>::lowest)) {
      partial = Vector<T>{};
    } else {
      // Not 0: an infinite total stays infinite.
      const double shrink = ::exp2(at_least_real(reference - static_cast<double>(largest), -1000));
      partial *= static_cast<T>(shrink);
      total *= shrink;
    }
    reference = static_cast<double>(largest);
  }
  total += special;
  exponent -= static_cast<T>(reference);
}

// State of one group of rows.
struct Running {
  double reference[kGroup], total[kGroup];
};

template <class T> void start(Running* state, int64_t count) {
  for (int64_t j = 0; j < count; ++j)
    for (int k = 0; k < kGroup; ++k) {
      state[j].reference[k] = static_cast<double>(Float<T>::lowest);
      state[j].total[k] = 0;
    }
}

// Adds the components of one chunk to the joint sums of one group of rows. With kKnown the squared distances were computed
// before ([vectors][kGroup][lanes]).
template <class T, bool kKnown>
void add_joint(const Chunk<T>& chunk, const T* rows, const T* known, Running& state) {
  const auto squares_of = [&](int64_t v, Vector<T>(&x)[kGroup]) __attribute__((always_inline)) {
    if constexpr (kKnown) {
      for (int k = 0; k < kGroup; ++k) x[k] = load(known + (v * kGroup + k) * kLanes<T>);
    } else {
      squared_distances(chunk, v, rows, x);
    }
  };
  Vector<T> partial[kGroup];
  T reference[kGroup];
  for (int k = 0; k < kGroup; ++k) {
    partial[k] = Vector<T>{};
    reference[k] = static_cast<T>(state.reference[k]);
  }
  for (int64_t v = 0; v < chunk.vectors; ++v) {
    const Vector<T> constant = load(chunk.constant + v * kLanes<T>);
    Vector<T> square[kGroup], x[kGroup];
    squares_of(v, square);
    unsigned over = 0;
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) {
      x[k] = (constant - square[k]) - splat(reference[k]);
      over |= not_le(x[k], splat(T(kHeadroom)));
    }
    if (__builtin_expect(over != 0, 0)) {
      for (int k = 0; k < kGroup; ++k) {
        if (!not_le(x[k], splat(T(kHeadroom)))) continue;
        x[k] = constant - square[k];
        move_reference<T>(x[k], partial[k], state.reference[k], state.total[k]);
        reference[k] = static_cast<T>(state.reference[k]);
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < kGroup; ++k) partial[k] += exp2(x[k]);
  }
  for (int k = 0; k < kGroup; ++k) state.total[k] += static_cast<double>(sum(partial[k]));
}

// The same for the marginals; state is one Running per dimension. `squared` ([vectors][kGroup][lanes], or null) receives
// the joint squared distances, which are the sums of what is computed here.
template <class T, bool kSquared>
void add_marginals(const Chunk<T>& chunk, const T* rows, Running* state, T* squared) {
  for (int64_t d = 0; d < chunk.dims; ++d) {
    Vector<T> partial[kGroup];
    T reference[kGroup];
    for (int k = 0; k < kGroup; ++k) {
      partial[k] = Vector<T>{};
      reference[k] = static_cast<T>(state[d].reference[k]);
    }
    for (int64_t v = 0; v < chunk.vectors; ++v) {
      const int64_t o = (v * chunk.dims + d) * kLanes<T>;
      const Vector<T> m = load(chunk.loc + o), w = load(chunk.precision + o), constant = load(chunk.marginal_constant + o);
      Vector<T> x[kGroup];
      unsigned over = 0;
#pragma GCC unroll 8
      for (int k = 0; k < kGroup; ++k) {
        const Vector<T> q = add_weighted_square(m - splat(rows[d * kGroup + k]), w, Vector<T>{});
        if constexpr (kSquared) {
          T* sum_over_dims = squared + (v * kGroup + k) * kLanes<T>;
          store(sum_over_dims, d == 0 ? q : load(sum_over_dims) + q);
        }
        x[k] = (constant - splat(reference[k])) - q;
        over |= not_le(x[k], splat(T(kHeadroom)));
      }
      if (__builtin_expect(over != 0, 0)) {
        for (int k = 0; k < kGroup; ++k) {
          if (!not_le(x[k], splat(T(kHeadroom)))) continue;
          x[k] = constant - add_weighted_square(m - splat(rows[d * kGroup + k]), w, Vector<T>{});
          move_reference<T>(x[k], partial[k], state[d].reference[k], state[d].total[k]);
          reference[k] = static_cast<T>(state[d].reference[k]);
        }
      }
#pragma GCC unroll 8
      for (int k = 0; k < kGroup; ++k) partial[k] += exp2(x[k]);
    }
    for (int k = 0; k < kGroup; ++k) state[d].total[k] += static_cast<double>(sum(partial[k]));
  }
}

// ln of the sum over splits of total * 2^reference, for one row (or row and dimension): split s is at state[s * stride].
PYKERNELS_INLINE double log_of_splits(const Running* state, int64_t splits, int64_t stride, int k) {
  double top = state[0].reference[k], total = state[0].total[k];
  for (int64_t s = 1; s < splits; ++s) {
    const Running& other = state[s * stride];
    const double gap = other.reference[k] - top;
    // -1000 and not less: an infinite or NaN total must not be multiplied by 0.
    if (gap > 0) {
      total = total * ::exp2(at_least_real(-gap, -1000)) + other.total[k];
      top = other.reference[k];
    } else {
      total += other.total[k] * ::exp2(at_least_real(gap, -1000));
    }
  }
  return kLn2 * (top + ::log2(total));
}

// One batch element.
template <class T> struct ForwardProblem {
  Components<T> components;
  View<T> value;
  int64_t rows;
  T* joint;     // null: not asked for
  T* marginal;  // null: not asked for
};

template <class T> struct ForwardMemory {
  T* rows;                  // [groups][dims][kGroup]
  Running* joint;           // [splits][groups]
  Running* marginal;        // [splits][groups][dims]
};

template <class T> ForwardMemory<T> take_forward(Arena& arena, const MixturePlan& plan, int64_t rows, int64_t dims, bool joint, bool marginal) {
  const int64_t groups = ceil_div(rows, kGroup);
  ForwardMemory<T> memory;
  memory.rows = take<T>(arena, groups * dims * kGroup);
  memory.joint = joint ? take<Running>(arena, plan.splits * groups) : nullptr;
  memory.marginal = marginal ? take<Running>(arena, plan.splits * groups * dims) : nullptr;
  return memory;
}

template <class T> struct ForwardScratch {
  Chunk<T> chunk;
  T* squared;  // [vectors][kGroup][lanes]
};

template <class T> ForwardScratch<T> take_forward_scratch(Arena& arena, int64_t dims, bool joint, bool marginal) {
  const int64_t capacity = chunk_capacity<T>(dims, marginal ? 3 : 2, 96 << 10);
  ForwardScratch<T> scratch;
  scratch.chunk = take_chunk<T>(arena, dims, capacity, marginal);
  scratch.squared = joint && marginal ? take<T>(arena, capacity * kGroup * kLanes<T>) : nullptr;
  return scratch;
}

// The components of one split for the rows of one block.
template <class T>
void forward_task(const ForwardProblem<T>& problem, const MixturePlan& plan, const ForwardMemory<T>& memory, int64_t task,
                  ForwardScratch<T>& scratch, Interrupt& interrupt, int thread) {
  const int64_t dims = problem.components.dims, groups = ceil_div(problem.rows, kGroup);
  const int64_t split = task % plan.splits, block = task / plan.splits;
  const int64_t first_group = block * plan.rows_per_block / kGroup;
  const int64_t last_group = at_most(groups, first_group + plan.rows_per_block / kGroup);
  const int64_t last = at_most(problem.components.count, (split + 1) * plan.components_per_split);
  Running* joint = memory.joint + (memory.joint ? split * groups : 0);
  Running* marginal = memory.marginal + (memory.marginal ? split * groups * dims : 0);
  if (joint) start<T>(joint + first_group, last_group - first_group);
  if (marginal) start<T>(marginal + first_group * dims, (last_group - first_group) * dims);

  const int64_t step = scratch.chunk.capacity * kLanes<T>;
  for (int64_t first = split * plan.components_per_split; first < last && !interrupted(interrupt, thread); first += step) {
    pack_components(problem.components, first, at_most(step, last - first), scratch.chunk);
    for (int64_t group = first_group; group < last_group; ++group) {
      const T* rows = memory.rows + group * dims * kGroup;
      if (!marginal) {
        add_joint<T, false>(scratch.chunk, rows, nullptr, joint[group]);
      } else if (!joint) {
        add_marginals<T, false>(scratch.chunk, rows, marginal + group * dims, nullptr);
      } else {
        add_marginals<T, true>(scratch.chunk, rows, marginal + group * dims, scratch.squared);
        add_joint<T, true>(scratch.chunk, rows, scratch.squared, joint[group]);
      }
    }
  }
}

// Merges the splits of one group of rows, in their order, into the results.
template <class T>
void finish_forward(const ForwardProblem<T>& problem, const MixturePlan& plan, const ForwardMemory<T>& memory, int64_t group) {
  const int64_t dims = problem.components.dims, groups = ceil_div(problem.rows, kGroup);
  const int64_t rows = at_most(kGroup, problem.rows - group * kGroup);
  for (int64_t k = 0; k < rows; ++k) {
    const int64_t row = group * kGroup + k;
    if (problem.joint)
      problem.joint[row] = static_cast<T>(log_of_splits(memory.joint + group, plan.splits, groups, static_cast<int>(k)));
    for (int64_t d = 0; problem.marginal && d < dims; ++d)
      problem.marginal[row * dims + d] =
          static_cast<T>(log_of_splits(memory.marginal + group * dims + d, plan.splits, groups * dims, static_cast<int>(k)));
  }
}

template <class T>
void run_forward(const ForwardProblem<T>& problem, const MixturePlan& plan, Arena memory_arena, ForwardScratch<T>* scratch,
                 int threads, Interrupt& interrupt) {
  const int64_t dims = problem.components.dims, groups = ceil_div(problem.rows, kGroup);
  const ForwardMemory<T> memory = take_forward<T>(memory_arena, plan, problem.rows, dims, problem.joint, problem.marginal);
  const int64_t tasks = plan.splits * plan.row_blocks;
  if (tasks == 1) threads = 1;
  const int64_t blocks = at_most(groups, 4 * threads);
  parallel_tasks(blocks, threads, interrupt, [&](int64_t block, int) {
    for (int64_t group = block * groups / blocks; group < (block + 1) * groups / blocks; ++group)
      pack_rows(problem.value, problem.rows, dims, group, memory.rows);
  });
  parallel_tasks(tasks, threads, interrupt, [&](int64_t task, int thread) {
    forward_task(problem, plan, memory, task, scratch[thread], interrupt, thread);
  });
  parallel_tasks(blocks, threads, interrupt, [&](int64_t block, int) {
    for (int64_t group = block * groups / blocks; group < (block + 1) * groups / blocks; ++group)
      finish_forward(problem, plan, memory, group);
  });
}

}  // namespace
}  // namespace pykernels
