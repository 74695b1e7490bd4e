// Kernels that the emulator has to run right, in every order and under every sanitizer. `selftest right` runs
// them all, `selftest <name>` one of these or of the mistakes, `selftest after_errors` tries whether launches
// recover. The exit status is 3 after an error of a launch, 4 after wrong results.
#include "selftest.h"

#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "core/cuda_kernel.h"
#include "core/inline.h"

namespace pykernels {
namespace {

PYKERNELS_INLINE int64_t divide_up(int64_t count, int64_t by) { return (count + by - 1) / by; }

PYKERNELS_DEVICE float warp_sum(float value) {
  PYKERNELS_UNROLL
  for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(kWholeWarp, value, bits);
  return value;
}

// One sum for each block, of `each` numbers for each thread.
template <int each>
__global__ void __launch_bounds__(128) sum(const float* __restrict__ x, float* __restrict__ sums, int count) {
  PYKERNELS_SHARED(float, part);
  const int thread = threadIdx.x, first = (blockIdx.x * blockDim.x + thread) * each;
  float value = 0;
  PYKERNELS_UNROLL_BY(2)
  for (int i = first; i < first + each; ++i) value += i < count ? x[i] : 0;
  value = warp_sum(value);
  if (thread % 32 == 0) part[thread / 32] = value;
  __syncthreads();
  if (thread < 32) {
    value = warp_sum(thread < 4 ? part[thread] : 0);
    if (thread == 0) sums[blockIdx.x] = value;
  }
}

bool sum_is_right() {
  const int count = 10000, blocks = static_cast<int>(divide_up(count, 3 * 128));
  std::vector<float> x(count), sums(blocks);
  for (int i = 0; i < count; ++i) x[i] = static_cast<float>(i % 100);
  PYKERNELS_LAUNCH((sum<3>), blocks, 128, 4 * sizeof(float), nullptr, x.data(), sums.data(), count);
  float total = 0;
  for (float s : sums) total += s;
  return total == 495000;
}

// Adds up tiles of 4 numbers for each thread, copied one tile ahead, and read by other threads than those
// that copied them.
__global__ void pipeline(const float* x, float* out, int tiles) {
  PYKERNELS_SHARED(float, buffers);
  const int thread = threadIdx.x, threads = blockDim.x, size = 4 * threads;
  async_copy16(buffers + 4 * thread, x + 4 * thread);
  async_commit();
  float value = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      async_copy16(buffers + (tile + 1) % 2 * size + 4 * thread, x + (tile + 1) * size + 4 * thread);
      async_commit();
      async_wait<1>();
    } else {
      async_wait<0>();
    }
    __syncthreads();
    for (int i = 0; i < 4; ++i) value += buffers[tile % 2 * size + i * threads + threads - 1 - thread];
    __syncthreads();
  }
  out[thread] = value;
}

bool pipeline_is_right() {
  const int tiles = 5, threads = 64;
  std::vector<float4> x(tiles * threads);
  for (int i = 0; i < tiles * threads; ++i) x[i] = make_float4(1, 2, 4, i);
  std::vector<float> out(threads);
  PYKERNELS_LAUNCH(pipeline, 1, threads, 2 * threads * sizeof(float4), nullptr, &x[0].x, out.data(), tiles);
  for (int thread = 0; thread < threads; ++thread) {
    float expected = 0;
    for (int tile = 0; tile < tiles; ++tile)
      for (int i = 0; i < 4; ++i) expected += (&x[tile * threads].x)[i * threads + threads - 1 - thread];
    if (out[thread] != expected) return false;
  }
  return true;
}

__global__ void votes(int* out) {
  const int thread = threadIdx.x;
  const bool agree = __syncthreads_count(thread % 3 == 0) == 22 && __syncthreads_or(thread == 63) &&
                     !__syncthreads_or(thread > 63) && __syncthreads_and(thread < 64) &&
                     !__syncthreads_and(thread < 63) &&
                     __ballot_sync(kWholeWarp, thread % 4 == 1) == 0x22222222u &&
                     __any_sync(kWholeWarp, thread % 32 == 7) && !__any_sync(kWholeWarp, thread > 63) &&
                     __all_sync(kWholeWarp, thread < 64) && !__all_sync(kWholeWarp, thread % 32 < 31);
  out[thread] = agree;
}

bool votes_are_right() {
  std::vector<int> out(64, 0);
  PYKERNELS_LAUNCH(votes, 1, 64, 0, nullptr, out.data());
  for (int right : out)
    if (!right) return false;
  return true;
}

template <class T> __global__ void shuffles(T* out) {
  const T lane = static_cast<T>(threadIdx.x % 32);
  const T last = __shfl_sync(kWholeWarp, lane, 31), next = __shfl_down_sync(kWholeWarp, lane, 1);
  const T neighbour = __shfl_xor_sync(kWholeWarp, lane, 1);
  out[threadIdx.x] = last * 10000 + next * 100 + neighbour;
}

template <class T> bool shuffles_are_right() {
  std::vector<T> out(96);
  PYKERNELS_LAUNCH(shuffles<T>, 1, 96, 0, nullptr, out.data());
  for (int thread = 0; thread < 96; ++thread) {
    const int lane = thread % 32;
    if (out[thread] != static_cast<T>(310000 + 100 * (lane < 31 ? lane + 1 : 31) + (lane ^ 1))) return false;
  }
  return true;
}

