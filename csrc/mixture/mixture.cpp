#include "mixture/mixture.h"

#include <cstring>

namespace pykernels {

#if defined(PYKERNELS_CUDA) || defined(PYKERNELS_EMULATED)
extern const MixtureVariant mixture_cuda;
#endif
extern const MixtureVariant mixture_baseline;
#if defined(PYKERNELS_X86)
extern const MixtureVariant mixture_avx2;
extern const MixtureVariant mixture_avx512;
#endif

static const MixtureVariant* const kVariants[] = {
#if defined(PYKERNELS_X86)
    &mixture_avx512,
    &mixture_avx2,
#endif
    &mixture_baseline,
#if defined(PYKERNELS_CUDA) || defined(PYKERNELS_EMULATED)
    &mixture_cuda,
#endif
};

MixtureVariants mixture_variants() { return {kVariants, kVariants + sizeof kVariants / sizeof *kVariants}; }

const MixtureVariant* find_mixture_variant(const char* name, Status* status) {
  for (const MixtureVariant* variant : mixture_variants()) {
    if (std::strcmp(variant->name, name) != 0) continue;
    *status = variant->runs_here() ? Status::ok : Status::unsupported_cpu;
    return *status == Status::ok ? variant : nullptr;
  }
  *status = Status::unknown_variant;
  return nullptr;
}

}  // namespace pykernels
