// Which instruction sets this CPU and operating system offer.
#pragma once

namespace pykernels {

enum class Isa { baseline, avx2, avx512 };

bool cpu_supports(Isa isa);

}  // namespace pykernels
