// CUDA's words for g++: kernels that include core/cuda_kernel.h run on the host, each thread of a block as a
// fiber. What such a run finds is listed in selftest_mistakes.cpp; errors are printed, and kept for
// take_last_error(). Not to be found: threads that wait for each other other than at barriers (they hang),
// races where no value is wrong (without ThreadSanitizer), and what only a GPU has, such as bank conflicts
// and too many registers.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "launch.h"

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define PYKERNELS_SHARED(T, name) T* name = reinterpret_cast<T*>(pykernels::emulator::shared_memory())
#define PYKERNELS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  pykernels::emulator::launch(#kernel, kernel, grid, block, shared_bytes, stream, ##__VA_ARGS__)
#define PYKERNELS_UNROLL
#define PYKERNELS_UNROLL_BY(count)
#define PYKERNELS_DEVICE static inline __attribute__((always_inline))

#define threadIdx (pykernels::emulator::thread_index())
#define blockIdx (pykernels::emulator::own_block_index())
#define blockDim (pykernels::emulator::block_size())
#define gridDim (pykernels::emulator::grid_size())

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
PYKERNELS_DEVICE float2 make_float2(float x, float y) { return {x, y}; }
PYKERNELS_DEVICE float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
PYKERNELS_DEVICE double2 make_double2(double x, double y) { return {x, y}; }

namespace pykernels {
namespace emulator {

PYKERNELS_UNCHECKED inline uint3 thread_index() { return self->index; }
PYKERNELS_UNCHECKED inline uint3 own_block_index() { return self->block->index; }
PYKERNELS_UNCHECKED inline uint3 block_size() { return self->block->launch->block; }
PYKERNELS_UNCHECKED inline uint3 grid_size() { return self->block->launch->grid; }
PYKERNELS_UNCHECKED inline unsigned char* shared_memory() { return self->block->shared; }

// How many threads of the block bring a true value.
PYKERNELS_UNCHECKED inline int pass_barrier(bool vote, Site site) {
  Block& block = *self->block;
  block.wait(State::at_barrier, site, vote, block.barrier);
  return block.votes;
}

PYKERNELS_UNCHECKED inline Warp& own_warp() { return self->block->warps[self->number / kWarp]; }

PYKERNELS_UNCHECKED inline void require_whole_warp(unsigned mask, Site site) {
  if (mask != 0xffffffffu) self->block->fail("a warp function for a part of the warp", site);
}

// Like CUDA's, an exchange of values does not order memory: only barriers and __syncwarp do.
PYKERNELS_UNCHECKED inline Warp& exchange(unsigned mask, uint64_t value, Site site) {
  require_whole_warp(mask, site);
  self->block->wait(State::at_warp_function, site, value);
  return own_warp();
}

PYKERNELS_UNCHECKED inline unsigned ballot(unsigned mask, bool vote, Site site) {
  const Warp& warp = exchange(mask, vote, site);
  unsigned bits = 0;
  for (int lane = 0; lane < kWarp; ++lane) bits |= static_cast<unsigned>(warp.values[lane]) << lane;
  return bits;
}

// source(lane) is the lane whose value the lane gets.
template <class T, class Source>
PYKERNELS_UNCHECKED T shuffle(unsigned mask, T value, Source source, Site site) {
  static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8), "not a type to shuffle");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const Warp& warp = exchange(mask, bits, site);
  std::memcpy(&value, &warp.values[source(self->number % kWarp)], sizeof(T));
  return value;
}

}  // namespace emulator
}  // namespace pykernels

// The defaults of the last two arguments are the place of the call.
#define PYKERNELS_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(PYKERNELS_SITE) { pykernels::emulator::pass_barrier(false, {file, line}); }

inline int __syncthreads_count(int vote, PYKERNELS_SITE) {
  return pykernels::emulator::pass_barrier(vote != 0, {file, line});
}

inline int __syncthreads_or(int vote, PYKERNELS_SITE) {
  return pykernels::emulator::pass_barrier(vote != 0, {file, line}) != 0;
}

inline int __syncthreads_and(int vote, PYKERNELS_SITE) {
  return pykernels::emulator::pass_barrier(vote == 0, {file, line}) == 0;
}

