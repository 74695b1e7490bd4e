// Log-density of a diagonal-Gaussian mixture, jointly and per dimension (specification section 4, aggregate
// log-density):
//
//   joint[b]       = logsumexp_i ( log_weights[i] + sum_d log N(value[b,d]; loc[i,d], scale[i,d]^2) )
//   marginal[b,d]  = logsumexp_i ( log_weights[i] +       log N(value[b,d]; loc[i,d], scale[i,d]^2) )
//
// and the gradients of  sum_b grad_joint[b] joint[b] + sum_bd grad_marginal[b,d] marginal[b,d]. Weights may
// depend on the pair, as those of minibatch estimates do: see PairWeights. Beside the joint density there may
// be, of r_i = exp(log_weights[i] + log N(value[b]; loc[i], scale[i]^2) - joint[b]) (specification section
// 6),
//
//   perplexity[b] = exp(-sum_i r_i log r_i)    and    collision_count[b] = 1 / sum_i r_i^2.
//
// Shapes: value [*batch, rows, dims]; loc, scale [*batch, components, dims]; log_weights [*batch,
// components]; joint [*batch, rows] and marginal [*batch, rows, dims] contiguous. Inputs are never written,
// outputs never read; they must not overlap. The results come in nats and, for the backward pass, in base 2,
// as the kernels work: where one component outweighs all others its responsibility is then 1, exactly or but
// for what exponentials are off by, which two roundings more would spoil. Gradients have their input's
// strides, and every element is written: where a stride is 0 the gradient is summed, that of value over batch
// dimensions only. A component of log-weight -inf is absent, whatever its loc and scale.
#pragma once

#include "core/cpu_features.h"
#include "core/parallel.h"
#include "core/status.h"
#include "core/tensor.h"

namespace pykernels {

// Logarithms, in base 2, of what components weigh where there are no log_weights: in row b component b and
// the next one (after the last comes the first), beside every other one, and what that weighs. Both may be
// other than 0 only where there are as many components as rows, at least two, and both densities are asked
// for.
struct PairWeights {
  double own, next, other;
};

PYKERNELS_INLINE bool depend_on_pair(const PairWeights& weights) {
  return weights.own != 0 || weights.next != 0;
}

struct MixtureProblem {
  Dtype dtype;
  BatchShape batch;
  int64_t rows, components, dims;  // all at least 1
  StridedTensor value, loc, scale, log_weights;
  PairWeights pairs;
};

struct MixtureForward {
  MixtureProblem problem;
  void *joint, *joint_log2;        // null: not asked for
  void *marginal, *marginal_log2;  // null: not asked for
  // d joint / d value and d marginal / d value, [*batch, rows, dims], which CUDA gives here and the CPU, as
  // grad_value, backward; null: not asked for.
  void *joint_slope, *marginal_slope;
  void *perplexity, *collision_count;  // [*batch, rows], with joint alone; null: not asked for
  void* workspace;
  int64_t workspace_bytes;
};

struct MixtureBackward {
  MixtureProblem problem;
  const void *joint_log2, *marginal_log2;    // from the forward pass, each needed where its gradient is given
  const void *joint_slope, *marginal_slope;  // the same, where it gave them, for grad_value
  const void *grad_joint, *grad_marginal;    // contiguous; null: zero
  // Of statistics of the responsibilities, [*batch, 2, rows], with grad_joint alone: for that a pair then has
  // grad_joint + statistics[0] log r + statistics[1] r; null: zero.
  const void* grad_statistics;
  StridedTensor grad_value, grad_loc, grad_scale, grad_log_weights;
  void* workspace;
  int64_t workspace_bytes;
};

// Where to run. Results do not depend on it.
struct Execution {
  int threads;           // of a CPU
  Interrupt* interrupt;  // of a CPU
  int device;            // CUDA's number of it
  void* stream;          // a cudaStream_t: nothing is waited for
};

struct MixtureVariant {
  const char* name;
  bool (*runs_here)();
  bool on_device;  // takes tensors of a GPU
  int64_t (*forward_workspace)(const MixtureForward&, int threads);
  int64_t (*backward_workspace)(const MixtureBackward&, int threads);
  Status (*forward)(const MixtureForward&, Execution);
  Status (*backward)(const MixtureBackward&, Execution);
};

// Compiled variants, best first.
struct MixtureVariants {
  const MixtureVariant* const* begin_;
  const MixtureVariant* const* end_;
  const MixtureVariant* const* begin() const { return begin_; }
  const MixtureVariant* const* end() const { return end_; }
};
MixtureVariants mixture_variants();

// The variant of that name if it was compiled and this CPU runs it; else null, and why.
const MixtureVariant* find_mixture_variant(const char* name, Status* status);

}  // namespace pykernels
