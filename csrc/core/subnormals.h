// Numbers below the normal range, taken as 0 for as long as such an object lives, on the thread that made it.
// Where a result falls there, or an instruction like AVX-512's scaling by a power of two passes through,
// processors of Intel else take some hundred cycles for the one instruction.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace pykernels {
namespace {

class SubnormalsAsZero {
#if defined(__SSE2__)
 public:
  SubnormalsAsZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | _MM_FLUSH_ZERO_ON); }
  ~SubnormalsAsZero() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
#else
 public:
  SubnormalsAsZero() {}  // there are instruction sets that know no such mode, or none worth its own code
#endif

 public:
  SubnormalsAsZero(const SubnormalsAsZero&) = delete;
  SubnormalsAsZero& operator=(const SubnormalsAsZero&) = delete;
};

}  // namespace
}  // namespace pykernels
