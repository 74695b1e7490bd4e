// Kernels and launches with one mistake each. Those named error_ end in an error of the emulator, whatever
// they are compiled with; those named value_ show by wrong results; AddressSanitizer finds those named
// address_, and ThreadSanitizer those named race_.
#include <cstdint>
#include <vector>

#include "core/cuda_kernel.h"
#include "selftest.h"

namespace pykernels {
namespace {

constexpr int kThreads = 64;
constexpr size_t kBytes = kThreads * sizeof(float4);

float4 input[4 * kThreads];
float output[4 * kThreads];

PYKERNELS_DEVICE float warp_sum(float value) {
  for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(kWholeWarp, value, bits);
  return value;
}

// Launches and says whether each number of the output is the expected one.
template <class... Parameters, class... Arguments>
bool gives(float expected, void (*kernel)(Parameters...), Arguments... arguments) {
  for (float4& x : input) x = make_float4(1, 1, 1, 1);
  for (float& y : output) y = -1;
  PYKERNELS_LAUNCH(kernel, 1, kThreads, 2 * kBytes, nullptr, arguments...);
  for (int i = 0; i < kThreads; ++i)
    if (output[i] != expected) return false;
  return true;
}

// Who waits where.

__global__ void barrier_in_branch() {
  if (threadIdx.x < 50) __syncthreads();
}

__global__ void two_barriers() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void return_before_barrier() {
  if (threadIdx.x >= 40) return;
  __syncthreads();
}

__global__ void barrier_and_shuffle(float* y) {
  if (threadIdx.x % 32 == 5)
    __syncthreads();
  else
    y[threadIdx.x] = __shfl_sync(kWholeWarp, 1.0f, 0);
}

__global__ void lanes_missing(float* y) {
  if (threadIdx.x % 32 < 31) y[threadIdx.x] = __shfl_xor_sync(kWholeWarp, 1.0f, 1);
}

__global__ void two_shuffles(float* y) {
  y[threadIdx.x] = threadIdx.x % 2 == 0 ? __shfl_xor_sync(kWholeWarp, 1.0f, 1)
                                        : __shfl_xor_sync(kWholeWarp, 2.0f, 1);
}

__global__ void part_of_warp(float* y) { y[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 1); }

// Asynchronous copies.

enum Mistake { weak_wait, no_commit, no_wait, no_barrier_after_wait, no_barrier_at_reuse };

// Each thread sums two tiles, copied one tile ahead into the same two buffers, of what its neighbour copied.
template <Mistake mistake> __global__ void pipeline(const float4* x, float* y) {
  PYKERNELS_SHARED(float4, buffers);
  const int thread = threadIdx.x, neighbour = (thread + 32) % kThreads;
  float sum = 0;
  async_copy16(buffers + thread, x + thread);
  if (mistake != no_commit) async_commit();
  for (int tile = 0; tile < 4; ++tile) {
    if (tile < 3) {
      async_copy16(buffers + (tile + 1) % 2 * kThreads + thread, x + (tile + 1) * kThreads + thread);
      if (mistake != no_commit) async_commit();
    }
    if (mistake == weak_wait) {
      async_wait<1>();
    } else if (mistake != no_wait) {
      if (tile < 3)
        async_wait<1>();
      else
        async_wait<0>();
    }
    if (mistake != no_barrier_after_wait) __syncthreads();
    sum += buffers[tile % 2 * kThreads + neighbour].x;
    if (mistake != no_barrier_at_reuse) __syncthreads();
  }
  y[thread] = sum;
}

__global__ void misaligned_copy(const float4* x) {
  PYKERNELS_SHARED(float, buffer);
  async_copy16(buffer + 4 * threadIdx.x + 1, x + threadIdx.x);
}

__global__ void copy_from_misaligned(const float4* x) {
  PYKERNELS_SHARED(float4, buffer);
  async_copy16(buffer + threadIdx.x, &x[threadIdx.x].y);
}

__global__ void copy_beyond_shared(const float4* x) {
  PYKERNELS_SHARED(float4, buffer);
  async_copy16(buffer + 2 * threadIdx.x + 2, x + threadIdx.x);
}

__global__ void too_many_copies(const float4* x) {
  PYKERNELS_SHARED(float4, buffer);
  for (int i = 0; i < 100; ++i) async_copy16(buffer + threadIdx.x, x + threadIdx.x);
}

__global__ void source_changed(float4* x) {
  PYKERNELS_SHARED(float4, buffer);
  async_copy16(buffer + threadIdx.x, x + threadIdx.x);
  async_commit();
  x[threadIdx.x].z = 7;
  async_wait<0>();
}

__global__ void target_written(const float4* x) {
  PYKERNELS_SHARED(float4, buffer);
  async_copy16(buffer + threadIdx.x, x + threadIdx.x);
  async_commit();
  buffer[threadIdx.x].z = 0;
  async_wait<0>();
}

// Memory.

__global__ void write_beyond_shared() {
  PYKERNELS_SHARED(float4, buffer);
  buffer[2 * threadIdx.x + 2] = make_float4(0, 0, 0, 0);
}

__global__ void write_before_shared() {
  PYKERNELS_SHARED(float, buffer);
  buffer[static_cast<int>(threadIdx.x) - 1] = 0;
}

__global__ void read_beyond_shared(float* y) {
  PYKERNELS_SHARED(float, buffer);
  const int thread = threadIdx.x, last = static_cast<int>(2 * kBytes / sizeof(float)) - 1;
  if (thread == 0) buffer[last] = 0;
  __syncthreads();
  y[thread] = buffer[last + thread / (kThreads - 1)];
}

__global__ void read_unwritten(float* y) {
  PYKERNELS_SHARED(float, buffer);
  y[threadIdx.x] = buffer[threadIdx.x];
}

// The results are right, in the order that the warps have here.
__global__ void no_barrier_between_warps(float* y) {
  PYKERNELS_SHARED(float, sums);
  const int thread = threadIdx.x;
  const float sum = warp_sum(1);
  if (thread % 32 == 0) sums[thread / 32] = sum;
  y[thread] = 32;
  if (thread == kThreads - 1) y[thread] = sums[0];
}

// All write the same value: right by luck, and no order makes it wrong.
__global__ void all_write_one_place(float* y) {
  PYKERNELS_SHARED(float, buffer);
  buffer[0] = 1;
  __syncthreads();
  y[threadIdx.x] = buffer[0];
}

// The exchange of values does not make the write visible to the other lanes.
__global__ void shuffle_for_a_fence(float* y) {
  PYKERNELS_SHARED(float, buffer);
  const int thread = threadIdx.x;
  buffer[thread] = 1;
  const int source = __shfl_xor_sync(kWholeWarp, thread, 1);
  y[thread] = buffer[source];
}

__global__ void blocks_write_one_place(float* y) { y[threadIdx.x] = 1; }

__global__ void nothing() {}

bool launch(dim3 grid, dim3 block, size_t shared_bytes) {
  PYKERNELS_LAUNCH(nothing, grid, block, shared_bytes, nullptr);
  return true;
}

bool two_blocks() {
  PYKERNELS_LAUNCH(blocks_write_one_place, 2, kThreads, 0, nullptr, output);
  return output[kThreads - 1] == 1;
}

}  // namespace
}  // namespace pykernels

