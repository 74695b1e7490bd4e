// The asynchronous copies of one thread, oldest first, until they are waited for.
#pragma once

#include <cstdint>

#include "fibers.h"

namespace pykernels {
namespace emulator {

// A line of a kernel.
struct Site {
  const char* file;
  int line;
};

struct [[gnu::may_alias]] alignas(16) Bytes16 {
  uint64_t low, high;
};

inline bool operator==(const Bytes16& a, const Bytes16& b) { return a.low == b.low && a.high == b.high; }

// Memory that nothing was written to: NaN, to a float or a double.
constexpr Bytes16 kPoison = {~uint64_t{0}, ~uint64_t{0}};

struct Copy {
  Bytes16* shared;
  const Bytes16* global;
  Bytes16 first_read;
  Site site;
};

class CopyQueue {
 public:
  PYKERNELS_UNCHECKED void clear() { begun_ = landed_ = closed_ = 0; }

  PYKERNELS_UNCHECKED bool full() const { return begun_ - landed_ == kRoom; }

  PYKERNELS_UNCHECKED void begin(const Copy& copy) {
    copies_[begun_ % kRoom] = copy;
    groups_[begun_ % kRoom] = closed_;
    ++begun_;
  }

  PYKERNELS_UNCHECKED void close_group() { ++closed_; }

  // Takes out the oldest copy if its group is closed and not among the youngest `groups` of those.
  PYKERNELS_UNCHECKED bool land(int groups, Copy* copy) {
    if (landed_ == begun_ || groups_[landed_ % kRoom] >= closed_ - groups) return false;
    *copy = copies_[landed_ % kRoom];
    ++landed_;
    return true;
  }

 private:
  static constexpr int64_t kRoom = 64;
  int64_t begun_, landed_, closed_;
  int64_t groups_[kRoom];
  Copy copies_[kRoom];
};

}  // namespace emulator
}  // namespace pykernels
