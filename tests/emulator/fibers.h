// Fibers: functions with a stack of their own, resumed by a scheduler until they suspend themselves. The
// sanitizers are told of each change of stack. To ThreadSanitizer a fiber is a thread, and changing to it
// orders nothing: only what the emulated program does may order its accesses.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// The emulator's own state passes between fibers without any order that ThreadSanitizer could see, so what
// touches it is compiled without checks. The functions of the C library, such as memset, are checked anyway.
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define PYKERNELS_UNCHECKED __attribute__((no_sanitize("thread"), noinline))
#else
#define PYKERNELS_UNCHECKED
#endif

#if !defined(__x86_64__) && !defined(PYKERNELS_EMULATOR_UCONTEXT)
#define PYKERNELS_EMULATOR_UCONTEXT  // slower by far: two system calls for each change of stack
#endif
#if defined(PYKERNELS_EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

namespace pykernels {
namespace emulator {

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kGuardBytes = 64 << 10;  // below the stack, so that overflows crash: pages of any size

#if defined(PYKERNELS_EMULATOR_UCONTEXT)

class Context {
 public:
  void prepare(char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    makecontext(&context_, entry, 0);
  }

  PYKERNELS_UNCHECKED static void swap(Context& from, Context& to) {
    swapcontext(&from.context_, &to.context_);
  }

 private:
  ucontext_t context_;
};

#else

// Keeps on the old stack the registers that a call has to keep, and takes those of the new one from there. It
// jumps to the return address: a return would be predicted to go back to the old stack, at a cost of ten
// nanoseconds.
__attribute__((naked, noinline, no_stack_protector, no_sanitize("thread")))
inline void switch_stack(void** /*from*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp\n"
      "pushq %rbx\n"
      "pushq %r12\n"
      "pushq %r13\n"
      "pushq %r14\n"
      "pushq %r15\n"
      "movq %rsp, (%rdi)\n"
      "movq %rsi, %rsp\n"
      "popq %r15\n"
      "popq %r14\n"
      "popq %r13\n"
      "popq %r12\n"
      "popq %rbx\n"
      "popq %rbp\n"
      "popq %rax\n"
      "jmp *%rax\n");
}

class Context {
 public:
  void prepare(char* stack, size_t bytes, void (*entry)()) {
    auto* top = reinterpret_cast<uint64_t*>(stack + bytes);
    *--top = 0;  // where entry would return to; so the stack is aligned as after a call
    *--top = reinterpret_cast<uint64_t>(entry);
    for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = 0;
    stack_pointer_ = top;
  }

  PYKERNELS_UNCHECKED static void swap(Context& from, Context& to) {
    switch_stack(&from.stack_pointer_, to.stack_pointer_);
  }

 private:
  void* stack_pointer_ = nullptr;
};

#endif

class Fiber {
 public:
  // entry, which calls entered() first and never returns, runs from the first resume(). The number spreads
  // the stacks of many fibers over the lines of the caches.
  void create(void (*entry)(), int number) {
    void* mapped = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED || mprotect(mapped, kGuardBytes, PROT_NONE) != 0) {
      std::perror("pykernels emulator: no memory for a stack");
      std::abort();
    }
    stack_ = static_cast<char*>(mapped) + kGuardBytes;
    own_.prepare(stack_, kStackBytes - static_cast<size_t>(number % 23) * 704, entry);
#if defined(__SANITIZE_THREAD__)
    thread_ = __tsan_create_fiber(0);  // after mmap, which counts as a write by the scheduler
#endif
  }

  // The fiber may be in the middle of something: its frames are forgotten.
  void destroy() {
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(thread_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
    munmap(stack_ - kGuardBytes, kGuardBytes + kStackBytes);
  }

  PYKERNELS_UNCHECKED void resume() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack;
    __sanitizer_start_switch_fiber(&fake_stack, stack_, kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
    scheduler_thread_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(thread_, __tsan_switch_to_fiber_no_sync);
#endif
    Context::swap(scheduler_, own_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  PYKERNELS_UNCHECKED void suspend() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack;
    __sanitizer_start_switch_fiber(&fake_stack, scheduler_stack_, scheduler_stack_bytes_);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(scheduler_thread_, __tsan_switch_to_fiber_no_sync);
#endif
    Context::swap(own_, scheduler_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

  PYKERNELS_UNCHECKED void entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

#if defined(__SANITIZE_THREAD__)
  // Orders all that the fiber has done so far before what acquires the clock later.
  PYKERNELS_UNCHECKED void release_on_behalf(void* clock) {
    void* caller = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(thread_, __tsan_switch_to_fiber_no_sync);
    __tsan_release(clock);
    __tsan_switch_to_fiber(caller, __tsan_switch_to_fiber_no_sync);
  }
#endif

 private:
  Context own_;
  Context scheduler_;
  char* stack_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
#endif
#if defined(__SANITIZE_THREAD__)
  void* thread_ = nullptr;
  void* scheduler_thread_ = nullptr;
#endif
};

}  // namespace emulator
}  // namespace pykernels
