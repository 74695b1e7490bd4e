// Functions that every translation unit gets a private copy of, on the host and, under nvcc, on the device: a
// shared symbol could carry one instruction set into code that runs without it.
#pragma once

#if defined(__CUDACC__)
#define PYKERNELS_INLINE static __host__ __device__ __forceinline__
#else
#define PYKERNELS_INLINE static inline __attribute__((always_inline))
#endif