using namespace pykernels;

const Scenario kMistakes[] = {
    {"error_barrier_in_branch", [] { return gives(-1, barrier_in_branch); }},
    {"error_two_barriers", [] { return gives(-1, two_barriers); }},
    {"error_return_before_barrier", [] { return gives(-1, return_before_barrier); }},
    {"error_barrier_and_shuffle", [] { return gives(1, barrier_and_shuffle, output); }},
    {"error_lanes_missing", [] { return gives(1, lanes_missing, output); }},
    {"error_two_shuffles", [] { return gives(1, two_shuffles, output); }},
    {"error_part_of_warp", [] { return gives(1, part_of_warp, output); }},
    {"error_misaligned_copy", [] { return gives(-1, misaligned_copy, input); }},
    {"error_copy_from_misaligned", [] { return gives(-1, copy_from_misaligned, input); }},
    {"error_copy_beyond_shared", [] { return gives(-1, copy_beyond_shared, input); }},
    {"error_too_many_copies", [] { return gives(-1, too_many_copies, input); }},
    {"error_source_changed", [] { return gives(-1, source_changed, input); }},
    {"error_target_written", [] { return gives(-1, target_written, input); }},
    {"error_empty_grid", [] { return launch(0, 32, 0); }},
    {"error_large_grid", [] { return launch(dim3(1, 65536), 32, 0); }},
    {"error_overlong_grid", [] { return launch(dim3(int64_t{1} << 32), 32, 0); }},
    {"error_empty_block", [] { return launch(1, 0, 0); }},
    {"error_large_block", [] { return launch(1, 1056, 0); }},
    {"error_part_of_warp_in_block", [] { return launch(1, 48, 0); }},
    {"error_much_shared_memory", [] { return launch(1, 32, (48 << 10) + 1); }},
    {"value_weak_wait", [] { return gives(4, pipeline<weak_wait>, input, output); }},
    {"value_no_commit", [] { return gives(4, pipeline<no_commit>, input, output); }},
    {"value_no_wait", [] { return gives(4, pipeline<no_wait>, input, output); }},
    {"value_read_unwritten", [] { return gives(0, read_unwritten, output); }},
    {"address_write_beyond_shared", [] { return gives(-1, write_beyond_shared); }},
    {"address_write_before_shared", [] { return gives(-1, write_before_shared); }},
    {"address_read_beyond_shared", [] { return gives(0, read_beyond_shared, output); }},
    {"race_no_barrier_after_wait", [] { return gives(4, pipeline<no_barrier_after_wait>, input, output); }},
    {"race_no_barrier_at_reuse", [] { return gives(4, pipeline<no_barrier_at_reuse>, input, output); }},
    {"race_no_barrier_between_warps", [] { return gives(32, no_barrier_between_warps, output); }},
    {"race_all_write_one_place", [] { return gives(1, all_write_one_place, output); }},
    {"race_shuffle_for_a_fence", [] { return gives(1, shuffle_for_a_fence, output); }},
    {"race_two_blocks", two_blocks},
};
const int kMistakeCount = sizeof kMistakes / sizeof *kMistakes;
