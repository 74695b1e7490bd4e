// The launch of a grid: one block after the other, on the calling thread, within the limits of every GPU.
#pragma once

#include <cstdio>
#include <string>
#include <tuple>
#include <utility>

#include "block.h"

// Negative and overlong sizes, which CUDA would cut to 32 bits, become a size that no launch accepts.
struct dim3 {
  unsigned x, y, z;

  constexpr dim3(int64_t x = 1, int64_t y = 1, int64_t z = 1) : x(size(x)), y(size(y)), z(size(z)) {}

  constexpr operator uint3() const { return {x, y, z}; }

 private:
  static constexpr unsigned size(int64_t value) {
    return value < 0 || value > 0xffffffff ? 0xffffffffu : static_cast<unsigned>(value);
  }
};

using cudaStream_t = struct CUstream_st*;

namespace pykernels {
namespace emulator {

// ThreadSanitizer takes what two blocks do on the same fibers for ordered, which it is not. With two sets of
// fibers, used in the order of the Thue-Morse sequence, there are blocks at every distance that it does not
// take for ordered.
#if defined(__SANITIZE_THREAD__)
constexpr int kSets = 2;
#else
constexpr int kSets = 1;
#endif

// Of one thread of the system; the fibers are kept from launch to launch.
struct Machine {
  Block blocks[kSets];
  Order order;
  std::string error;
  std::string taken_error;

  void keep_error(const std::string& text) {
    std::fprintf(stderr, "pykernels emulator: %s\n", text.c_str());
    if (error.empty()) error = text;
  }
};

inline Machine& machine() {
  static thread_local Machine machine;
  return machine;
}

// The first error of this thread's launches since the last call, or nullptr; valid until the next call.
inline const char* take_last_error() {
  Machine& m = machine();
  m.taken_error = std::exchange(m.error, {});
  return m.taken_error.empty() ? nullptr : m.taken_error.c_str();
}

inline const char* invalid(const dim3& grid, const dim3& block, size_t shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return "the grid is empty";
  if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return "the grid is too large";
  if (threads == 0) return "the block is empty";
  if (block.x > kMaxThreads || block.y > kMaxThreads || block.z > 64) return "the block is too large";
  if (threads > kMaxThreads) return "the block is too large";
  if (threads % kWarp != 0) return "the block is not made of whole warps";
  if (shared_bytes > kMaxSharedBytes) return "more than 48 KB of shared memory";
  return nullptr;
}

inline uint3 block_index(int64_t number, uint3 grid) {
  const int64_t row = number / grid.x;
  return {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(row % grid.y),
          static_cast<unsigned>(row / grid.y)};
}

inline void run_grid(Machine& m, const Launch& launch) {
  const int64_t blocks = int64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  m.order.start_launch(blocks, launch.threads / kWarp);
  for (Block& block : m.blocks) block.start_launch(launch);
  for (int64_t turn = 0; turn < blocks; ++turn) {
    const uint3 at = block_index(m.order.block(turn), launch.grid);
    Block& block = m.blocks[__builtin_parityll(static_cast<uint64_t>(turn)) % kSets];
    if (block.run(at, m.order)) continue;
    m.keep_error(format("%s, block (%u, %u, %u): %s", launch.kernel, at.x, at.y, at.z, block.error.c_str()));
    block.abandon();
    break;
  }
  for (Block& block : m.blocks) block.end_launch();
}

inline std::string describe(const char* kernel, const dim3& grid, const dim3& block, size_t shared_bytes) {
  return format("%s, grid (%u, %u, %u), block (%u, %u, %u), %zu bytes of shared memory", kernel, grid.x,
                grid.y, grid.z, block.x, block.y, block.z, shared_bytes);
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t /*stream*/, Arguments&&... arguments) {
  Machine& m = machine();
  if (const char* reason = invalid(grid, block, shared_bytes))
    return m.keep_error(describe(name, grid, block, shared_bytes) + ": invalid configuration: " + reason);
  const char* order = std::getenv("PYKERNELS_EMULATOR_ORDER");
  if (!m.order.choose(order))
    return m.keep_error(format("PYKERNELS_EMULATOR_ORDER=%s: not forward, reverse or random:<seed>", order));
  // As in a launch on a GPU, the arguments are evaluated once, and each thread has its own copies.
  const std::pair<void (*)(Parameters...), std::tuple<Parameters...>> call{kernel, {arguments...}};
  using Call = decltype(call);
  const auto run_thread = [](const void* data) {
    const Call& launched = *static_cast<const Call*>(data);
    std::apply(launched.first, launched.second);
  };
  const int threads = static_cast<int>(block.x * block.y * block.z);
  run_grid(m, {name, grid, block, threads, shared_bytes, run_thread, &call});
}

}  // namespace emulator
}  // namespace pykernels
