// Memory to work in, and how else to call.
#pragma once

#include <core/parallel.h>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "tensors.h"

namespace check {

using pykernels::Interrupt;

// It ends where its memory ends, and begins at an odd address: then what a kernel needs to align its arrays
// is no room to spare.
class Workspace {
 public:
  Workspace(int64_t bytes, unsigned char content) {
    void* memory = nullptr;
    const size_t size = static_cast<size_t>(bytes) + 1;
    if (posix_memalign(&memory, 64, size) != 0) throw std::bad_alloc();
    memory_.reset(static_cast<unsigned char*>(memory));
    std::memset(memory, content, size);
  }

  void* data() { return memory_.get() + 1; }

 private:
  struct Free {
    void operator()(unsigned char* memory) const { std::free(memory); }
  };
  std::unique_ptr<unsigned char, Free> memory_;
};

// How to call, apart from the problem. No result depends on it.
struct Manner {
  int threads = 1;
  unsigned char workspace_content = kUnwritten;
  Interrupt* interrupt = nullptr;  // null: none
};

}  // namespace check
