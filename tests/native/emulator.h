// The emulator, which has no streams, and a look at the one that each kernel is started on: this file comes
// before tests/emulator in the search for "emulator.h".
#pragma once

#include_next "emulator.h"

#include "launches.h"

namespace check {

inline void note_launch(const char* kernel, const void* stream) {
  if (stream == launches.stream)
    ++launches.there;
  else
    launches.elsewhere = kernel;
}

}  // namespace check

#undef PYKERNELS_LAUNCH
#define PYKERNELS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (check::note_launch(#kernel, stream),                                  \
   pykernels::emulator::launch(#kernel, kernel, grid, block, shared_bytes, stream, ##__VA_ARGS__))
