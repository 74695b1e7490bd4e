#include "core/cuda_device.h"

#include <cuda_runtime_api.h>

namespace pykernels {

CudaDevices cuda_devices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();  // clears it, so that the next call does not report it
    return {0, cudaGetErrorString(error)};
  }
  return {count, count > 0 ? nullptr : "no CUDA device"};
}

}  // namespace pykernels
