// A loop over independent tasks. Which thread runs a task never changes a result: tasks are cut from the
// problem alone, and whoever merges their results does so in the order of their numbers.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace pykernels {

// Asked now and then, by the calling thread only, whether the user wants the call to end (Ctrl-C).
struct Interrupt {
  bool (*poll)(void* context);
  void* context;
  int raised;  // read and written atomically; set once, seen by every thread
};

static inline bool interrupted(Interrupt& interrupt, int thread) {
  if (thread == 0 && interrupt.poll && interrupt.poll(interrupt.context))
    __atomic_store_n(&interrupt.raised, 1, __ATOMIC_RELAXED);
  return __atomic_load_n(&interrupt.raised, __ATOMIC_RELAXED) != 0;
}

// Calls body(task, thread) for 0 <= task < count; thread < threads identifies scratch memory.
template <class Body>
static inline void parallel_tasks(int64_t count, int threads, Interrupt& interrupt, const Body& body) {
  if (threads > count) threads = static_cast<int>(count);
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
      for (int64_t task = 0; task < count; ++task)
        if (!interrupted(interrupt, thread)) body(task, thread);
    }
    return;
  }
#endif
  for (int64_t task = 0; task < count && !interrupted(interrupt, 0); ++task) body(task, 0);
}

}  // namespace pykernels
