// The forward pass of one batch element: rows packed, tasks run, partial results merged.
#pragma once

#include "mixture/cpu_skip.h"

namespace pykernels {
namespace {

// The components of one split for the rows of one block.
template <class T>
void forward_task(const ForwardProblem<T>& problem, const MixturePlan& plan, const ForwardMemory<T>& memory,
                  int64_t task, ForwardScratch<T>& scratch, Interrupt& interrupt, int thread) {
  const int64_t dims = problem.components.dims, groups = ceil_div(problem.rows, kGroup);
  const int64_t split = task % plan.splits, block = task / plan.splits;
  const int64_t first_group = block * plan.rows_per_block / kGroup;
  const int64_t last_group = at_most(groups, first_group + plan.rows_per_block / kGroup);
  const int64_t last = at_most(problem.components.count, (split + 1) * plan.components_per_split);
  Running* joint = memory.joint + (memory.joint ? split * groups : 0);
  Running* marginal = memory.marginal + (memory.marginal ? split * groups * dims : 0);
  Moments* moments = memory.moments ? memory.moments + split * groups : nullptr;
  if (moments)
    memset(moments + first_group, 0, static_cast<size_t>(last_group - first_group) * sizeof(Moments));
  if (joint) {
    const auto start_joint = moments ? start<Close, T> : start<Seldom, T>;
    start_joint(joint + first_group, last_group - first_group, memory.lower + first_group * kGroup);
  }
  if (marginal)
    memset(marginal + first_group * dims, 0,
           static_cast<size_t>((last_group - first_group) * dims) * sizeof(Running));

  const int64_t step = scratch.chunk.capacity * kLanes<T>;
  for (int64_t first = split * plan.components_per_split; first < last && !interrupted(interrupt, thread);
       first += step) {
    pack_components(problem.components, first, at_most(step, last - first), scratch.chunk);
    scratch.chunk.moderate_joint &= moderate(problem.band);
    scratch.chunk.moderate_marginals &= moderate(problem.band);
    const SubnormalsAsZero flushed;
    for (int64_t group = first_group; group < last_group; ++group) {
      const T* rows = memory.rows + group * dims * kGroup;
      if (moments) {
        add_statistics(scratch.chunk, rows, joint[group], moments[group]);
      } else if (!marginal) {
        add_joint<T, false>(scratch.chunk, rows, nullptr, joint[group]);
      } else if (!joint) {
        add_marginals<T, false>(scratch.chunk, rows, nullptr, marginal + group * dims);
      } else {
        const auto add = [&](int64_t from, int64_t to, const T* offsets) {
          const auto add_part = offsets ? add_both<T, true> : add_both<T, false>;
          add_part(part_of(scratch.chunk, from, to), rows, offsets, scratch.sums, marginal + group * dims,
                   joint[group]);
        };
        over_parts(problem.band, scratch.chunk, group, scratch.offsets, add);
      }
    }
  }
}

// A few components from all over, from which all splits learn where a row's exponents lie: else each would
// climb there by itself.
template <class T> void pack_sample(Components<T> components, Chunk<T>& chunk) {
  constexpr int64_t kShare = 32, kMost = 256;  // what it may cost; what is enough
  const int64_t vectors = at_most(at_most(components.count / kShare, kMost) / kLanes<T>, chunk.capacity);
  const int64_t step = vectors > 0 ? components.count / (vectors * kLanes<T>) : 1;
  View<T>* const views[] = {&components.loc, &components.scale, &components.log_weights};
  for (View<T>* view : views) view->stride_i *= step;
  pack_components(components, 0, vectors * kLanes<T>, chunk);
}

// Merges the splits of one group of rows, in their order, into the results.
template <class T>
void finish_forward(const ForwardProblem<T>& problem, const MixturePlan& plan, const ForwardMemory<T>& memory,
                    int64_t group) {
  const int64_t dims = problem.components.dims, groups = ceil_div(problem.rows, kGroup);
  const int64_t rows = at_most(kGroup, problem.rows - group * kGroup);
  if (problem.perplexity) {
    for (int64_t k = 0; k < rows; ++k) {
      const int64_t row = group * kGroup + k;
      const Statistics of_row = statistics_of_splits(memory.joint + group, memory.moments + group,
                                                     plan.splits, groups, static_cast<int>(k));
      problem.joint[row] = static_cast<T>(kLn2 * of_row.log2);
      problem.joint_log2[row] = static_cast<T>(of_row.log2);
      problem.perplexity[row] = static_cast<T>(of_row.perplexity);
      problem.collision_count[row] = static_cast<T>(of_row.collision_count);
    }
    return;
  }
  const auto put = [&](const Running* state, int64_t stride, T* nats, T* bits, int64_t step) {
    double log2[kGroup];
    log2_of_splits(state, plan.splits, stride, log2);
    for (int64_t k = 0; k < rows; ++k) {
      nats[k * step] = static_cast<T>(kLn2 * log2[k]);
      bits[k * step] = static_cast<T>(log2[k]);
    }
  };
  const int64_t row = group * kGroup;
  if (problem.joint) put(memory.joint + group, groups, problem.joint + row, problem.joint_log2 + row, 1);
  for (int64_t d = 0; problem.marginal && d < dims; ++d) {
    const int64_t o = row * dims + d;
    put(memory.marginal + group * dims + d, groups * dims, problem.marginal + o, problem.marginal_log2 + o,
        dims);
  }
}

template <class T>
void run_forward(const ForwardProblem<T>& problem, const MixturePlan& plan, Arena memory_arena,
                 ForwardScratch<T>* scratch, int threads, Interrupt& interrupt) {
  const int64_t dims = problem.components.dims, groups = ceil_div(problem.rows, kGroup);
  const ForwardMemory<T> memory =
      take_forward<T>(memory_arena, plan, problem.rows, problem.components.count, dims, asked_of(problem));
  const int64_t tasks = plan.splits * plan.row_blocks;
  if (tasks == 1) threads = 1;
  const int64_t blocks = at_most(groups, 4 * threads);
  scratch->chunk.vectors = 0;
  if (problem.joint && !problem.band.present) pack_sample(problem.components, scratch->chunk);
  parallel_tasks(blocks, threads, interrupt, [&](int64_t block, int) {
    for (int64_t group = block * groups / blocks; group < (block + 1) * groups / blocks; ++group) {
      pack_rows(problem.value, problem.rows, dims, group, memory.rows);
      if (problem.joint)
        largest_in_chunk(scratch->chunk, memory.rows + group * dims * kGroup, memory.lower + group * kGroup);
    }
  });
  const bool skipping = memory.skip.order && skipping_pays(problem, memory, scratch, threads, interrupt);
  int64_t leaves = 0;
  if (skipping) {
    leaves = make_leaves(problem.components, memory.skip, scratch, threads, interrupt);
    parallel_tasks(groups, threads, interrupt, [&](int64_t group, int thread) {
      bound_group(leaves, memory.rows + group * dims * kGroup, dims, memory.skip,
                  memory.lower + group * kGroup, scratch[thread].bounds);
    });
  }
  parallel_tasks(tasks, threads, interrupt, [&](int64_t task, int thread) {
    if (skipping) {
      skipping_task(problem, leaves, plan, memory, task, scratch[thread], interrupt, thread);
    } else {
      forward_task(problem, plan, memory, task, scratch[thread], interrupt, thread);
    }
  });
  parallel_tasks(blocks, threads, interrupt, [&](int64_t block, int) {
    for (int64_t group = block * groups / blocks; group < (block + 1) * groups / blocks; ++group)
      finish_forward(problem, plan, memory, group);
  });
}

}  // namespace
}  // namespace pykernels
