// The CPU kernels. Compiled once per instruction set: PYKERNELS_ISA names it, the compiler's flags choose it.
#include "mixture/cpu_backward_tasks.h"
#include "mixture/cpu_forward_tasks.h"
#include "mixture/mixture.h"

#define PYKERNELS_JOIN_(a, b) a##b
#define PYKERNELS_JOIN(a, b) PYKERNELS_JOIN_(a, b)
#define PYKERNELS_STRING_(a) #a
#define PYKERNELS_STRING(a) PYKERNELS_STRING_(a)

namespace pykernels {
namespace {

template <class T> View<T> view(const BatchShape& batch, const StridedTensor& tensor, int64_t index) {
  if (!tensor.data) return {};
  const T* data = static_cast<const T*>(tensor.data) + batch_offset(batch, tensor, index);
  return {data, tensor.strides[batch.ndim], tensor.strides[batch.ndim + 1]};
}

template <class T> Components<T> components_of(const MixtureProblem& problem, int64_t index) {
  return {view<T>(problem.batch, problem.loc, index),
          view<T>(problem.batch, problem.scale, index),
          view<T>(problem.batch, problem.log_weights, index),
          problem.pairs.other,
          problem.components,
          problem.dims,
          nullptr};
}

Band band_of(const MixtureProblem& problem) {
  return {depend_on_pair(problem.pairs), problem.components, problem.pairs.own, problem.pairs.next};
}

Asked asked_of(const MixtureForward& args) {
  return {args.joint != nullptr, args.marginal != nullptr, args.perplexity != nullptr};
}

template <class T> const T* part(const void* contiguous, int64_t offset) {
  return contiguous ? static_cast<const T*>(contiguous) + offset : nullptr;
}
template <class T> T* part(void* contiguous, int64_t offset) {
  return contiguous ? static_cast<T*>(contiguous) + offset : nullptr;
}

// Memory of a call. Batch elements follow one another, each using all threads, unless each is a single task
// and no two write to the same gradient: then threads take whole batch elements, each thread with memory of
// its own.
struct Layout {
  bool across_batch;
  int copies;  // of the memory of one batch element
};

Layout layout_of(const MixturePlan& plan, int64_t batch, bool shared_outputs, int threads) {
  const bool across = batch > 1 && threads > 1 && plan.splits * plan.row_blocks == 1 && !shared_outputs;
  return {across, across ? threads : 1};
}

// Runs one(index, copy of the memory, threads, interrupt) for every batch element.
template <class One>
Status over_batch(const Layout& layout, int64_t batch, Execution execution, const One& one) {
  Interrupt& interrupt = *execution.interrupt;
  if (layout.across_batch) {
    parallel_tasks(batch, execution.threads, interrupt, [&](int64_t index, int thread) {
      Interrupt none{};
      one(index, thread, 1, none);
    });
  } else {
    for (int64_t index = 0; index < batch && !interrupted(interrupt, 0); ++index)
      one(index, 0, execution.threads, interrupt);
  }
  return interrupt.raised ? Status::interrupted : Status::ok;
}

constexpr int kMostThreads = 256;

struct CallPlan {
  MixturePlan plan;
  Layout layout;
};

CallPlan plan_forward(const MixtureForward& args, int threads) {
  const MixtureProblem& p = args.problem;
  const MixturePlan plan = plan_mixture(p.rows, p.components, p.dims, false, args.marginal);
  return {plan, layout_of(plan, batch_count(p.batch), false, threads)};
}

template <class T> struct ForwardMemories {
  Arena problem[kMostThreads];
  ForwardScratch<T> scratch[kMostThreads];
};

template <class T>
void take_forward_memories(Arena& arena, const MixtureForward& args, const CallPlan& plan, int threads,
                           ForwardMemories<T>& memories) {
  for (int copy = 0; copy < plan.layout.copies; ++copy) {
    memories.problem[copy] = arena;
    take_forward<T>(arena, plan.plan, args.problem.rows, args.problem.components, args.problem.dims,
                    asked_of(args));
  }
  for (int thread = 0; thread < threads; ++thread)
    memories.scratch[thread] = take_forward_scratch<T>(arena, args.problem.rows, args.problem.components,
                                                       args.problem.dims, asked_of(args));
}

template <class T> int64_t forward_workspace(const MixtureForward& args, int threads) {
  Arena arena{nullptr, kAlignment};
  ForwardMemories<T> memories;
  take_forward_memories(arena, args, plan_forward(args, threads), threads, memories);
  return arena.used;
}

template <class T> Status forward(const MixtureForward& args, Execution execution) {
  const MixtureProblem& p = args.problem;
  const CallPlan plan = plan_forward(args, execution.threads);
  Arena arena = arena_over(args.workspace);
  ForwardMemories<T> memories;
  take_forward_memories(arena, args, plan, execution.threads, memories);
  if (arena.used > args.workspace_bytes) return Status::workspace_too_small;
  return over_batch(plan.layout, batch_count(p.batch), execution,
                    [&](int64_t index, int copy, int threads, Interrupt& interrupt) {
                      const int64_t row = index * p.rows;
                      const ForwardProblem<T> problem{components_of<T>(p, index),
                                                      band_of(p),
                                                      view<T>(p.batch, p.value, index),
                                                      p.rows,
                                                      part<T>(args.joint, row),
                                                      part<T>(args.joint_log2, row),
                                                      part<T>(args.marginal, row * p.dims),
                                                      part<T>(args.marginal_log2, row * p.dims),
                                                      part<T>(args.perplexity, row),
                                                      part<T>(args.collision_count, row)};
                      run_forward(problem, plan.plan, memories.problem[copy], memories.scratch + copy,
                                  threads, interrupt);
                    });
}

CallPlan plan_backward(const MixtureBackward& args, int threads) {
  const MixtureProblem& p = args.problem;
  const MixturePlan plan = plan_mixture(p.rows, p.components, p.dims, true, args.grad_marginal);
  bool shared = false;
  const StridedTensor* const gradients[] = {&args.grad_value, &args.grad_loc, &args.grad_scale,
                                            &args.grad_log_weights};
  for (const StridedTensor* gradient : gradients)
    shared |= gradient->data && batch_is_shared(p.batch, *gradient);
  return {plan, layout_of(plan, batch_count(p.batch), shared, threads)};
}

template <class T> struct BackwardMemories {
  Arena problem[kMostThreads];
  BackwardScratch<T> scratch[kMostThreads];
};

template <class T>
void take_backward_memories(Arena& arena, const MixtureBackward& args, const CallPlan& plan, int threads,
                            BackwardMemories<T>& memories) {
  for (int copy = 0; copy < plan.layout.copies; ++copy) {
    memories.problem[copy] = arena;
    take_backward<T>(arena, plan.plan, args, 0);
  }
  for (int thread = 0; thread < threads; ++thread)
    memories.scratch[thread] = take_backward_scratch<T>(arena, args.problem.dims, args.grad_marginal);
}

template <class T> int64_t backward_workspace(const MixtureBackward& args, int threads) {
  Arena arena{nullptr, kAlignment};
  BackwardMemories<T> memories;
  take_backward_memories(arena, args, plan_backward(args, threads), threads, memories);
  return arena.used;
}

template <class T> Status backward(const MixtureBackward& args, Execution execution) {
  const MixtureProblem& p = args.problem;
  const CallPlan plan = plan_backward(args, execution.threads);
  Arena arena = arena_over(args.workspace);
  BackwardMemories<T> memories;
  take_backward_memories(arena, args, plan, execution.threads, memories);
  if (arena.used > args.workspace_bytes) return Status::workspace_too_small;
  return over_batch(plan.layout, batch_count(p.batch), execution,
                    [&](int64_t index, int copy, int threads, Interrupt& interrupt) {
                      const int64_t row = index * p.rows;
                      const StridedTensor& grad_value = args.grad_value;
                      T* value_out = grad_value.data ? static_cast<T*>(grad_value.data) +
                                                           batch_offset(p.batch, grad_value, index)
                                                     : nullptr;
                      const BackwardProblem<T> problem{components_of<T>(p, index),
                                                       band_of(p),
                                                       view<T>(p.batch, p.value, index),
                                                       p.rows,
                                                       part<T>(args.joint_log2, row),
                                                       part<T>(args.marginal_log2, row * p.dims),
                                                       part<T>(args.grad_joint, row),
                                                       part<T>(args.grad_statistics, 2 * row),
                                                       part<T>(args.grad_marginal, row * p.dims),
                                                       value_out,
                                                       grad_value.strides[p.batch.ndim],
                                                       grad_value.strides[p.batch.ndim + 1],
                                                       seen_before(p.batch, grad_value, index)};
                      Arena own = memories.problem[copy];
                      run_backward(problem, plan.plan, take_backward<T>(own, plan.plan, args, index),
                                   memories.scratch + copy, threads, interrupt);
                    });
}

int threads_used(int threads) { return threads < 1 ? 1 : threads > kMostThreads ? kMostThreads : threads; }

int64_t forward_workspace_any(const MixtureForward& args, int threads) {
  threads = threads_used(threads);
  return args.problem.dtype == Dtype::float32 ? forward_workspace<float>(args, threads)
                                              : forward_workspace<double>(args, threads);
}
int64_t backward_workspace_any(const MixtureBackward& args, int threads) {
  threads = threads_used(threads);
  return args.problem.dtype == Dtype::float32 ? backward_workspace<float>(args, threads)
                                              : backward_workspace<double>(args, threads);
}
Status forward_any(const MixtureForward& args, Execution execution) {
  execution.threads = threads_used(execution.threads);
  return args.problem.dtype == Dtype::float32 ? forward<float>(args, execution)
                                              : forward<double>(args, execution);
}
Status backward_any(const MixtureBackward& args, Execution execution) {
  execution.threads = threads_used(execution.threads);
  return args.problem.dtype == Dtype::float32 ? backward<float>(args, execution)
                                              : backward<double>(args, execution);
}

}  // namespace

extern const MixtureVariant PYKERNELS_JOIN(mixture_, PYKERNELS_ISA);
const MixtureVariant PYKERNELS_JOIN(mixture_, PYKERNELS_ISA) = {
    PYKERNELS_STRING(PYKERNELS_ISA),
    [] { return cpu_supports(Isa::PYKERNELS_ISA); },
    false,
    forward_workspace_any,
    backward_workspace_any,
    forward_any,
    backward_any};

}  // namespace pykernels
