// The Python module: integers become pointers, the GIL is released, a Status becomes an exception.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#if defined(PYKERNELS_CUDA)
#include "core/cuda_device.h"
#endif
#include "mixture/mixture.h"
#include "mmd/mmd.h"

namespace py = pybind11;

namespace pykernels {
namespace {

using Strided = std::pair<uintptr_t, std::vector<int64_t>>;  // address and strides in elements

void* address(uintptr_t integer) { return reinterpret_cast<void*>(integer); }

StridedTensor strided(const std::optional<Strided>& tensor) {
  StridedTensor out{};
  if (!tensor) return out;
  if (tensor->second.size() > kMaxBatchDims + 2) throw py::value_error("more than 8 batch dimensions");
  // An empty tensor has no address, and is there all the same.
  static char nothing;
  out.data = tensor->first ? address(tensor->first) : &nothing;
  for (size_t dim = 0; dim < tensor->second.size(); ++dim) out.strides[dim] = tensor->second[dim];
  return out;
}

using Weights = std::array<double, 3>;  // own, next and other, see PairWeights

// shape: (*batch, rows, components, dims)
MixtureProblem problem_of(int dtype, const std::vector<int64_t>& shape, const Strided& value,
                          const Strided& loc, const Strided& scale, const std::optional<Strided>& log_weights,
                          const std::optional<Weights>& pairs) {
  if (shape.size() < 3 || shape.size() > kMaxBatchDims + 3)
    throw py::value_error("shape must be (*batch, rows, components, dims)");
  MixtureProblem problem{};
  problem.dtype = static_cast<Dtype>(dtype);
  problem.batch.ndim = static_cast<int>(shape.size()) - 3;
  for (int dim = 0; dim < problem.batch.ndim; ++dim) problem.batch.sizes[dim] = shape[dim];
  const int64_t* sizes = shape.data() + problem.batch.ndim;
  problem.rows = sizes[0];
  problem.components = sizes[1];
  problem.dims = sizes[2];
  problem.value = strided(value);
  problem.loc = strided(loc);
  problem.scale = strided(scale);
  problem.log_weights = strided(log_weights);
  problem.pairs.other = -std::log2(static_cast<double>(problem.components));
  if (pairs) {
    const auto [own, next, other] = *pairs;
    problem.pairs = {std::log2(own / other), std::log2(next / other), std::log2(other)};
  }
  return problem;
}

// Lets Python handle signals ten times a second; true if a handler raised (Ctrl-C).
struct Signals {
  std::chrono::steady_clock::time_point last = std::chrono::steady_clock::now();

