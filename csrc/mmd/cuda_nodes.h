// The nodes' side of the panels, in double: masses at the nodes from the moments, and sums of the kernel over
// all nodes, which give the value and, as series, the slopes.
//
// The kernel between two nodes depends on the difference of their panels alone, so that it is read from a
// table that serves all columns.
#pragma once

#include "mmd/cuda_moments.h"
#include "mmd/cuda_range.h"

namespace pykernels {
namespace mmd {

constexpr int kNodeThreads = 128;  // each with a node

struct Scales {
  double values[kMostMmdScales];
  int count;
};

constexpr int kMostNodes = 2048;  // of a column, at most

// Kernels between nodes: entries[source in its panel][kTableWidth], the latter by panels apart and target in
// its panel, target minus source.
struct KernelTable {
  double *kappa, *derivative;
};

constexpr int kTableWidth = 2 * kMostNodes;

struct NodePlan {
  int splits[2];
  int most_nodes, tiles;  // of a column
  int64_t node_blocks;    // of an element: all tiles of all dimensions
  double width;
};

// One entry of the table, as far as any column needs it.
template <int order>
PYKERNELS_DEVICE void fill_table(const Scales& scales, const ChebyshevRule& rule, double width,
                                 const KernelTable& table, int panels, int64_t entry) {
  const int source = static_cast<int>(entry / kTableWidth), column = static_cast<int>(entry % kTableWidth);
  const int apart = column / order - kMostNodes / order, target = column % order;
  if (apart >= panels || -apart >= panels) return;
  const double t = width * apart + width / 2 * (rule.root[target] - rule.root[source]);
  cauchy_kernel(t, scales.values, scales.count, table.kappa[entry], table.derivative[entry]);
}

// nodes[elements][dims][most_nodes][2]: w and u. Behind the blocks of the nodes come those of the table.
template <int order>
__global__ void __launch_bounds__(kNodeThreads) lay_out_nodes(
    PYKERNELS_PARAMETER Inputs inputs, PYKERNELS_PARAMETER NodePlan plan, PYKERNELS_PARAMETER Scales scales,
    PYKERNELS_PARAMETER ChebyshevRule rule, PYKERNELS_PARAMETER Columns found, const double* moments,
    double* nodes, PYKERNELS_PARAMETER KernelTable table) {
  PYKERNELS_SHARED(double, lagrange);
  double *const of_x = lagrange + order * order, *const of_w = of_x + kNodeThreads;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t block = blockIdx.x, element = blockIdx.y;
  if (block >= plan.node_blocks) {
    if (element == 0)
      fill_table<order>(scales, rule, plan.width, table, *found.most_panels,
                        (block - plan.node_blocks) * kNodeThreads + thread);
    return;
  }
  const int64_t d = block / plan.tiles, column = element * inputs.dims + d;
  const int count = found.columns[column].panels * order;
  const int node = static_cast<int>(block % plan.tiles) * kNodeThreads + thread;
  if (node - thread >= count) return;  // the whole block
  for (int i = thread; i < order * order; i += kNodeThreads)
    lagrange[i] = rule.lagrange[i / order][i % order];
  double sums[2] = {0, 0};
  for (int sample = 0, split = 0; node < count && sample < 2; ++sample) {
    const double factor = unit_mass(inputs, sample);
    PYKERNELS_UNROLL_BY(4)
    for (int last = split + plan.splits[sample]; split < last; ++split)
      sums[sample] += moments[((element * (plan.splits[0] + plan.splits[1]) + split) * inputs.dims + d) *
                                  plan.most_nodes +
                              node];
    sums[sample] *= factor;
  }
  of_x[thread] = sums[0];
  of_w[thread] = sums[0] - sums[1];
  __syncthreads();
  if (node >= count) return;
  const int at = thread % order, first = thread - at;
  double w = 0, u = 0;
  PYKERNELS_UNROLL
  for (int k = 0; k < order; ++k) {
    w = fma(of_w[first + k], lagrange[k * order + at], w);
    u = fma(of_x[first + k], lagrange[k * order + at], u);
  }
  double* const out = nodes + 2 * (column * plan.most_nodes + node);
  out[0] = w;
  out[1] = u;
}

// What a tile of nodes adds to the quadratic forms of w and u, to u'Kw, and to the sums of w and u:
// forms[elements][dims][tiles][5].
constexpr int kNodeForms = 5;

template <class T> struct NodeOutput {
  double* forms;
  T* series[2];  // of the slopes of x and y, [elements][dims][most_nodes]; null: not asked for
};

constexpr size_t node_sum_bytes(int most_nodes) {
  return (2 * most_nodes + 2 * kNodeThreads) * sizeof(double);
}

template <class T, int order, bool slopes>
__global__ void __launch_bounds__(kNodeThreads) sum_over_nodes(
    PYKERNELS_PARAMETER Inputs inputs, PYKERNELS_PARAMETER NodePlan plan,
    PYKERNELS_PARAMETER ChebyshevRule rule, PYKERNELS_PARAMETER Excess excess, const Column* columns,
    const double* nodes, PYKERNELS_PARAMETER KernelTable table, PYKERNELS_PARAMETER NodeOutput<T> out) {
  PYKERNELS_SHARED(double, all);
  double* const scratch = all + 2 * plan.most_nodes;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t block = blockIdx.x, element = blockIdx.y, d = block / plan.tiles;
  const int64_t column = element * inputs.dims + d;
  const int panels = columns[column].panels, count = panels * order;
  const int tile = static_cast<int>(block % plan.tiles), node = tile * kNodeThreads + thread;
  if (node - thread >= count) return;  // the whole block
  nodes += 2 * column * plan.most_nodes;
  for (int i = thread; i < 2 * count; i += kNodeThreads) all[i] = nodes[i];
  __syncthreads();

  const bool real = node < count;
  const int own = real ? node : 0;
  const double *kappa = table.kappa + kMostNodes + own, *derivative = table.derivative + kMostNodes + own;
  double of_w = 0, of_u = 0, slope_w = 0, slope_u = 0;
  for (int panel = 0; panel < panels; ++panel) {
    const double* const sources = all + 2 * panel * order;
    PYKERNELS_UNROLL
    for (int b = 0; b < order; ++b) {
      const double w = sources[2 * b], u = sources[2 * b + 1], k = kappa[b * kTableWidth];
      of_w = fma(k, w, of_w);
      of_u = fma(k, u, of_u);
      if (slopes) {
        const double slope = derivative[b * kTableWidth];
        slope_w = fma(slope, w, slope_w);
        slope_u = fma(slope, u, slope_u);
      }
    }
    kappa -= order;
    derivative -= order;
  }

  const double w = real ? all[2 * own] : 0, u = real ? all[2 * own + 1] : 0;
  const double forms[] = {w * of_w, u * of_u, u * of_w, w, u};
  PYKERNELS_UNROLL
  for (int form = 0; form < kNodeForms; ++form) {
    const double total = block_total<kNodeThreads>(forms[form], scratch, thread);
    if (thread == 0) out.forms[(column * plan.tiles + tile) * kNodeForms + form] = total;
  }
  if (!slopes) return;
  // The derivative fields of x and y, and from them the coefficients of their series.
  const double excess_x = excess_of(inputs, excess, 0, element),
               excess_y = excess_of(inputs, excess, 1, element);
  double *const of_x = scratch, *const of_y = scratch + kNodeThreads;
  of_x[thread] = slope_w + excess_x * slope_u;
  of_y[thread] = excess_y * (slope_u - slope_w) - slope_w;
  __syncthreads();
  if (!real) return;
  const int k = thread % order, first = thread - k;
  double x = 0, y = 0;
  PYKERNELS_UNROLL
  for (int a = 0; a < order; ++a) {
    x = fma(rule.lagrange[k][a], of_x[first + a], x);
    y = fma(rule.lagrange[k][a], of_y[first + a], y);
  }
  const int64_t at = column * plan.most_nodes + node;
  if (out.series[0]) out.series[0][at] = static_cast<T>(2 * unit_mass(inputs, 0) * x);
  if (out.series[1]) out.series[1][at] = static_cast<T>(2 * unit_mass(inputs, 1) * y);
}

}  // namespace mmd
}  // namespace pykernels