bool all_shuffles_are_right() {
  return shuffles_are_right<int>() && shuffles_are_right<float>() && shuffles_are_right<double>() &&
         shuffles_are_right<int64_t>() && shuffles_are_right<unsigned>();
}

// Lanes hand on values through shared memory, with nothing but __syncwarp between them.
__global__ void rotate(int* out) {
  PYKERNELS_SHARED(int, values);
  const int thread = threadIdx.x, next = thread / 32 * 32 + (thread + 1) % 32;
  values[thread] = thread;
  for (int times = 0; times < 3; ++times) {
    __syncwarp();
    const int value = values[next];
    __syncwarp();
    values[thread] = value;
  }
  out[thread] = values[thread];
}

bool rotate_is_right() {
  std::vector<int> out(64);
  PYKERNELS_LAUNCH(rotate, 1, 64, 64 * sizeof(int), nullptr, out.data());
  for (int thread = 0; thread < 64; ++thread)
    if (out[thread] != thread / 32 * 32 + (thread + 3) % 32) return false;
  return true;
}

__global__ void indices(int* out) {
  const auto t = threadIdx, b = blockIdx;
  const auto threads = blockDim, blocks = gridDim;
  const int block = b.x + blocks.x * (b.y + blocks.y * b.z);
  const int thread = t.x + threads.x * (t.y + threads.y * t.z);
  out[block * threads.x * threads.y * threads.z + thread] = thread;
}

bool indices_are_right() {
  std::vector<int> out(2 * 3 * 4 * 64, -1);
  PYKERNELS_LAUNCH(indices, dim3(2, 3, 4), dim3(8, 4, 2), 0, nullptr, out.data());
  for (size_t i = 0; i < out.size(); ++i)
    if (out[i] != static_cast<int>(i % 64)) return false;
  return true;
}

// Counts the floats of shared memory that are NaN before anything was written; then writes to all of them.
__global__ void count_nan(int* out, int count) {
  PYKERNELS_SHARED(float, values);
  int found = 0;
  for (int i = 0; i < count; ++i) found += std::isnan(values[i]);
  if (threadIdx.x == 0) out[blockIdx.x] = found;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += blockDim.x) values[i] = 0;
}

bool shared_is_fresh() {
  std::vector<int> out(9);
  PYKERNELS_LAUNCH(count_nan, 9, 32, 101 * sizeof(float), nullptr, out.data(), 101);
  for (int found : out)
    if (found != 101) return false;
  return true;
}

__global__ void exp2_of(const float* x, float* y) { y[threadIdx.x] = fast_exp2(x[threadIdx.x]); }

bool exp2_is_right() {
  std::vector<float> x(32, 0), y(32);
  x[0] = -126;
  x[1] = -126.5f;
  x[2] = 10;
  x[3] = -INFINITY;
  x[4] = NAN;
  PYKERNELS_LAUNCH(exp2_of, 1, 32, 0, nullptr, x.data(), y.data());
  return y[0] == FLT_MIN && y[1] == 0 && y[2] == 1024 && y[3] == 0 && std::isnan(y[4]) && y[5] == 1;
}

bool threads_of_the_system_are_independent() {
  bool right[2];
  std::thread first([&] { right[0] = sum_is_right() && pipeline_is_right(); });
  std::thread second([&] { right[1] = pipeline_is_right() && sum_is_right(); });
  first.join();
  second.join();
  return right[0] && right[1];
}

// Errors are kept until they are asked for, and leave nothing behind that would harm the next launch.
bool goes_on_after_errors() {
  for (int i = 0; i < kMistakeCount; ++i) {
    if (std::strncmp(kMistakes[i].name, "error_", 6) != 0) continue;
    kMistakes[i].is_right();
    sum_is_right();
    if (emulator::take_last_error() == nullptr || emulator::take_last_error() != nullptr) return false;
    if (!sum_is_right() || !pipeline_is_right()) return false;
  }
  return true;
}

const Scenario kRight[] = {
    {"sum", sum_is_right},
    {"pipeline", pipeline_is_right},
    {"votes", votes_are_right},
    {"shuffles", all_shuffles_are_right},
    {"rotate", rotate_is_right},
    {"indices", indices_are_right},
    {"fresh_shared", shared_is_fresh},
    {"exp2", exp2_is_right},
    {"system_threads", threads_of_the_system_are_independent},
};

int run(const Scenario& scenario) {
  const bool right = scenario.is_right();
  if (emulator::take_last_error() != nullptr) return 3;
  if (!right) std::fprintf(stderr, "wrong results: %s\n", scenario.name);
  return right ? 0 : 4;
}

int run(const char* name) {
  const bool all = std::strcmp(name, "right") == 0;
  int result = 2;
  for (const Scenario& scenario : kRight)
    if (all || std::strcmp(name, scenario.name) == 0) {
      result = run(scenario);
      if (result != 0) return result;
    }
  for (int i = 0; i < kMistakeCount; ++i)
    if (std::strcmp(name, kMistakes[i].name) == 0) result = run(kMistakes[i]);
  if (std::strcmp(name, "after_errors") == 0) result = run({name, goes_on_after_errors});
  return result;
}

}  // namespace
}  // namespace pykernels

int main(int count, char** arguments) { return count == 2 ? pykernels::run(arguments[1]) : 2; }
