// The threads of one block, run by turns until each waits at a barrier or a warp function, or has returned.
// Once none can go on, it is looked at whether all are there: what a GPU would answer with a hang or wrong
// values is an error.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "copies.h"
#include "fibers.h"
#include "order.h"

struct uint3 {
  unsigned x, y, z;
};

namespace pykernels {
namespace emulator {

constexpr int kMaxThreads = kWarp * kMaxWarps;
constexpr size_t kMaxSharedBytes = 48 << 10;
constexpr size_t kRedZone = 256;  // before and behind the shared memory
constexpr size_t kMemoryBytes = kMaxSharedBytes + 2 * kRedZone + 32;

__attribute__((format(printf, 1, 2))) inline std::string format(const char* pattern, ...) {
  char text[1024];
  va_list values;
  va_start(values, pattern);
  std::vsnprintf(text, sizeof text, pattern, values);
  va_end(values);
  return text;
}

PYKERNELS_UNCHECKED inline bool same(const Site& a, const Site& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

enum class State : uint8_t { ready, at_barrier, at_warp_function, returned };

class Block;

struct Thread {
  Fiber fiber;
  Block* block;
  int number;
  uint3 index;
  State state;
  Site site;         // of the barrier or warp function where it waits
  uint64_t offered;  // the value that it brought there
  CopyQueue copies;
};

// The thread that runs now, on this thread of the system.
inline thread_local Thread* self = nullptr;

// What threads did before a fence that they pass together happens, for ThreadSanitizer, before what they do
// after it. The clocks alternate, so that a thread early at the next fence cannot be taken for one at this
// fence.
struct Fence {
  int passed = 0;
  char clocks[2];
};

struct Warp {
  Fence fence;
  uint64_t values[kWarp];  // what the lanes brought to the warp function that they left last
};

struct Launch {
  const char* kernel;
  uint3 grid, block;
  int threads;  // of a block
  size_t shared_bytes;
  void (*call)(const void* arguments);
  const void* arguments;
};

// A block, whose fibers and memory the next block takes over.
class Block {
 public:
  Block() = default;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { abandon(); }

  PYKERNELS_UNCHECKED void start_launch(const Launch& launch) {
    this->launch = &launch;
    if (!threads_) {
      threads_.reset(new Thread[kMaxThreads]);
      memory_.reset(new unsigned char[kMemoryBytes]);
    }
    for (; created_ < launch.threads; ++created_) threads_[created_].fiber.create(run_fiber, created_);
    for (int number = 0; number < launch.threads; ++number) {
      Thread& thread = threads_[number];
      const unsigned column = static_cast<unsigned>(number) % launch.block.x;
      const unsigned row = static_cast<unsigned>(number) / launch.block.x;
      thread.block = this;
      thread.number = number;
      thread.index = {column, row % launch.block.y, row / launch.block.y};
    }
    start_shared();
    release(&started_);
  }

  // Whether the block came to its end without an error; the fibers are in order again only if it did.
  PYKERNELS_UNCHECKED bool run(uint3 index, Order& order) {
    this->index = index;
    ++end_.passed;
    fill(shared, launch->shared_bytes);
    for (int number = 0; number < launch->threads; ++number) {
      Thread& thread = threads_[number];
      thread.state = State::ready;
      thread.copies.clear();
    }
    do {
      const int* warps = order.of_warps();
      for (int i = 0; i < launch->threads / kWarp && error.empty(); ++i) run_warp(warps[i], order);
    } while (error.empty() && open_barrier());
    if (error.empty()) check_red_zones();
    return error.empty();
  }

  void end_launch() {
    for (char& clock : end_.clocks) acquire(&clock);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(memory_.get(), kMemoryBytes);
#endif
  }

  // Gives up the fibers, which may be anywhere in a kernel.
  PYKERNELS_UNCHECKED void abandon() {
    for (; created_ > 0; --created_) {
      Fiber& fiber = threads_[created_ - 1].fiber;
#if defined(__SANITIZE_THREAD__)
      fiber.release_on_behalf(&end_.clocks[0]);
#endif
      fiber.destroy();
    }
    acquire(&end_.clocks[0]);
    error.clear();
  }

  // By the running thread: until the others are there too.
  PYKERNELS_UNCHECKED void wait(State state, const Site& site, uint64_t offered) {
    Thread& thread = *self;
    thread.state = state;
    thread.site = site;
    thread.offered = offered;
    thread.fiber.suspend();
  }

  // The same, where what the threads did so far is visible to all of them afterwards.
  PYKERNELS_UNCHECKED void wait(State state, const Site& site, uint64_t offered, Fence& fence) {
    char* clock = &fence.clocks[fence.passed % 2];
    release(clock);
    wait(state, site, offered);
    acquire(clock);
  }

  // By the running thread, which cannot go on.
  PYKERNELS_UNCHECKED [[noreturn]] void fail(const char* what, const Site& site) {
    failure_ = {what, site, self->number};
    self->fiber.suspend();
    std::abort();  // it is never resumed
  }

  Fence barrier;
  Warp warps[kMaxWarps];
  int votes = 0;  // how many threads brought a true value to the last barrier
  uint3 index = {};
  const Launch* launch = nullptr;
  unsigned char* shared = nullptr;
  std::string error;

 private:
  struct Failure {
    const char* what;
    Site site;
    int thread;
  };

  PYKERNELS_UNCHECKED static void run_fiber() noexcept {
    Thread& thread = *self;
    thread.fiber.entered();
    for (;;) {
      Block& block = *thread.block;
      acquire(&block.started_);
      acquire(&block.end_.clocks[(block.end_.passed + 1) % 2]);  // of the block that had this memory before
      block.launch->call(block.launch->arguments);
      release(&block.end_.clocks[block.end_.passed % 2]);
      thread.state = State::returned;
      thread.fiber.suspend();
    }
  }

  // As far as the warp gets without the others, so that it can be early and late by as much as a kernel
  // allows.
  PYKERNELS_UNCHECKED void run_warp(int warp, Order& order) {
    do {
      const int* lanes = order.of_lanes();
      for (int i = 0; i < kWarp; ++i) {
        Thread& thread = threads_[warp * kWarp + lanes[i]];
        if (thread.state != State::ready) continue;
        self = &thread;
        thread.fiber.resume();
        self = nullptr;
        if (failure_.what != nullptr) return report_failure();
      }
    } while (open_warp(warp));
  }

  // Lets the lanes that wait at a warp function go on; false if there are none.
  PYKERNELS_UNCHECKED bool open_warp(int number) {
    Thread* lanes = &threads_[number * kWarp];
    const int waiting = count(lanes, kWarp, State::at_warp_function);
    if (waiting == 0) return false;
    if (waiting < kWarp || !at_one_site(lanes, kWarp)) {
      report(format("a warp function is not reached by all 32 lanes of warp %d", number), lanes, kWarp);
      return false;
    }
    Warp& warp = warps[number];
    ++warp.fence.passed;
    for (int lane = 0; lane < kWarp; ++lane) {
      warp.values[lane] = lanes[lane].offered;
      lanes[lane].state = State::ready;
    }
    return true;
  }

  // The same for the barrier, once no warp can go on.
  PYKERNELS_UNCHECKED bool open_barrier() {
    Thread* threads = threads_.get();
    const int all = launch->threads;
    const int waiting = count(threads, all, State::at_barrier);
    if (waiting == 0) return false;
    if (waiting < all || !at_one_site(threads, all)) {
      report("a barrier is not reached by all threads of the block", threads, all);
      return false;
    }
    ++barrier.passed;
    votes = 0;
    for (int i = 0; i < all; ++i) {
      votes += threads[i].offered != 0;
      threads[i].state = State::ready;
    }
    return true;
  }

  PYKERNELS_UNCHECKED static int count(const Thread* threads, int all, State state) {
    int found = 0;
    for (int i = 0; i < all; ++i) found += threads[i].state == state;
    return found;
  }

  PYKERNELS_UNCHECKED static bool at_one_site(const Thread* threads, int all) {
    for (int i = 1; i < all; ++i)
      if (!same(threads[i].site, threads[0].site)) return false;
    return true;
  }

  // Tells how many of the threads are where.
  PYKERNELS_UNCHECKED void report(const std::string& what, const Thread* threads, int all) {
    error = what;
    const char* separator = ": ";
    for (int i = 0; i < all; ++i) {
      int alike = 0, first = i;
      for (int other = all - 1; other >= 0; --other) {
        if (!same_place(threads[i], threads[other])) continue;
        first = other;
        ++alike;
      }
      if (first < i) continue;
      error += separator + place(threads[i], alike);
      separator = ", ";
    }
  }

  PYKERNELS_UNCHECKED static bool same_place(const Thread& a, const Thread& b) {
    return a.state == b.state && (a.state == State::returned || same(a.site, b.site));
  }

  PYKERNELS_UNCHECKED static std::string place(const Thread& thread, int count) {
    if (thread.state == State::returned) return format("%d returned", count);
    const char* what = thread.state == State::at_barrier ? "barrier" : "warp function";
    return format("%d at the %s %s:%d", count, what, thread.site.file, thread.site.line);
  }

  PYKERNELS_UNCHECKED void report_failure() {
    const auto& [what, site, thread] = failure_;
    error = format("%s at %s:%d (thread %d)", what, site.file, site.line, thread);
    failure_ = {};
  }

  // Aligned to 16 bytes and no better, as is promised to kernels.
  void start_shared() {
    unsigned char* memory = memory_.get();
    shared = memory + kRedZone;
    while (reinterpret_cast<uintptr_t>(shared) % 32 != 16) ++shared;
    fill(shared - kRedZone, launch->shared_bytes + 2 * kRedZone);
#if defined(__SANITIZE_ADDRESS__)
    unsigned char* end = shared + launch->shared_bytes;
    __asan_poison_memory_region(memory, static_cast<size_t>(shared - memory));
    __asan_poison_memory_region(end, static_cast<size_t>(memory + kMemoryBytes - end));
#endif
  }

  PYKERNELS_UNCHECKED static void fill(volatile unsigned char* memory, size_t bytes) {
    auto* words = reinterpret_cast<volatile uint64_t*>(memory);
    for (size_t i = 0; i < bytes / 8; ++i) words[i] = kPoison.low;
    for (size_t i = bytes / 8 * 8; i < bytes; ++i) memory[i] = 0xff;
  }

  // AddressSanitizer watches the red zones itself.
  PYKERNELS_UNCHECKED void check_red_zones() {
#if !defined(__SANITIZE_ADDRESS__)
    const unsigned char* end = shared + launch->shared_bytes;
    for (size_t i = 0; i < kRedZone; ++i)
      if (shared[-1 - static_cast<ptrdiff_t>(i)] != 0xff || end[i] != 0xff) {
        error = format("a thread wrote outside of the shared memory, %zu bytes away from it", i + 1);
        return;
      }
#endif
  }

  // What happened before the release of a clock happens, for ThreadSanitizer, before what follows an
  // acquisition.
  PYKERNELS_UNCHECKED static void release([[maybe_unused]] void* clock) {
#if defined(__SANITIZE_THREAD__)
    __tsan_release(clock);
#endif
  }

  PYKERNELS_UNCHECKED static void acquire([[maybe_unused]] void* clock) {
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(clock);
#endif
  }

  std::unique_ptr<Thread[]> threads_;
  std::unique_ptr<unsigned char[]> memory_;
  int created_ = 0;  // fibers
  Failure failure_ = {};
  char started_;  // the clock of the launch
  Fence end_;     // of the block: who starts late does not come after those that ended early
};

}  // namespace emulator
}  // namespace pykernels