  static bool poll(void* self) {
    auto& last = static_cast<Signals*>(self)->last;
    const auto now = std::chrono::steady_clock::now();
    if (now - last < std::chrono::milliseconds(100)) return false;
    last = now;
    py::gil_scoped_acquire gil;
    return PyErr_Occurred() || PyErr_CheckSignals() != 0;
  }
};

const MixtureVariant& variant_named(const std::string& name) {
  Status status;
  const MixtureVariant* variant = find_mixture_variant(name.c_str(), &status);
  if (!variant) throw std::runtime_error("kernel variant '" + name + "': " + status_text(status));
  return *variant;
}

// Threads of a CPU; or number and stream of a CUDA device, and a function from bytes to the address of memory
// there, which the caller keeps until the call is over.
struct Place {
  int threads, device;
  uintptr_t stream;
  py::object allocate;
};

struct Workspace {
  Workspace(bool on_device, int64_t bytes, const Place& place)
      : own(on_device ? nullptr : new char[bytes]),
        data(own ? own.get() : address(place.allocate(bytes).cast<uintptr_t>())) {}
  const std::unique_ptr<char[]> own;
  void* const data;
};

// Runs launch(execution) without the GIL.
template <class Launch> void run(const Place& place, const Launch& launch) {
  Signals signals;
  Interrupt interrupt{Signals::poll, &signals, 0};
  const Execution execution{place.threads, &interrupt, place.device, address(place.stream)};
  Status status;
  {
    py::gil_scoped_release released;
    status = launch(execution);
  }
  if (status == Status::interrupted) throw py::error_already_set();
  if (status != Status::ok) throw std::runtime_error(status_text(status));
}

void mixture_log_prob(int dtype, const std::vector<int64_t>& shape, const Strided& value, const Strided& loc,
                      const Strided& scale, const std::optional<Strided>& log_weights,
                      const std::optional<Weights>& pairs, uintptr_t joint, uintptr_t joint_log2,
                      uintptr_t joint_slope, uintptr_t marginal, uintptr_t marginal_log2,
                      uintptr_t marginal_slope, uintptr_t perplexity, uintptr_t collision_count,
                      const std::string& variant_name, int threads, int device, uintptr_t stream,
                      const py::object& allocate) {
  const Place place{threads, device, stream, allocate};
  const MixtureVariant& variant = variant_named(variant_name);
  MixtureForward args{};
  args.problem = problem_of(dtype, shape, value, loc, scale, log_weights, pairs);
  args.joint = address(joint);
  args.joint_log2 = address(joint_log2);
  args.marginal = address(marginal);
  args.marginal_log2 = address(marginal_log2);
  args.joint_slope = address(joint_slope);
  args.marginal_slope = address(marginal_slope);
  args.perplexity = address(perplexity);
  args.collision_count = address(collision_count);
  args.workspace_bytes = variant.forward_workspace(args, threads);
  const Workspace workspace(variant.on_device, args.workspace_bytes, place);
  args.workspace = workspace.data;
  run(place, [&](Execution execution) { return variant.forward(args, execution); });
}

void mixture_log_prob_backward(
    int dtype, const std::vector<int64_t>& shape, const Strided& value, const Strided& loc,
    const Strided& scale, const std::optional<Strided>& log_weights, const std::optional<Weights>& pairs,
    uintptr_t joint_log2, uintptr_t marginal_log2, uintptr_t joint_slope, uintptr_t marginal_slope,
    uintptr_t grad_joint, uintptr_t grad_marginal, uintptr_t grad_statistics,
    const std::optional<Strided>& grad_value, const std::optional<Strided>& grad_loc,
    const std::optional<Strided>& grad_scale, const std::optional<Strided>& grad_log_weights,
    const std::string& variant_name, int threads, int device, uintptr_t stream, const py::object& allocate) {
  const Place place{threads, device, stream, allocate};
  const MixtureVariant& variant = variant_named(variant_name);
  MixtureBackward args{};
  args.problem = problem_of(dtype, shape, value, loc, scale, log_weights, pairs);
  args.joint_log2 = address(joint_log2);
  args.marginal_log2 = address(marginal_log2);
  args.joint_slope = address(joint_slope);
  args.marginal_slope = address(marginal_slope);
  args.grad_joint = address(grad_joint);
  args.grad_marginal = address(grad_marginal);
  args.grad_statistics = address(grad_statistics);
  args.grad_value = strided(grad_value);
  args.grad_loc = strided(grad_loc);
  args.grad_scale = strided(grad_scale);
  args.grad_log_weights = strided(grad_log_weights);
  args.workspace_bytes = variant.backward_workspace(args, threads);
  const Workspace workspace(variant.on_device, args.workspace_bytes, place);
  args.workspace = workspace.data;
  run(place, [&](Execution execution) { return variant.backward(args, execution); });
}

// Of one of several processes: the ranges, counts and excess of all points, and a function that adds up the
// numbers at an address over the processes.
using Share = std::tuple<std::vector<double>, std::array<double, 2>, std::array<double, 2>, py::object>;

bool call_sum(void* function, double* numbers, int64_t count) {
  py::gil_scoped_acquire gil;
  try {
    (*static_cast<const py::object*>(function))(reinterpret_cast<uintptr_t>(numbers), count);
    return true;
  } catch (py::error_already_set& error) {
    error.restore();
    return false;
  }
}

// shape: (*batch, n, m, dims)
void cauchy_mmd(int dtype, const std::vector<int64_t>& shape, const Strided& x, const Strided& y,
                const std::optional<Strided>& x_masses, const std::optional<Strided>& y_masses,
                const std::vector<double>& scales, bool unbiased, int method, double width, int order,
                uintptr_t value, uintptr_t slope_x, uintptr_t slope_y, const std::string& variant_name,
                int threads, int device, uintptr_t stream, const py::object& allocate,
                const std::optional<Share>& given_share) {
  if (shape.size() < 3 || shape.size() > kMaxBatchDims + 3)
    throw py::value_error("shape must be (*batch, n, m, dims)");
  if (scales.size() > kMostMmdScales) throw py::value_error("more than 32 scales");
  Status status;
  const MmdVariant* const variant = find_mmd_variant(variant_name.c_str(), &status);
  if (!variant) throw std::runtime_error("kernel variant '" + variant_name + "': " + status_text(status));
  MmdArguments args{};
  MmdProblem& problem = args.problem;
  problem.dtype = static_cast<Dtype>(dtype);
  problem.batch.ndim = static_cast<int>(shape.size()) - 3;
  for (int dim = 0; dim < problem.batch.ndim; ++dim) problem.batch.sizes[dim] = shape[dim];
  const int64_t* const sizes = shape.data() + problem.batch.ndim;
  problem.n = sizes[0];
  problem.m = sizes[1];
  problem.dims = sizes[2];
  problem.x = strided(x);
  problem.y = strided(y);
  problem.x_masses = strided(x_masses);
  problem.y_masses = strided(y_masses);
  std::copy(scales.begin(), scales.end(), problem.scales);
  problem.num_scales = static_cast<int>(scales.size());
  problem.unbiased = unbiased;
  problem.method = static_cast<MmdMethod>(method);
  problem.width = width;
  problem.order = order;
  args.value = address(value);
  args.slope_x = address(slope_x);
  args.slope_y = address(slope_y);
  const std::unique_ptr<double[]> ranges(new double[batch_count(problem.batch) * problem.dims * 2]);
  args.ranges = ranges.get();
  const Place place{threads, device, stream, allocate};
  const auto step = [&](int64_t bytes, Status (*function)(const MmdArguments&, MmdExecution)) {
    const Workspace workspace(variant->on_device, bytes, place);
    args.workspace = workspace.data;
    args.workspace_bytes = bytes;
    run(place, [&](Execution execution) {
      return function(
          args, MmdExecution{execution.threads, execution.interrupt, execution.device, execution.stream});
    });
  };
  MmdShare share{};
  if (given_share) {
    const auto& [all_ranges, counts, excess, sum] = *given_share;
    std::copy(all_ranges.begin(), all_ranges.end(), ranges.get());
    std::copy(counts.begin(), counts.end(), share.counts);
    std::copy(excess.begin(), excess.end(), share.excess);
    share.sum = call_sum;
    share.context = const_cast<py::object*>(&sum);
    args.share = &share;
  }
  if (variant->measure && !given_share) step(variant->measure_workspace(args), variant->measure);
  step(variant->workspace(args, threads), variant->run);
}

// The variants for tensors in main memory, or for those on a GPU.
std::vector<std::string> variant_names(bool on_device, bool only_runnable) {
  std::vector<std::string> names;
  for (const MixtureVariant* variant : mixture_variants())
    if (variant->on_device == on_device && (!only_runnable || variant->runs_here()))
      names.emplace_back(variant->name);
  return names;
}

py::dict built() {
  py::dict facts;
  facts["compiler"] = PYKERNELS_COMPILER;
  facts["variants"] = variant_names(false, false);
#ifdef _OPENMP
  facts["openmp"] = std::to_string(_OPENMP);
#else
  facts["openmp"] = "none: one thread";
#endif
  facts["cuda"] = PYKERNELS_CUDA_ARCHITECTURES;
#if defined(PYKERNELS_CUDA)
  const CudaDevices devices = cuda_devices();
  facts["cuda devices"] = devices.problem ? std::string(devices.problem) : std::to_string(devices.count);
#endif
  return facts;
}

}  // namespace
}  // namespace pykernels

PYBIND11_MODULE(_C, module) {
  using namespace pykernels;
  module.doc() = "Compiled kernels of pykernels; only pykernels/_launch.py may call them.";
  module.def(
      "variants", [] { return variant_names(false, true); }, "Variants that this CPU runs, best first.");
  module.def(
      "device_variants", [] { return variant_names(true, true); },
      "Variants that a GPU of this machine runs.");
  module.def("built", &built, "What was compiled, by which compiler.");
  module.def("mixture_log_prob", &mixture_log_prob);
  module.def("mixture_log_prob_backward", &mixture_log_prob_backward);
  module.def("cauchy_mmd", &cauchy_mmd);
  module.def(
      "mmd_variants",
      [] {
        std::vector<std::string> names;
        for (const MmdVariant* variant : mmd_variants())
          if (variant->runs_here()) names.emplace_back(variant->name);
        return names;
      },
      "Variants of cauchy_mmd that this machine runs.");
}
