// In what order the blocks of a grid, the warps of a block and the lanes of a warp have their turns. A GPU
// promises none, so the results of a correct kernel depend on none.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "fibers.h"

namespace pykernels {
namespace emulator {

constexpr int kWarp = 32;
constexpr int kMaxWarps = 32;

class Order {
 public:
  // From the environment: forward, reverse or random:<seed>; false if it is anything else.
  bool choose(const char* text) {
    kind_ = Kind::forward;
    if (text == nullptr || std::strcmp(text, "forward") == 0) return true;
    kind_ = Kind::reverse;
    if (std::strcmp(text, "reverse") == 0) return true;
    kind_ = Kind::random;
    char* end;
    if (std::strncmp(text, "random:", 7) != 0) return false;
    random_ = std::strtoull(text + 7, &end, 10) * 2 + 1;
    return end != text + 7 && *end == '\0';
  }

  void start_launch(int64_t blocks, int warps) {
    blocks_ = blocks;
    first_block_ = kind_ == Kind::random ? below(static_cast<uint64_t>(blocks)) : 0;
    warps_in_use_ = warps;
    arrange(warps_, warps);
    arrange(lanes_, kWarp);
  }

  // The block whose turn it is as the turn-th.
  int64_t block(int64_t turn) const {
    return kind_ == Kind::reverse ? blocks_ - 1 - turn : (turn + first_block_) % blocks_;
  }

  PYKERNELS_UNCHECKED const int* of_warps() { return next(warps_, warps_in_use_); }
  PYKERNELS_UNCHECKED const int* of_lanes() { return next(lanes_, kWarp); }

  PYKERNELS_UNCHECKED int64_t below(uint64_t bound) {
    random_ = random_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int64_t>((random_ >> 33) % bound);
  }

 private:
  enum class Kind { forward, reverse, random };

  void arrange(int* numbers, int count) const {
    for (int i = 0; i < count; ++i) numbers[i] = kind_ == Kind::reverse ? count - 1 - i : i;
  }

  PYKERNELS_UNCHECKED const int* next(int* numbers, int count) {
    if (kind_ == Kind::random)
      for (int i = count - 1; i > 0; --i) std::swap(numbers[i], numbers[below(static_cast<uint64_t>(i) + 1)]);
    return numbers;
  }

  Kind kind_ = Kind::forward;
  uint64_t random_ = 1;
  int64_t blocks_ = 0;
  int64_t first_block_ = 0;
  int warps_in_use_ = 0;
  int warps_[kMaxWarps];
  int lanes_[kWarp];
};

}  // namespace emulator
}  // namespace pykernels
