// Memory of a GPU that stands in for the program's own: what a call reads is copied there before it, what it
// writes is copied back after it, and what it should not write is compared.
#pragma once

#include <core/status.h>
#include <core/tensor.h>
#include <cuda_runtime.h>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "launches.h"

namespace check {

class Mirror {
 public:
  Mirror() { note(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Mirror() {
    for (const Part& part : parts_) cudaFree(part.memory);
    cudaStreamDestroy(stream_);
  }
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  void* stream() { return stream_; }

  // Null stays null. The GPU's memory has exactly this size, and is misaligned like the program's.
  void* input(const void* host, int64_t bytes) { return add(const_cast<void*>(host), bytes, Kind::input); }
  void* output(void* host, int64_t bytes) { return add(host, bytes, Kind::output); }

  // With its content, on which nothing may depend; or, for a tool that watches for this, with none.
  void* workspace(void* host, int64_t bytes) {
    return add(host, bytes, std::getenv("SELFTEST_FRESH_WORKSPACE") ? Kind::fresh : Kind::scratch);
  }

  // `inner`: the sizes after those of the batch.
  pykernels::StridedTensor input(const pykernels::StridedTensor& tensor, const pykernels::BatchShape& batch,
                                 const std::vector<int64_t>& inner, int64_t item) {
    return moved(tensor, input(tensor.data, span(tensor, batch, inner) * item));
  }
  pykernels::StridedTensor output(const pykernels::StridedTensor& tensor, const pykernels::BatchShape& batch,
                                  const std::vector<int64_t>& inner, int64_t item) {
    return moved(tensor, output(tensor.data, span(tensor, batch, inner) * item));
  }

  // Waits for the call, whose status this is, and brings back what it wrote.
  pykernels::Status finish(pykernels::Status status) {
    ++launches.there;
    note(cudaStreamSynchronize(stream_));
    for (const Part& part : parts_) bring_back(part);
    if (status != pykernels::Status::ok || !problem_) return status;
    pykernels::launch_problem = problem_;
    return pykernels::Status::launch_failed;
  }

 private:
  enum class Kind { input, output, scratch, fresh };
  struct Part {
    void *host, *memory;
    size_t bytes, offset;
    Kind kind;
  };

  void note(cudaError_t error) {
    if (error != cudaSuccess && !problem_) problem_ = cudaGetErrorString(error);
  }

  void* add(void* host, int64_t count, Kind kind) {
    if (!host) return nullptr;
    Part part{host, nullptr, static_cast<size_t>(count), reinterpret_cast<uintptr_t>(host) % 16, kind};
    note(cudaMalloc(&part.memory, part.offset + part.bytes));
    if (problem_) return nullptr;
    parts_.push_back(part);
    char* const there = static_cast<char*>(part.memory) + part.offset;
    if (kind != Kind::fresh) note(cudaMemcpyAsync(there, host, part.bytes, cudaMemcpyHostToDevice, stream_));
    return there;
  }

  void bring_back(const Part& part) {
    const char* const there = static_cast<const char*>(part.memory) + part.offset;
    if (part.kind == Kind::output) note(cudaMemcpy(part.host, there, part.bytes, cudaMemcpyDeviceToHost));
    if (part.kind != Kind::input) return;
    const std::unique_ptr<char[]> now(new char[part.bytes]);
    note(cudaMemcpy(now.get(), there, part.bytes, cudaMemcpyDeviceToHost));
    if (!problem_ && std::memcmp(now.get(), part.host, part.bytes) != 0)
      problem_ = "an input was written on the GPU";
  }

  static int64_t span(const pykernels::StridedTensor& tensor, const pykernels::BatchShape& batch,
                      const std::vector<int64_t>& inner) {
    int64_t last = 0;
    for (int dim = 0; dim < batch.ndim; ++dim) last += (batch.sizes[dim] - 1) * tensor.strides[dim];
    for (size_t dim = 0; dim < inner.size(); ++dim)
      last += (inner[dim] - 1) * tensor.strides[static_cast<size_t>(batch.ndim) + dim];
    return last + 1;
  }

  static pykernels::StridedTensor moved(pykernels::StridedTensor tensor, void* data) {
    tensor.data = data;
    return tensor;
  }

  cudaStream_t stream_{};
  std::vector<Part> parts_;
  const char* problem_ = nullptr;  // the first
};

}  // namespace check
