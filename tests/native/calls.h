// Calls of a variant, as a careful caller makes them: outputs and workspace of exactly the size asked for.
#pragma once

#include "dense.h"
#include "launches.h"
#include "workspace.h"

namespace check {

using pykernels::Execution;
using pykernels::Interrupt;
using pykernels::MixtureBackward;
using pykernels::MixtureForward;
using pykernels::MixtureProblem;
using pykernels::MixtureVariant;
using pykernels::Status;

template <class T> struct Forward {
  std::vector<T> joint, joint_log2, joint_slope, marginal, marginal_log2, marginal_slope;
  std::vector<T> perplexity, collision_count;
};

template <class T> struct Backward {
  Tensor<T> value, loc, scale, log_weights;
};

template <class T> struct Case {
  Problem problem;
  Inputs<T> inputs;
  Upstream<T> upstream;
  Backward<T> gradients;  // how they lie in memory; nothing is written to these
  int64_t elements = 1;
};

template <class T> std::vector<T> random_numbers(Random& random, int64_t count) {
  std::vector<T> numbers(static_cast<size_t>(count));
  for (T& number : numbers) number = static_cast<T>(random.normal());
  return numbers;
}

// Rows and dimensions of value share no gradient: the kernels of the CPU sum that over the batch alone.
inline Shape without_sharing_inside(Shape shape) {
  shape.shared[shape.shared.size() - 2] = shape.shared.back() = false;
  return shape;
}

// The gradients are in the shape of their inputs, in memory laid out by chance like theirs.
template <class T> Case<T> case_of(const Problem& problem) {
  Random random(problem.seed);
  Case<T> it{problem, inputs_of<T>(random, problem), {}, {}};
  for (const int64_t size : problem.batch) it.elements *= size;
  const int64_t rows = it.elements * problem.rows;
  if (problem.joint) it.upstream.joint = random_numbers<T>(random, rows);
  if (problem.marginal) it.upstream.marginal = random_numbers<T>(random, rows * problem.dims);
  const auto asked = [&] { return problem.sharing == 0 || !random.one_in(6); };
  if (asked()) it.gradients.value = new_tensor<T>(random, without_sharing_inside(it.inputs.value.shape));
  if (asked()) it.gradients.scale = new_tensor<T>(random, it.inputs.scale.shape);
  if (problem.weighted && asked())
    it.gradients.log_weights = new_tensor<T>(random, it.inputs.log_weights.shape);
  const bool others = it.gradients.scale.given() || it.gradients.log_weights.given();
  if (asked() || !others) it.gradients.loc = new_tensor<T>(random, it.inputs.loc.shape);
  return it;
}

template <class T> MixtureProblem problem_for_call(Case<T>& it) {
  const Problem& p = it.problem;
  MixtureProblem problem{};
  problem.dtype = p.single ? pykernels::Dtype::float32 : pykernels::Dtype::float64;
  problem.batch.ndim = static_cast<int>(p.batch.size());
  for (size_t dim = 0; dim < p.batch.size(); ++dim) problem.batch.sizes[dim] = p.batch[dim];
  problem.rows = p.rows;
  problem.components = p.components;
  problem.dims = p.dims;
  problem.value = it.inputs.value.view();
  problem.loc = it.inputs.loc.view();
  problem.scale = it.inputs.scale.view();
  problem.log_weights = it.inputs.log_weights.view();
  problem.pairs = p.pairs();
  return problem;
}

template <class T> T* data_or_null(std::vector<T>& numbers) {
  return numbers.empty() ? nullptr : numbers.data();
}

template <class T> const T* data_or_null(const std::vector<T>& numbers) {
  return numbers.empty() ? nullptr : numbers.data();
}

// `call` is one of the functions of the variant, and `size` tells the workspace that it takes.
template <class Arguments, class Size, class Call>
Status call_with_workspace(Arguments& arguments, Size size, Call call, const Manner& manner) {
  static char stream;  // an address that the kernels have to hand on
  Interrupt none{};
  arguments.workspace_bytes = size(arguments, manner.threads);
  Workspace workspace(arguments.workspace_bytes, manner.workspace_content);
  arguments.workspace = workspace.data();
  launches = {&stream, 0, nullptr};
  return call(arguments, {manner.threads, manner.interrupt ? manner.interrupt : &none, 0, &stream});
}

template <class T>
Status forward(const MixtureVariant& variant, Case<T>& it, bool slopes, const Manner& manner,
               Forward<T>& out) {
  const int64_t rows = it.elements * it.problem.rows, values = rows * it.problem.dims;
  out = {};
  if (it.problem.joint) {
    out.joint = unwritten<T>(rows);
    out.joint_log2 = unwritten<T>(rows);
    if (slopes) out.joint_slope = unwritten<T>(values);
  }
  if (it.problem.marginal) {
    out.marginal = unwritten<T>(values);
    out.marginal_log2 = unwritten<T>(values);
    if (slopes) out.marginal_slope = unwritten<T>(values);
  }
  MixtureForward arguments{};
  arguments.problem = problem_for_call(it);
  arguments.joint = data_or_null(out.joint);
  arguments.joint_log2 = data_or_null(out.joint_log2);
  arguments.joint_slope = data_or_null(out.joint_slope);
  arguments.marginal = data_or_null(out.marginal);
  arguments.marginal_log2 = data_or_null(out.marginal_log2);
  arguments.marginal_slope = data_or_null(out.marginal_slope);
  return call_with_workspace(arguments, variant.forward_workspace, variant.forward, manner);
}

// The joint density and what comes with it alone.
template <class T>
Status statistics(const MixtureVariant& variant, Case<T>& it, const Manner& manner, Forward<T>& out) {
  const int64_t rows = it.elements * it.problem.rows;
  out = {};
  for (auto* numbers : {&out.joint, &out.joint_log2, &out.perplexity, &out.collision_count})
    *numbers = unwritten<T>(rows);
  MixtureForward arguments{};
  arguments.problem = problem_for_call(it);
  arguments.joint = out.joint.data();
  arguments.joint_log2 = out.joint_log2.data();
  arguments.perplexity = out.perplexity.data();
  arguments.collision_count = out.collision_count.data();
  return call_with_workspace(arguments, variant.forward_workspace, variant.forward, manner);
}

// A variant that gives slopes needs them for the gradient of value, if there are no `statistics`: upstream
// gradients of the latter, see grad_statistics.
template <class T>
Status backward(const MixtureVariant& variant, Case<T>& it, const Forward<T>& densities, bool with_value,
                const Manner& manner, Backward<T>& out, const std::vector<T>& statistics = {}) {
  out = it.gradients;
  if (!with_value) out.value = {};
  MixtureBackward arguments{};
  arguments.problem = problem_for_call(it);
  arguments.joint_log2 = data_or_null(densities.joint_log2);
  arguments.marginal_log2 = data_or_null(densities.marginal_log2);
  arguments.joint_slope = data_or_null(densities.joint_slope);
  arguments.marginal_slope = data_or_null(densities.marginal_slope);
  arguments.grad_joint = data_or_null(it.upstream.joint);
  arguments.grad_marginal = data_or_null(it.upstream.marginal);
  arguments.grad_statistics = data_or_null(statistics);
  arguments.grad_value = out.value.view();
  arguments.grad_loc = out.loc.view();
  arguments.grad_scale = out.scale.view();
  arguments.grad_log_weights = out.log_weights.view();
  return call_with_workspace(arguments, variant.backward_workspace, variant.backward, manner);
}

}  // namespace check
