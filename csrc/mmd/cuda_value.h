// The value of each batch element, from the quadratic forms of its columns.
#pragma once

#include "mmd/cuda_nodes.h"
#include "mmd/cuda_pairs.h"

namespace pykernels {
namespace mmd {

struct Forms {
  const Column* columns;  // null: all are summed over in pairs
  const double *of_nodes, *of_pairs;
  int node_tiles, order;
  int64_t pair_tiles[2];
  double kappa_0;
  bool biased;
};

PYKERNELS_DEVICE double warp_total(double own) {
  for (int step = 16; step > 0; step /= 2) own += __shfl_xor_sync(kWholeWarp, own, step);
  return own;
}

// Those of a column, summed by a warp.
PYKERNELS_DEVICE QuadraticForms forms_of_pairs(const Forms& forms, int64_t column, int lane) {
  const int64_t tiles = forms.pair_tiles[0] + forms.pair_tiles[1];
  const double* const parts = forms.of_pairs + 2 * column * tiles;
  double u = 0, v = 0, cross = 0;
  for (int64_t tile = lane; tile < tiles; tile += 32) {
    (tile < forms.pair_tiles[0] ? u : v) += parts[2 * tile];
    cross += parts[2 * tile + 1];
  }
  u = warp_total(u);
  v = warp_total(v);
  cross = warp_total(cross);
  return {u + v - 2 * cross, u, v};
}

PYKERNELS_DEVICE QuadraticForms forms_of_nodes(const Forms& forms, int64_t column, int panels, int lane) {
  const int tiles = (panels * forms.order + kNodeThreads - 1) / kNodeThreads;
  const double* const parts = forms.of_nodes + kNodeForms * column * forms.node_tiles;
  double sums[kNodeForms] = {};
  for (int tile = lane; tile < tiles; tile += 32) {
    PYKERNELS_UNROLL
    for (int form = 0; form < kNodeForms; ++form) sums[form] += parts[kNodeForms * tile + form];
  }
  PYKERNELS_UNROLL
  for (double& sum : sums) sum = warp_total(sum);
  const double w = sums[0], u = sums[1], both = sums[2], mass_w = sums[3], mass_u = sums[4];
  return {w, u, u - 2 * both + w, mass_u, mass_u - mass_w};
}

// A block for each batch element, a warp for each column.
template <class T>
__global__ void __launch_bounds__(kThreads) add_columns(PYKERNELS_PARAMETER Inputs inputs,
                                                        PYKERNELS_PARAMETER Excess excess,
                                                        PYKERNELS_PARAMETER Forms forms, T* value,
                                                        uint32_t first_element) {
  constexpr int kWarps = kThreads / 32;
  PYKERNELS_SHARED(double, by_warp);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int64_t element = blockIdx.x;
  const double excess_x = excess_of(inputs, excess, 0, element),
               excess_y = excess_of(inputs, excess, 1, element);
  double own = 0;
  for (int64_t d = warp; d < inputs.dims; d += kWarps) {
    const int64_t column = element * inputs.dims + d;
    const int panels = forms.columns ? forms.columns[column].panels : kPairs;
    QuadraticForms of_column{static_cast<double>(NAN), 0, 0};
    if (panels == kPairs) of_column = forms_of_pairs(forms, column, lane);
    if (panels > 0) of_column = forms_of_nodes(forms, column, panels, lane);
    own += value_of_forms(of_column, forms.kappa_0, excess_x, excess_y);
  }
  if (lane == 0) by_warp[warp] = own;
  __syncthreads();
  if (thread != 0) return;
  double total = 0;
  for (int other = 0; other < kWarps; ++other) total += by_warp[other];
  if (forms.biased && total < 0) total = 0;
  value[first_element + element] = static_cast<T>(total);
}

}  // namespace mmd
}  // namespace pykernels
