// The part of CUDA that kernels may use, in words that nvcc compiles for a GPU and g++ for the host emulator
// of the tests (tests/emulator). Rules that make the second possible, and bugs visible there:
//
//   - inline PTX, asynchronous copies and approximate functions only in this file;
//   - a kernel has one dynamic shared array, declared by PYKERNELS_SHARED, and is started by
//   PYKERNELS_LAUNCH;
//   - blocks are whole warps; barriers and warp functions take all threads, at one place, so nobody returns
//   before one;
//   - threadIdx and blockIdx are read once, at the top;
//   - fused multiply-adds are written out, so that both compilers round alike.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#include <cstdint>

#define PYKERNELS_SHARED(T, name)                                \
  extern __shared__ __align__(16) unsigned char shared_bytes_[]; \
  T* name = reinterpret_cast<T*>(shared_bytes_)
#define PYKERNELS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (kernel)<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define PYKERNELS_UNROLL _Pragma("unroll")
#define PYKERNELS_UNROLL_BY(count) _Pragma(PYKERNELS_PRAGMA_TEXT_(unroll count))
#define PYKERNELS_PRAGMA_TEXT_(text) #text
#define PYKERNELS_PARAMETER \
  const __grid_constant__  // of a struct: read where the launch put it, never copied
#define PYKERNELS_DEVICE static __device__ __forceinline__

namespace pykernels {

// 2 ulp; arguments below -126 give 0.
PYKERNELS_DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 ulp; the inverse of what is below 2^-126 is infinite, and an inverse below that is 0.
PYKERNELS_DEVICE float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 ulp, of what is neither as large nor as small as numbers get: two of Newton's steps.
PYKERNELS_DEVICE double fast_reciprocal(double x) {
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  y = fma(y, fma(-x, y, 1.0), y);
  return fma(y, fma(-x, y, 1.0), y);
}

// Copies 16 bytes, both ends aligned to 16, that arrive at the latest at async_wait.
PYKERNELS_DEVICE void async_copy16(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
#else
  *static_cast<float4*>(shared) = *static_cast<const float4*>(global);
#endif
}

// Closes a group of copies.
PYKERNELS_DEVICE void async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `groups` of this thread's groups, the youngest, are still under way.
template <int groups> PYKERNELS_DEVICE void async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#endif
}

}  // namespace pykernels

#else

#include <cmath>

#include "emulator.h"  // from tests/emulator: the same names for g++

#define PYKERNELS_PARAMETER const

namespace pykernels {
using std::exp2, std::fabs, std::fma, std::fmax, std::fmin, std::log2;  // for float, too
PYKERNELS_DEVICE float fast_reciprocal(float x) { return 1 / x; }
PYKERNELS_DEVICE double fast_reciprocal(double x) { return 1 / x; }
}  // namespace pykernels

#endif

namespace pykernels {

PYKERNELS_DEVICE double fast_exp2(double x) { return exp2(x); }

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int64_t kMostGridRows = 65535;  // of a grid's y and z

}  // namespace pykernels
