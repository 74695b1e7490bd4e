// What the two passes share of choosing kernels.
#pragma once

#include "core/cuda_launch.h"
#include "mixture/cuda_plan.h"

namespace pykernels {

int64_t mixture_backward_workspace_cuda(const MixtureBackward& args, int);
Status mixture_backward_cuda(const MixtureBackward& args, Execution execution);

inline unsigned grid(int64_t size) { return static_cast<unsigned>(size); }

template <int size> struct Int {
  static constexpr int kValue = size;
};

// Calls launch(Int<D>) with the smallest D that is compiled and not below `dims`: for float64, few, as it is
// rarer.
template <class T, class Launch> void with_dims(int64_t dims, const Launch& launch) {
  if constexpr (sizeof(T) == 4) {
    if (dims <= 1) return launch(Int<1>{});
    if (dims == 3 || dims == 4) return launch(Int<4>{});
    if (dims == 5 || dims == 6) return launch(Int<6>{});
    if (dims == 9 || dims == 10) return launch(Int<10>{});
  }
  if (dims <= 2) return launch(Int<2>{});
  if (dims <= 8) return launch(Int<8>{});
  return launch(Int<16>{});
}

inline bool is_single(const MixtureProblem& problem) { return problem.dtype == Dtype::float32; }

template <class T>
void launch_pack_tiles(const MixtureProblem& p, const PackedComponents<T>& components,
                       const PackedRows<T>& rows, const RowGradients<T>& given, int64_t elements,
                       uint32_t first, cudaStream_t stream) {
  PYKERNELS_LAUNCH(pack_tiles<T>, dim3(grid(components.tiles / 2 + rows.tiles), grid(elements)), kTileThreads,
                   kTileThreads * sizeof(LogProduct<T>), stream, p, components, rows, given, first);
}

template <class T>
void launch_pack_marginals(const MixtureProblem& p, const PackedMarginals<T>& packed, int64_t elements,
                           uint32_t first, cudaStream_t stream) {
  const dim3 blocks(grid(divide_up(packed.count * packed.dims, kTileThreads)),
                    grid(elements * packed.dim_blocks));
  PYKERNELS_LAUNCH(pack_marginals<T>, blocks, kTileThreads, 0, stream, p, packed, first);
}

}  // namespace pykernels
