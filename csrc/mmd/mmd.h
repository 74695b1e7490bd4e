// Squared maximum mean discrepancy, dimension by dimension, of the multi-scale Cauchy kernel (specification
// section 4, equation 10). With masses u of the points x and v of the points y, each summing to 1, and in
// each dimension kappa(t) = sum_l s_l / (s_l + t^2) and w = u - v, all sums over pairs being quadratic forms
// of the matrix K,
//
//   biased   = w'Kw
//   unbiased = w'Kw + c_u (u'Ku - kappa(0)) + c_v (v'Kv - kappa(0)),    c_u = sum u^2 / (1 - sum u^2),
//
// which for equal masses, c_u = 1 / (n - 1), are the usual sums over pairs without their cancellation. The
// value is the sum over dimensions; slopes are its derivatives: d / d x_id = 2 u_i (K'w + c_u K'u)(x_id).
//
// Shapes: x [*batch, n, dims], y [*batch, m, dims], masses [*batch, n] and [*batch, m] in double; value
// [*batch] and slopes [*batch, n, dims], [*batch, m, dims] contiguous. Inputs are never written, outputs
// never read; they must not overlap. Where a dimension holds an infinite or NaN point the value and that
// dimension's slopes are NaN.
//
// For few points the sums over all pairs are the fastest (cpu_direct.h).
//
// Linear time by panels: on a panel [(j - 1/2) h, (j + 1/2) h] that holds many points these are replaced by p
// Chebyshev nodes, at which the kernel is interpolated. The caller chooses h, a power of two, and p by the
// bound
//
//   |error of kappa| / kappa(0) <= (2 / L) sum_l 1 / sinh(p asinh(2 sqrt(s_l) / h)).
//
// A call of the CPU takes two steps, because memory depends on how far the points reach: measure() writes
// `ranges`, from which workspace() tells the bytes that run() needs. Each brings its own workspace. A GPU
// would have to be waited for in between: its variant has no measure(), and memory for any points.
#pragma once

#include "core/cpu_features.h"
#include "core/parallel.h"
#include "core/status.h"
#include "core/tensor.h"

namespace pykernels {

enum class MmdMethod : int { automatic = 0, direct = 1, panels = 2 };

constexpr int kMostMmdScales = 32;

struct MmdProblem {
  Dtype dtype;
  BatchShape batch;
  int64_t n, m, dims;  // all at least 1
  StridedTensor x, y;
  StridedTensor x_masses, y_masses;  // double; absent: 1 / n and 1 / m each
  double scales[kMostMmdScales];
  int num_scales;
  bool unbiased;
  MmdMethod method;
  double width;  // of a panel
  int order;     // nodes of a panel: 8 or 16, or 0, if no width is a normal number
};

// Of a problem whose points several processes hold, all of which make this call: `n`, `m` and the points are
// this one's, which may have none. The value is that of all points, and the slopes are those of this one's.
struct MmdShare {
  double counts[2];  // of x and of y, in all processes
  double excess[2];  // c_u and c_v, of all masses
  // Adds numbers up over the processes, in place; false: it could not, and the call ends.
  bool (*sum)(void* context, double* numbers, int64_t count);
  void* context;
};

struct MmdArguments {
  MmdProblem problem;
  const MmdShare* share;  // of a CPU, by panels, with ranges of all points given; null: there is one process
  void* value;
  void *slope_x, *slope_y;  // null: not asked for
  double*
      ranges;  // [*batch, dims, 2], of a CPU: the lowest and the highest point; NaN where one is not finite
  void* workspace;
  int64_t workspace_bytes;
};

// Where to run. Results do not depend on it.
struct MmdExecution {
  int threads;             // of a CPU
  Interrupt* interrupt;    // of a CPU
  int device = 0;          // CUDA's number of it
  void* stream = nullptr;  // a cudaStream_t: nothing is waited for
};

struct MmdVariant {
  const char* name;
  bool (*runs_here)();
  int64_t (*measure_workspace)(const MmdArguments&);  // null, like measure: there is no such step
  Status (*measure)(const MmdArguments&, MmdExecution);
  int64_t (*workspace)(const MmdArguments&, int threads);
  Status (*run)(const MmdArguments&, MmdExecution);
  bool on_device = false;  // takes tensors of a GPU
};

// Compiled variants, best first.
struct MmdVariants {
  const MmdVariant* const* begin_;
  const MmdVariant* const* end_;
  const MmdVariant* const* begin() const { return begin_; }
  const MmdVariant* const* end() const { return end_; }
};
MmdVariants mmd_variants();

// The variant of that name if it was compiled and this CPU runs it; else null, and why.
const MmdVariant* find_mmd_variant(const char* name, Status* status);

}  // namespace pykernels