PYKERNELS_UNCHECKED inline void __syncwarp(unsigned mask = 0xffffffffu, PYKERNELS_SITE) {
  using namespace pykernels::emulator;
  require_whole_warp(mask, {file, line});
  self->block->wait(State::at_warp_function, {file, line}, 0, own_warp().fence);
}

inline unsigned __ballot_sync(unsigned mask, int vote, PYKERNELS_SITE) {
  return pykernels::emulator::ballot(mask, vote != 0, {file, line});
}

inline int __any_sync(unsigned mask, int vote, PYKERNELS_SITE) {
  return __ballot_sync(mask, vote, file, line) != 0;
}

PYKERNELS_DEVICE int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline int __all_sync(unsigned mask, int vote, PYKERNELS_SITE) {
  return __ballot_sync(mask, vote, file, line) == 0xffffffffu;
}

// Over the whole warp only: there is no argument for the width.
template <class T> T __shfl_sync(unsigned mask, T value, int source, PYKERNELS_SITE) {
  const auto same_source = [=](int) { return source & 31; };
  return pykernels::emulator::shuffle(mask, value, same_source, {file, line});
}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, PYKERNELS_SITE) {
  const auto source = [=](int lane) { return (lane ^ bits) & 31; };
  return pykernels::emulator::shuffle(mask, value, source, {file, line});
}

template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, PYKERNELS_SITE) {
  const auto source = [=](unsigned lane) { return lane + by < 32 ? lane + by : lane; };
  return pykernels::emulator::shuffle(mask, value, source, {file, line});
}

namespace pykernels {
namespace emulator {

PYKERNELS_UNCHECKED inline void check_copy(const void* shared, const void* global, Site site) {
  Block& block = *self->block;
  const auto from = reinterpret_cast<uintptr_t>(global), to = reinterpret_cast<uintptr_t>(shared);
  const auto memory = reinterpret_cast<uintptr_t>(block.shared);
  if (from % 16 != 0 || to % 16 != 0) block.fail("an asynchronous copy is not aligned to 16 bytes", site);
  if (to < memory || to + 16 > memory + block.launch->shared_bytes)
    block.fail("an asynchronous copy goes outside of the shared memory", site);
  if (self->copies.full()) block.fail("too many asynchronous copies are under way for the emulator", site);
}

PYKERNELS_UNCHECKED inline CopyQueue& own_copies() { return self->copies; }

[[noreturn]] PYKERNELS_UNCHECKED inline void fail(const char* what, Site site) {
  self->block->fail(what, site);
}

}  // namespace emulator

PYKERNELS_DEVICE float fast_exp2(float x) {
  const float y = exp2f(x);
  return y < FLT_MIN ? 0.0f : y;
}

// A copy may take place at any time until it is waited for. So until then its target holds NaN, the source is
// read both now and then, and it is an error if either changes. The sanitizers see all of these accesses.
PYKERNELS_DEVICE void async_copy16(void* shared, const void* global, PYKERNELS_SITE) {
  emulator::check_copy(shared, global, {file, line});
  auto* to = static_cast<emulator::Bytes16*>(shared);
  const auto* from = static_cast<const emulator::Bytes16*>(global);
  const emulator::Bytes16 first_read = *from;
  *to = emulator::kPoison;
  emulator::own_copies().begin({to, from, first_read, {file, line}});
}

PYKERNELS_DEVICE void async_commit() { emulator::own_copies().close_group(); }

template <int groups> PYKERNELS_DEVICE void async_wait() {
  static_assert(groups >= 0, "groups are counted");
  for (emulator::Copy copy; emulator::own_copies().land(groups, &copy);) {
    const emulator::Bytes16 value = *copy.global;
    if (!(value == copy.first_read))
      emulator::fail("the source changed during an asynchronous copy begun", copy.site);
    if (!(*copy.shared == emulator::kPoison))
      emulator::fail("the target was written during an asynchronous copy begun", copy.site);
    *copy.shared = value;
  }
}

}  // namespace pykernels

#undef PYKERNELS_SITE
