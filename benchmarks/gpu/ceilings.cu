// What this GPU can do at most, by loops whose operations are counted: multiply-adds in float32 and float64, base-2
// exponentials, bytes copied, launches. Prints JSON; without a GPU it says so and exits with 3.
//
//   nvcc -O3 -std=c++17 -arch=native ceilings.cu -o ceilings && ./ceilings
#include <cuda_runtime.h>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr int kThreads = 256, kBlocksPerMultiprocessor = 8;  // 2048 threads: all that fit
constexpr int kChains = 16;                                  // independent results that a thread works on
constexpr int kRounds = 16384, kRepeats = 10;
constexpr size_t kBytes = size_t{2} << 30;

void check(cudaError_t error, int line) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "ceilings.cu, line %d: %s\n", line, cudaGetErrorString(error));
  std::exit(1);
}
#define CHECK(call) check(call, __LINE__)

struct MultiplyAdd {
  template <class T> static __device__ T step(T x, T factor, T term) { return x * factor + term; }
};

struct Exponential {
  static __device__ float step(float x, float, float) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
};

// kChains * kRounds operations of each thread. What is stored never is, but the compiler cannot know that.
template <class T, class Operation>
__global__ void __launch_bounds__(kThreads) loop(T* out, T factor, T term, long long* cycles) {
  T x[kChains];
  for (int chain = 0; chain < kChains; ++chain) x[chain] = T(threadIdx.x + chain) * term;
  const long long start = clock64();
#pragma unroll 16
  for (int round = 0; round < kRounds; ++round)
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain) x[chain] = Operation::step(x[chain], factor, term);
  const long long end = clock64();
  T sum = 0;
  for (int chain = 0; chain < kChains; ++chain) sum += x[chain];
  if (sum == T(12345)) out[threadIdx.x] = sum;
  if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = end - start;
}

__global__ void nothing() {}

struct Timer {
  cudaEvent_t start, end;
  Timer() {
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&end));
  }
  // The least seconds of some calls, after one that warms up.
  template <class Call> double seconds(const Call& call) {
    double least = 1e30;
    for (int repeat = 0; repeat <= kRepeats; ++repeat) {
      CHECK(cudaEventRecord(start));
      call();
      CHECK(cudaGetLastError());
      CHECK(cudaEventRecord(end));
      CHECK(cudaEventSynchronize(end));
      float taken;
      CHECK(cudaEventElapsedTime(&taken, start, end));
      if (repeat > 0 && taken * 1e-3 < least) least = taken * 1e-3;
    }
    return least;
  }
};

}  // namespace

int main() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    std::fprintf(stderr, "no GPU: %s\n", error == cudaSuccess ? "none found" : cudaGetErrorString(error));
    return 3;
  }
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  char *from, *to;
  long long *cycles, taken = 0;
  CHECK(cudaMalloc(&from, kBytes));
  CHECK(cudaMalloc(&to, kBytes));
  CHECK(cudaMalloc(&cycles, sizeof *cycles));
  CHECK(cudaMemset(from, 1, kBytes));
  Timer timer;
  const int blocks = device.multiProcessorCount * kBlocksPerMultiprocessor;
  const double operations = double(blocks) * kThreads * kChains * kRounds;
  const double single = timer.seconds(
      [&] { loop<float, MultiplyAdd><<<blocks, kThreads>>>(reinterpret_cast<float*>(to), 0.5f, 1e-3f, cycles); });
  CHECK(cudaMemcpy(&taken, cycles, sizeof taken, cudaMemcpyDeviceToHost));
  const double exponentials = timer.seconds(
      [&] { loop<float, Exponential><<<blocks, kThreads>>>(reinterpret_cast<float*>(to), 0.f, -1e-3f, cycles); });
  const double twice = timer.seconds(
      [&] { loop<double, MultiplyAdd><<<blocks, kThreads>>>(reinterpret_cast<double*>(to), 0.5, 1e-3, cycles); });
  const double copy = timer.seconds([&] { cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice); });
  constexpr int kLaunches = 1000;
  const double launches = timer.seconds([&] {
    for (int launch = 0; launch < kLaunches; ++launch) nothing<<<1, 32>>>();
  });
  std::printf("{\"device\": \"%s\", \"multiprocessors\": %d, \"clock_hz\": %.4g,\n", device.name,
              device.multiProcessorCount, double(taken) / single);
  std::printf(" \"fma_per_s\": %.5g, \"exp2_per_s\": %.5g, \"fma64_per_s\": %.5g,\n", operations / single,
              operations / exponentials, operations / twice);
  std::printf(" \"copy_bytes_per_s\": %.5g, \"launch_s\": %.4g}\n", 2 * double(kBytes) / copy,
              launches / kLaunches);
  return 0;
}
