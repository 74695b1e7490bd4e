// The backward pass of one batch element: rows prepared, tasks run, partial results merged.
#pragma once

#include "mixture/cpu_backward.h"
#include "mixture/cpu_sink.h"

namespace pykernels {
namespace {

template <class T> struct BackwardProblem {
  Components<T> components;
  Band band;
  View<T> value;
  int64_t rows;
  const T *joint_log2, *marginal_log2, *grad_joint, *grad_statistics, *grad_marginal;  // contiguous
  T* grad_value;                                                                       // null: not asked for
  int64_t grad_stride_i, grad_stride_d;
  bool add_value;  // to what an earlier batch element left
};

template <class T> struct BackwardMemory {
  Upstream<T> up;
  T* grad_rows;  // [splits][groups][dims][kGroup]
  Sink<T> loc, scale, log_weights;
};

template <class T>
BackwardMemory<T> take_backward(Arena& arena, const MixturePlan& plan, const MixtureBackward& args,
                                int64_t index) {
  const MixtureProblem& problem = args.problem;
  const int64_t groups = ceil_div(problem.rows, kGroup), n = problem.components, dims = problem.dims;
  const int64_t plane = groups * dims * kGroup;
  BackwardMemory<T> memory{};
  memory.up.rows = take<T>(arena, plane);
  if (args.grad_joint) {
    memory.up.joint = take<T>(arena, groups * kGroup);
    memory.up.grad_joint = take<T>(arena, groups * kGroup);
  }
  if (args.grad_statistics) {
    memory.up.of_log = take<T>(arena, groups * kGroup);
    memory.up.of_share = take<T>(arena, groups * kGroup);
  }
  if (args.grad_marginal) {
    memory.up.marginal = take<T>(arena, plane);
    memory.up.grad_marginal = take<T>(arena, plane);
  }
  if (args.grad_value.data) memory.grad_rows = take<T>(arena, plan.splits * plane);
  memory.loc = take_sink<T>(arena, plan, problem.batch, args.grad_loc, index, n, dims);
  memory.scale = take_sink<T>(arena, plan, problem.batch, args.grad_scale, index, n, dims);
  memory.log_weights = take_sink<T>(arena, plan, problem.batch, args.grad_log_weights, index, n, 1);
  return memory;
}

// A result of -inf contributes nothing: its upstream gradient is dropped, and the result becomes +lowest,
// next to which every density is 0. An infinite coordinate is then taken as 0, lest 0 * inf make a NaN.
template <class T> bool prepare(T result, T grad, T& result_used, T& grad_used) {
  const bool nothing = result == -Float<T>::infinity;
  result_used = nothing ? -Float<T>::lowest : result;
  grad_used = nothing ? T(0) : grad;
  return nothing;
}

// Moves the marginals of one dimension of a group into their gradients where that loses nothing: exponents
// then need no subtraction. No exponent of a row is larger than its marginal, which has to be small even
// where there is no gradient: infinity times that would be NaN.
template <class T> void settle_rows(T* marginal, T* grad) {
  constexpr T kFar = 48, kLarge = T(0x1p60), kSmall = T(0x1p-60);
  bool near = true;
  for (int k = 0; k < kGroup; ++k) {
    const T size = grad[k] < 0 ? -grad[k] : grad[k];
    near &= marginal[k] <= kFar;
    near &= size == 0 || (marginal[k] >= -kFar && size >= kSmall && size <= kLarge);
  }
  if (!near) return;
  for (int k = 0; k < kGroup; k += kLanes<double>) {
    VectorD factor;
    for (int lane = 0; lane < kLanes<double>; ++lane) factor[lane] = -static_cast<double>(marginal[k + lane]);
    factor = exp2(factor);  // in double: all that a row's gradients are made of is off by what this is off by
    for (int lane = 0; lane < kLanes<double>; ++lane) {
      T& of_row = grad[k + lane];
      if (of_row != 0) of_row = static_cast<T>(static_cast<double>(of_row) * factor[lane]);
      marginal[k + lane] = 0;
    }
  }
}

template <class T>
void prepare_rows(const BackwardProblem<T>& problem, const Upstream<T>& up, int64_t group) {
  const int64_t dims = problem.components.dims;
  pack_rows(problem.value, problem.rows, dims, group, up.rows);
  for (int k = 0; k < kGroup; ++k) {
    const int64_t row = group * kGroup + k;
    const bool padding = row >= problem.rows;
    bool joint_nothing = false;
    if (up.joint) {
      const int64_t o = group * kGroup + k;
      joint_nothing = prepare(padding ? -Float<T>::infinity : problem.joint_log2[row],
                              padding ? T(0) : problem.grad_joint[row], up.joint[o], up.grad_joint[o]);
      if (up.of_log) {
        up.of_log[o] = padding || joint_nothing ? T(0) : static_cast<T>(kLn2) * problem.grad_statistics[row];
        up.of_share[o] = padding || joint_nothing ? T(0) : problem.grad_statistics[problem.rows + row];
      }
    }
    for (int64_t d = 0; d < dims; ++d) {
      const int64_t o = (group * dims + d) * kGroup + k;
      bool nothing = joint_nothing || padding;
      if (up.marginal)
        nothing |= prepare(padding ? -Float<T>::infinity : problem.marginal_log2[row * dims + d],
                           padding ? T(0) : problem.grad_marginal[row * dims + d], up.marginal[o],
                           up.grad_marginal[o]);
      if (nothing && !(up.rows[o] - up.rows[o] == 0)) up.rows[o] = 0;
    }
  }
  for (int64_t d = 0; up.marginal && d < dims; ++d) {
    const int64_t o = (group * dims + d) * kGroup;
    settle_rows(up.marginal + o, up.grad_marginal + o);
  }
}

template <class T>
void backward_task(const BackwardProblem<T>& problem, const MixturePlan& plan, BackwardMemory<T>& memory,
                   int64_t task, BackwardScratch<T>& scratch, Interrupt& interrupt, int thread) {
  const int64_t dims = problem.components.dims, groups = ceil_div(problem.rows, kGroup);
  const int64_t split = task % plan.splits, block = task / plan.splits;
  const int64_t first_group = block * plan.rows_per_block / kGroup;
  const int64_t last_group = at_most(groups, first_group + plan.rows_per_block / kGroup);
  const int64_t last = at_most(problem.components.count, (split + 1) * plan.components_per_split);
  T* grad_rows = memory.grad_rows ? memory.grad_rows + split * groups * dims * kGroup : nullptr;
  if (grad_rows)
    memset(grad_rows + first_group * dims * kGroup, 0,
           static_cast<size_t>((last_group - first_group) * dims * kGroup) * sizeof(T));
  Sink<T>* const sinks[] = {&memory.loc, &memory.scale, &memory.log_weights};
  for (Sink<T>* sink : sinks) open_sink(*sink, task);

  // Responsibilities below this cannot change a sum of that many terms in the working precision, gradients in
  // units of the components' scales; narrow components keep more.
  const double most_terms = static_cast<double>(at_least(problem.components.count, problem.rows));
  // Logarithms of those that are kept make gradients of statistics larger, by a factor below 2^7.
  const int spare_bits = memory.up.of_log ? 11 : 4;
  const T negligible = static_cast<T>(-(Float<T>::mantissa_bits + spare_bits + ::ceil(::log2(most_terms))));
  const BackwardChunk<T> run =
      choose_backward_chunk<T>(memory.up.joint, memory.up.marginal, grad_rows,
                               memory.loc.out || memory.scale.out || memory.log_weights.out);
  const int64_t step = scratch.chunk.capacity * kLanes<T>;
  for (int64_t first = split * plan.components_per_split; first < last && !interrupted(interrupt, thread);
       first += step) {
    pack_components(problem.components, first, at_most(step, last - first), scratch.chunk);
    const T kept_bits =
        static_cast<T>(at_least_real(0, 0.5 * ::log2(static_cast<double>(highest_precision(scratch.chunk)))));
    {
      const SubnormalsAsZero flushed;
      run(scratch, memory.up, first_group, last_group, negligible - kept_bits, grad_rows);
    }
    put(memory.loc, plan, problem.components, scratch.chunk, scratch.total_first, dims, task);
    put(memory.scale, plan, problem.components, scratch.chunk, scratch.total_second, dims, task);
    put(memory.log_weights, plan, problem.components, scratch.chunk, scratch.total_joint_mass, 1, task);
  }
}

template <class T>
void finish_rows(const BackwardProblem<T>& problem, const MixturePlan& plan, const T* grad_rows,
                 int64_t group) {
  const int64_t dims = problem.components.dims, plane = ceil_div(problem.rows, kGroup) * dims * kGroup;
  for (int64_t k = 0; k < at_most(kGroup, problem.rows - group * kGroup); ++k) {
    for (int64_t d = 0; d < dims; ++d) {
      double sum = 0;
      for (int64_t split = 0; split < plan.splits; ++split)
        sum += static_cast<double>(grad_rows[split * plane + (group * dims + d) * kGroup + k]);
      T& element =
          problem.grad_value[(group * kGroup + k) * problem.grad_stride_i + d * problem.grad_stride_d];
      element = static_cast<T>(kValueGradient * sum) + (problem.add_value ? element : T(0));
    }
  }
}

template <class T>
void run_backward(const BackwardProblem<T>& problem, const MixturePlan& plan, BackwardMemory<T> memory,
                  BackwardScratch<T>* scratch, int threads, Interrupt& interrupt) {
  memory.up.band = problem.band;
  const int64_t groups = ceil_div(problem.rows, kGroup), tasks = plan.splits * plan.row_blocks;
  if (tasks == 1) threads = 1;
  const int64_t pieces = 4 * threads;
  parallel_tasks(pieces, threads, interrupt, [&](int64_t piece, int) {
    for (int64_t group = piece * groups / pieces; group < (piece + 1) * groups / pieces; ++group)
      prepare_rows(problem, memory.up, group);
  });
  parallel_tasks(tasks, threads, interrupt, [&](int64_t task, int thread) {
    backward_task(problem, plan, memory, task, scratch[thread], interrupt, thread);
  });
  parallel_tasks(pieces, threads, interrupt, [&](int64_t piece, int) {
    close_sink(memory.loc, plan, piece, pieces);
    close_sink(memory.scale, plan, piece, pieces);
    close_sink(memory.log_weights, plan, piece, pieces);
    for (int64_t group = piece * groups / pieces; problem.grad_value && group < (piece + 1) * groups / pieces;
         ++group)
      finish_rows(problem, plan, memory.grad_rows, group);
  });
}

}  // namespace
}  // namespace pykernels
