// The host's side of a launch: which device, which stream, and whether it worked.
#pragma once

#include "core/cuda_kernel.h"
#include "core/status.h"

namespace pykernels {

#if defined(__CUDACC__)

// Makes a device the current one for as long as this lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    cudaGetDevice(&previous_);
    if (device != previous_) cudaSetDevice(device);
    device_ = device;
  }
  ~OnDevice() {
    if (device_ != previous_) cudaSetDevice(previous_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int previous_ = 0, device_ = 0;
};

static inline const char* take_launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

#else

struct OnDevice {
  explicit OnDevice(int) {}
};

static inline const char* take_launch_error() { return emulator::take_last_error(); }

#endif

// Of all launches since the last question.
static inline Status launch_status() {
  const char* error = take_launch_error();
  if (!error) return Status::ok;
  launch_problem = error;
  return Status::launch_failed;
}

}  // namespace pykernels
