// The variant "cuda" for the program, whose memory is the host's: the real one, which gpu.py has renamed to
// mmd_there, behind a mirror.
#include <mmd/mmd.h>

#include "mirror.h"

namespace pykernels {

extern const MmdVariant mmd_there;

namespace {

// A field that is new may be an address, which has to be moved to the GPU below.
constexpr size_t kWord = 8;
static_assert(sizeof(MmdProblem) ==
              8 * kWord + sizeof(BatchShape) + 4 * sizeof(StridedTensor) + kMostMmdScales * sizeof(double));

Status run(const MmdArguments& args, MmdExecution execution) {
  check::Mirror mirror;
  const MmdProblem& p = args.problem;
  const int64_t item = p.dtype == Dtype::float32 ? 4 : 8, batch = batch_count(p.batch);
  MmdArguments moved = args;
  moved.problem.x = mirror.input(p.x, p.batch, {p.n, p.dims}, item);
  moved.problem.y = mirror.input(p.y, p.batch, {p.m, p.dims}, item);
  moved.problem.x_masses = mirror.input(p.x_masses, p.batch, {p.n}, sizeof(double));
  moved.problem.y_masses = mirror.input(p.y_masses, p.batch, {p.m}, sizeof(double));
  moved.value = mirror.output(args.value, batch * item);
  moved.slope_x = mirror.output(args.slope_x, batch * p.n * p.dims * item);
  moved.slope_y = mirror.output(args.slope_y, batch * p.m * p.dims * item);
  moved.workspace = mirror.workspace(args.workspace, args.workspace_bytes);
  execution.stream = mirror.stream();
  return mirror.finish(mmd_there.run(moved, execution));
}

}  // namespace

extern const MmdVariant mmd_cuda;
const MmdVariant mmd_cuda = {
    "cuda",
    [] { return mmd_there.runs_here(); },
    nullptr,
    nullptr,
    [](const MmdArguments& args, int threads) { return mmd_there.workspace(args, threads); },
    run,
    true};

}  // namespace pykernels
