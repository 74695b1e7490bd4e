#include "mmd/mmd.h"

#include <cstring>

namespace pykernels {

extern const MmdVariant mmd_baseline;
#if defined(PYKERNELS_X86)
extern const MmdVariant mmd_avx2;
extern const MmdVariant mmd_avx512;
#endif
#if defined(PYKERNELS_CUDA) || defined(PYKERNELS_EMULATED)
extern const MmdVariant mmd_cuda;
#endif

static const MmdVariant* const kVariants[] = {
#if defined(PYKERNELS_X86)
    &mmd_avx512,
    &mmd_avx2,
#endif
    &mmd_baseline,
#if defined(PYKERNELS_CUDA) || defined(PYKERNELS_EMULATED)
    &mmd_cuda,
#endif
};

MmdVariants mmd_variants() { return {kVariants, kVariants + sizeof kVariants / sizeof *kVariants}; }

const MmdVariant* find_mmd_variant(const char* name, Status* status) {
  for (const MmdVariant* variant : mmd_variants()) {
    if (std::strcmp(variant->name, name) != 0) continue;
    *status = variant->runs_here() ? Status::ok : Status::unsupported_cpu;
    return *status == Status::ok ? variant : nullptr;
  }
  *status = Status::unknown_variant;
  return nullptr;
}

}  // namespace pykernels
