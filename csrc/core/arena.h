// Cuts the caller's workspace into arrays. With no memory behind it, it only measures: the size that a caller
// is told to bring and the layout that a kernel uses come from one function.
#pragma once

#include <cstdint>

namespace pykernels {

struct Arena {
  char* base;  // null: measure only
  int64_t used;
};

constexpr int64_t kAlignment = 64;

static inline Arena arena_over(void* memory) {
  const int64_t misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory) % kAlignment);
  return {static_cast<char*>(memory), misaligned == 0 ? 0 : kAlignment - misaligned};
}

template <class T> static inline T* take(Arena& arena, int64_t count) {
  T* array = arena.base ? reinterpret_cast<T*>(arena.base + arena.used) : nullptr;
  arena.used += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  return array;
}

}  // namespace pykernels
