// On which stream the kernels were started: counted by emulator.h, read by the program.
#pragma once

#include <cstdint>

namespace check {

struct Launches {
  const void* stream = nullptr;  // the one that is expected
  int64_t there = 0;
  const char* elsewhere = nullptr;  // a kernel that was started on another one
};

inline thread_local Launches launches;

}  // namespace check
