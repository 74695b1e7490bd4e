// The CPU kernels. Compiled once per instruction set: PYKERNELS_ISA names it, the compiler's flags choose it.
#include "mmd/cpu_occupied.h"
#include "mmd/cpu_panels.h"
#include "mmd/cpu_range.h"
#include "mmd/mmd.h"

#define PYKERNELS_JOIN_(a, b) a##b
#define PYKERNELS_JOIN(a, b) PYKERNELS_JOIN_(a, b)
#define PYKERNELS_STRING_(a) #a
#define PYKERNELS_STRING(a) PYKERNELS_STRING_(a)

namespace pykernels {
namespace {

constexpr int kMostThreads = 256;
int threads_used(int threads) { return threads < 1 ? 1 : threads > kMostThreads ? kMostThreads : threads; }

template <class T> Element<T> element_of(const MmdArguments& args, int64_t index) {
  const MmdProblem& problem = args.problem;
  Element<T> element{};
  element.share = args.share;
  void* const slopes[] = {args.slope_x, args.slope_y};
  for (int s = 0; s < 2; ++s) {
    Points<T>& points = element.samples[s];
    points = points_of<T>(problem, s == 0, index, args.ranges);
    element.slopes[s] = slopes[s] ? static_cast<T*>(slopes[s]) + index * points.count * points.dims : nullptr;
    element.counts[s] = args.share ? args.share->counts[s] : static_cast<double>(points.count);
    if (!problem.unbiased) continue;
    if (args.share) {
      element.excess[s] = args.share->excess[s];
      continue;
    }
    double squares = 0;
    for (int64_t i = 0; i < points.count && points.masses; ++i) squares += points.mass(i) * points.mass(i);
    element.excess[s] = points.masses ? squares / (1 - squares) : 1 / static_cast<double>(points.count - 1);
  }
  return element;
}

// Memory of one batch element, whichever way it is taken.
template <class T> struct Memory {
  PanelMemory<T> panels;
  OccupiedMemory<T> occupied;
  DirectMemory<T> direct;
};

template <class T>
Memory<T> take_memory(Arena& arena, const MmdProblem& problem, const Plan& plan, const Element<T>& element,
                      int threads) {
  Memory<T> memory{};
  switch (plan.way) {
    case Way::shared: memory.panels = take_panels<T>(arena, problem, plan, element, threads); break;
    case Way::occupied: memory.occupied = take_occupied(arena, problem, element, threads); break;
    case Way::direct: memory.direct = take_direct(arena, problem, element, problem.dims, plan.parts); break;
  }
  return memory;
}

template <class T>
double run_plan(const MmdProblem& problem, const Plan& plan, const Element<T>& element, Memory<T>& memory,
                int threads, Interrupt& interrupt) {
  switch (plan.way) {
    case Way::shared: return run_panels(problem, plan, element, memory.panels, threads, interrupt);
    case Way::occupied: return run_occupied(problem, element, memory.occupied, threads, interrupt);
    case Way::direct: return run_direct(problem, element, memory.direct, threads, interrupt);
  }
  return 0;
}

template <class T> Plan plan_element(const MmdArguments& args, int64_t index) {
  return plan_of<T>(args.problem, args.ranges + index * args.problem.dims * 2, args.slope_x || args.slope_y);
}

template <class T> int64_t measure_workspace(const MmdArguments& args) {
  Arena arena{nullptr, kAlignment};
  take_range_tasks<T>(arena, args.problem.dims, range_tasks(args.problem));
  return arena.used;
}

template <class T> Status measure(const MmdArguments& args, MmdExecution execution) {
  const MmdProblem& problem = args.problem;
  const int64_t count = range_tasks(problem);
  const int threads = count > 1 ? execution.threads : 1;
  Arena arena = arena_over(args.workspace);
  RangeTask<T>* const tasks = take_range_tasks<T>(arena, problem.dims, count);
  if (arena.used > args.workspace_bytes) return Status::workspace_too_small;
  Interrupt& interrupt = *execution.interrupt;
  for (int64_t index = 0; index < batch_count(problem.batch) && !interrupted(interrupt, 0); ++index) {
    const Points<T> samples[] = {points_of<T>(problem, true, index, nullptr),
                                 points_of<T>(problem, false, index, nullptr)};
    measure_points(samples, args.ranges + index * problem.dims * 2, tasks, count, threads, interrupt);
  }
  return interrupt.raised ? Status::interrupted : Status::ok;
}

template <class T> int64_t workspace(const MmdArguments& args, int threads) {
  const MmdProblem& problem = args.problem;
  int64_t most = 0;
  for (int64_t index = 0; index < batch_count(problem.batch); ++index) {
    Arena arena{nullptr, kAlignment};
    const Plan plan = plan_element<T>(args, index);
    take_memory(arena, problem, plan, element_of<T>(args, index), threads_for(plan.cost, threads));
    most = at_least(most, arena.used);
  }
  return most;
}

template <class T> Status run(const MmdArguments& args, MmdExecution execution) {
  const MmdProblem& problem = args.problem;
  Interrupt& interrupt = *execution.interrupt;
  for (int64_t index = 0; index < batch_count(problem.batch); ++index) {
    if (interrupted(interrupt, 0)) return Status::interrupted;
    const Plan plan = plan_element<T>(args, index);
    if (args.share && plan.way != Way::shared) return Status::too_many_panels;
    const int threads = threads_for(plan.cost, execution.threads);
    const Element<T> element = element_of<T>(args, index);
    Arena arena = arena_over(args.workspace);
    Memory<T> memory = take_memory(arena, problem, plan, element, threads);
    if (arena.used > args.workspace_bytes) return Status::workspace_too_small;
    double value = run_plan(problem, plan, element, memory, threads, interrupt);
    if (!problem.unbiased && value < 0) value = 0;
    if (!element.samples[0].all_defined()) value = __builtin_nan("");
    static_cast<T*>(args.value)[index] = static_cast<T>(value);
  }
  return interrupt.raised ? Status::interrupted : Status::ok;
}

}  // namespace

extern const MmdVariant PYKERNELS_JOIN(mmd_, PYKERNELS_ISA);
const MmdVariant PYKERNELS_JOIN(mmd_, PYKERNELS_ISA) = {
    PYKERNELS_STRING(PYKERNELS_ISA),
    [] { return cpu_supports(Isa::PYKERNELS_ISA); },
    [](const MmdArguments& args) {
      return args.problem.dtype == Dtype::float32 ? measure_workspace<float>(args)
                                                  : measure_workspace<double>(args);
    },
    [](const MmdArguments& args, MmdExecution execution) {
      execution.threads = threads_used(execution.threads);
      return args.problem.dtype == Dtype::float32 ? measure<float>(args, execution)
                                                  : measure<double>(args, execution);
    },
    [](const MmdArguments& args, int threads) {
      threads = threads_used(threads);
      return args.problem.dtype == Dtype::float32 ? workspace<float>(args, threads)
                                                  : workspace<double>(args, threads);
    },
    [](const MmdArguments& args, MmdExecution execution) {
      execution.threads = threads_used(execution.threads);
      return args.problem.dtype == Dtype::float32 ? run<float>(args, execution)
                                                  : run<double>(args, execution);
    }};

}  // namespace pykernels
