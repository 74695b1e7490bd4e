// What the CUDA runtime says of this machine. Never fails: no driver, an old driver and no GPU all mean a
// count of 0.
#pragma once

namespace pykernels {

struct CudaDevices {
  int count;
  const char* problem;  // why the count is 0, in the runtime's words; null if it is not
};

CudaDevices cuda_devices();

}  // namespace pykernels
