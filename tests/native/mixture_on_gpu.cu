// The variant "cuda" for the program, whose memory is the host's: the real one, which gpu.py has renamed to
// mixture_there, behind a mirror.
#include <mixture/mixture.h>

#include "mirror.h"

namespace pykernels {

extern const MixtureVariant mixture_there;

namespace {

using check::Mirror;

// A field that is new may be an address, which has to be moved to the GPU below.
constexpr size_t kWord = 8;
static_assert(sizeof(MixtureProblem) ==
              4 * kWord + sizeof(BatchShape) + 4 * sizeof(StridedTensor) + sizeof(PairWeights));
static_assert(sizeof(MixtureForward) == sizeof(MixtureProblem) + 10 * kWord);
static_assert(sizeof(MixtureBackward) == sizeof(MixtureProblem) + 9 * kWord + 4 * sizeof(StridedTensor));

int64_t item_size(const MixtureProblem& p) { return p.dtype == Dtype::float32 ? 4 : 8; }
int64_t batch_rows(const MixtureProblem& p) { return batch_count(p.batch) * p.rows; }

MixtureProblem there(Mirror& mirror, MixtureProblem p) {
  const int64_t item = item_size(p);
  p.value = mirror.input(p.value, p.batch, {p.rows, p.dims}, item);
  p.loc = mirror.input(p.loc, p.batch, {p.components, p.dims}, item);
  p.scale = mirror.input(p.scale, p.batch, {p.components, p.dims}, item);
  p.log_weights = mirror.input(p.log_weights, p.batch, {p.components}, item);
  return p;
}

Status forward(const MixtureForward& args, Execution execution) {
  Mirror mirror;
  const MixtureProblem& p = args.problem;
  const int64_t by_row = batch_rows(p) * item_size(p), by_dim = by_row * p.dims;
  MixtureForward moved = args;
  moved.problem = there(mirror, p);
  for (void** const field : {&moved.joint, &moved.joint_log2, &moved.perplexity, &moved.collision_count})
    *field = mirror.output(*field, by_row);
  for (void** const field :
       {&moved.marginal, &moved.marginal_log2, &moved.joint_slope, &moved.marginal_slope})
    *field = mirror.output(*field, by_dim);
  moved.workspace = mirror.workspace(args.workspace, args.workspace_bytes);
  execution.stream = mirror.stream();
  return mirror.finish(mixture_there.forward(moved, execution));
}

Status backward(const MixtureBackward& args, Execution execution) {
  Mirror mirror;
  const MixtureProblem& p = args.problem;
  const int64_t item = item_size(p), by_row = batch_rows(p) * item, by_dim = by_row * p.dims;
  MixtureBackward moved = args;
  moved.problem = there(mirror, p);
  for (const void** const field : {&moved.joint_log2, &moved.grad_joint})
    *field = mirror.input(*field, by_row);
  for (const void** const field :
       {&moved.marginal_log2, &moved.joint_slope, &moved.marginal_slope, &moved.grad_marginal})
    *field = mirror.input(*field, by_dim);
  moved.grad_statistics = mirror.input(args.grad_statistics, 2 * by_row);
  moved.grad_value = mirror.output(args.grad_value, p.batch, {p.rows, p.dims}, item);
  moved.grad_loc = mirror.output(args.grad_loc, p.batch, {p.components, p.dims}, item);
  moved.grad_scale = mirror.output(args.grad_scale, p.batch, {p.components, p.dims}, item);
  moved.grad_log_weights = mirror.output(args.grad_log_weights, p.batch, {p.components}, item);
  moved.workspace = mirror.workspace(args.workspace, args.workspace_bytes);
  execution.stream = mirror.stream();
  return mirror.finish(mixture_there.backward(moved, execution));
}

}  // namespace

extern const MixtureVariant mixture_cuda;
const MixtureVariant mixture_cuda = {
    "cuda",
    [] { return mixture_there.runs_here(); },
    true,
    [](const MixtureForward& args, int threads) { return mixture_there.forward_workspace(args, threads); },
    [](const MixtureBackward& args, int threads) { return mixture_there.backward_workspace(args, threads); },
    forward,
    backward};

}  // namespace pykernels
