// The nodes' side of the panels, in double: sums of the kernel over all nodes, for the columns of a block of
// dimensions at once.
//
// The matrix K of kernels between nodes depends on the difference of panels alone, so that it is read from a
// table of one block for each difference, and is the same for all dimensions. The nodes are symmetric about
// the middle of the panels, so that K commutes with their reversal (K' anticommutes): columns fall into an
// even and an odd part, each multiplied by a matrix of half the size.
#pragma once

#include "mmd/cpu_points.h"
#include "mmd/mmd_math.h"

namespace pykernels {
namespace {

#if defined(__AVX512F__)
constexpr int kTileRows = 8, kTileVectors = 3;
#elif defined(__AVX2__)
constexpr int kTileRows = 4, kTileVectors = 3;
#else
constexpr int kTileRows = 4, kTileVectors = 2;
#endif

// Kernels between nodes: [2 panels - 1][order of the source][order of the target], target minus source.
struct KernelTable {
  int64_t panels;
  int order;
  double *kappa, *derivative;

  int64_t size() const { return (2 * panels - 1) * order * order; }
};

static inline void fill_table(const MmdProblem& problem, const ChebyshevRule& rule, KernelTable& table) {
  const int order = table.order;
  const int64_t block = static_cast<int64_t>(order) * order;
  double* const kappa = table.kappa + (table.panels - 1) * block;
  double* const derivative = table.derivative + (table.panels - 1) * block;
  for (int64_t apart = 0; apart < table.panels; ++apart) {
    for (int b = 0; b < order; ++b) {
      for (int a = 0; a < order; a += kLanes<double>) {
        VectorD t, k, slope;
        for (int lane = 0; lane < kLanes<double>; ++lane)
          t[lane] = problem.width * static_cast<double>(apart) +
                    problem.width / 2 * (rule.root[a + lane] - rule.root[b]);
        cauchy_kernel(t, problem.scales, problem.num_scales, k, slope);
        store(kappa + apart * block + b * order + a, k);
        store(derivative + apart * block + b * order + a, slope);
      }
    }
    // The other way round all is mirrored.
    for (int64_t at = 0; at < block && apart > 0; ++at) {
      kappa[-apart * block + at] = kappa[apart * block + block - 1 - at];
      derivative[-apart * block + at] = -derivative[apart * block + block - 1 - at];
    }
  }
}

// Columns at the nodes, as their even and odd parts: row r holds that of node r plus, or minus, that of its
// mirror.
struct Columns {
  int64_t nodes, stride, count;  // count of them are multiplied; both are multiples of the lanes
  double *even, *odd;            // [nodes / 2][stride]
};

static inline int64_t padded_columns(int64_t count) {
  return ceil_div(count, kLanes<double>) * kLanes<double>;
}

template <int kVectors>
PYKERNELS_INLINE void multiply_tile(const double* matrix, const double* columns, int64_t half, int64_t stride,
                                    VectorD (&sum)[kTileRows][kVectors]) {
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = VectorD{};
  for (int64_t c = 0; c < half; ++c) {
    VectorD column[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) column[v] = load(columns + c * stride + v * kLanes<double>);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const VectorD entry = splat(matrix[c * kTileRows + r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = fma(entry, column[v], sum[r][v]);
    }
  }
}

template <int kVectors>
void multiply_columns(const double* even, const double* odd, const Columns& columns, int64_t row,
                      int64_t first, double mirror, double* out) {
  const int64_t half = columns.nodes / 2, stride = columns.stride;
  VectorD of_even[kTileRows][kVectors], of_odd[kTileRows][kVectors];
  multiply_tile<kVectors>(even, columns.even + first, half, stride, of_even);
  multiply_tile<kVectors>(odd, columns.odd + first, half, stride, of_odd);
  for (int r = 0; r < kTileRows; ++r)
    for (int v = 0; v < kVectors; ++v) {
      const VectorD e = of_even[r][v], o = of_odd[r][v];
      const int64_t at = first + v * kLanes<double>;
      store(out + (row + r) * stride + at, 0.5 * (e + o));
      store(out + (columns.nodes - 1 - row - r) * stride + at, (0.5 * mirror) * (e - o));
    }
}

// Rows [tile kTileRows, (tile + 1) kTileRows) of the upper half, and their mirrors, of the matrix times the
// columns. entries: the table of kappa (mirror 1) or of its derivative (mirror -1). scratch: [2][nodes /
// 2][kTileRows].
static inline void multiply_rows(const KernelTable& table, const double* entries, double mirror,
                                 const Columns& columns, int64_t tile, double* scratch, double* out) {
  const int64_t order = table.order, block = order * order, half = columns.nodes / 2;
  const int64_t row = tile * kTileRows, panel = row / order, within = row % order;
  double* const even = scratch;
  double* const odd = scratch + half * kTileRows;
  const double* const middle = entries + (table.panels - 1 + panel) * block + within;
  for (int64_t c = 0; c < half; ++c) {
    const int64_t source = c / order, b = c % order;
    const double* const near = middle - source * block + b * order;
    const double* const far = middle - (table.panels - 1 - source) * block + (order - 1 - b) * order;
    for (int r = 0; r < kTileRows; ++r) {
      even[c * kTileRows + r] = near[r] + far[r];
      odd[c * kTileRows + r] = near[r] - far[r];
    }
  }
  constexpr int64_t kStep = kTileVectors * kLanes<double>;
  int64_t first = 0;
  for (; first + kStep <= columns.count; first += kStep)
    multiply_columns<kTileVectors>(even, odd, columns, row, first, mirror, out);
  for (; first < columns.count; first += kLanes<double>)
    multiply_columns<1>(even, odd, columns, row, first, mirror, out);
}

// Moments [panels][order] of one dimension to masses at its nodes, or node values to the series'
// coefficients: both go by the same matrix, from the one side or the other. node[(panel order + a) stride].
static inline void moments_to_nodes(const ChebyshevRule& rule, const double* moments, int64_t panels,
                                    double factor, double* node, int64_t stride) {
  for (int64_t panel = 0; panel < panels; ++panel) {
    double mass[kMostOrder] = {};
    for (int k = 0; k < rule.order; ++k)
      for (int a = 0; a < rule.order; ++a) mass[a] += moments[panel * rule.order + k] * rule.lagrange[k][a];
    for (int a = 0; a < rule.order; ++a) node[(panel * rule.order + a) * stride] = factor * mass[a];
  }
}

template <class T>
void nodes_to_series(const ChebyshevRule& rule, const double* node, int64_t stride, int64_t panels,
                     double factor, T* coefficients) {
  for (int64_t panel = 0; panel < panels; ++panel) {
    double value[kMostOrder];
    for (int a = 0; a < rule.order; ++a) value[a] = factor * node[(panel * rule.order + a) * stride];
    for (int k = 0; k < rule.order; ++k) {
      double sum = 0;
      for (int a = 0; a < rule.order; ++a) sum += rule.lagrange[k][a] * value[a];
      coefficients[panel * rule.order + k] = static_cast<T>(sum);
    }
  }
}

}  // namespace
}  // namespace pykernels
