"""Minibatch estimates of the log-density beside the published formulation, and both densities beside the marginals
alone: `python -m benchmarks.bench_minibatch [--quick] [--out FILE]`.

`--compare FILE` fails when a ratio has dropped by a quarter or more since FILE was written. Every job runs in a process
of its own, with the allocator that it asks for. Shapes are (B, D): a minibatch of B encodings, with a point of each.
What is timed is the integrand of the total correlation, [B], joint less the sum of the marginals.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pykernels import (
    gaussian_mixture_joint_and_marginal_log_prob,
    gaussian_mixture_marginal_log_prob,
    minibatch_log_prob,
)

from . import baselines, command, harness
from .output import table
from .problems import Problem, equal_scales

OURS, DENSE, MARGINALS = "ours", "dense", "marginals"
DATASET_SIZE = 60_000
JOB_LIMIT_S = 600
SHAPES = (64, 10), (512, 10), (2048, 10), (512, 50)
ESTIMATORS = "mws", "mss", "hfvae"
MEMORY_SHAPE = 2048, 10
FUSED = (4096, 10), (4096, 50), (1024, 10)


def encodings(size: int, dims: int) -> Problem:
    """A point of each encoding, as a VAE draws them; encodings that overlap."""
    _, loc, scale = equal_scales(size, size, dims, 0.5)
    return Problem(loc + scale * torch.randn(size, dims), loc, scale)


def ours(estimator: str) -> baselines.Formulation:
    def integrand(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        joint, marginal = minibatch_log_prob(z, loc, scale, DATASET_SIZE, estimator)
        return joint - marginal.sum(-1)

    return integrand


def formulations(estimator: str) -> dict[str, baselines.Formulation]:
    return {OURS: ours(estimator), DENSE: baselines.dense_minibatch(estimator, DATASET_SIZE)}


def time_estimator(shape: tuple[int, int], estimator: str, quick: bool) -> dict[str, Any]:
    problem = encodings(*shape)
    exact = problem.to(torch.float64).leaves()
    rows = torch.linspace(0, shape[0] - 1, min(shape[0], 16)).round().long()
    value = baselines.dense_minibatch(estimator, DATASET_SIZE, rows)(*exact)
    expected = harness.Oracle(rows, value.detach(), torch.autograd.grad(value.sum(), exact))
    chosen = formulations(estimator)
    errors = {name: harness.check(function, problem, expected) for name, function in chosen.items()}
    return {"errors": errors} | times(chosen, problem, quick)


def time_fused(shape: tuple[int, int], quick: bool) -> dict[str, Any]:
    """Both densities of a mixture, and its marginals alone."""

    def both(*inputs: Tensor) -> Tensor:
        joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(*inputs)
        return joint - marginal.sum(-1)

    def marginals(*inputs: Tensor) -> Tensor:
        return gaussian_mixture_marginal_log_prob(*inputs).sum(-1)

    return times({OURS: both, MARGINALS: marginals}, encodings(*shape), quick)


def times(chosen: dict[str, baselines.Formulation], problem: Problem, quick: bool) -> dict[str, Any]:
    calls = {name: harness.calls(function, problem) for name, function in chosen.items()}
    timed = {(kind, name): call for name, of in calls.items() for kind, call in of.items()}
    found, noise = harness.interleave(timed, *((3, 4.0) if quick else (7, 25.0)))
    times_ms = {kind: {name: found[kind, name] for name in chosen} for kind in ("forward", "both")}
    return {"times_ms": times_ms, "noise": noise}


def peak_memory(estimator: str, name: str) -> dict[str, float]:
    """Of forward and backward, the gradients included."""
    call = harness.calls(formulations(estimator)[name], encodings(*MEMORY_SHAPE))["both"]
    return {"growth": harness.peak_growth(call)}


def jobs(quick: bool) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Name -> allocator and function, whose result is JSON."""
    made: dict[str, tuple[str, Callable[[], Any]]] = {}
    for shape in SHAPES[:2] if quick else SHAPES:
        for estimator in ESTIMATORS:
            made[f"time {text(shape)} {estimator}"] = (
                "tuned",
                partial(time_estimator, shape, estimator, quick),
            )
    for shape in FUSED[:1] if quick else FUSED:
        made[f"fused {text(shape)}"] = "tuned", partial(time_fused, shape, quick)
    for name in (OURS,) if quick else (OURS, DENSE):
        made[f"memory {text(MEMORY_SHAPE)} {name}"] = "returning", partial(peak_memory, "hfvae", name)
    return made


def text(shape: tuple[int, int]) -> str:
    return "x".join(map(str, shape))


def all_ratios(results: dict[str, Any]) -> dict[str, float]:
    """Others' times over ours, and what of the time for both densities the marginals alone take."""
    return {
        f"{job}, {name}, {kind}": ratio
        for job, result in results.items()
        for kind, measured in result.get("times_ms", {}).items()
        for name, ratio in harness.ratios(measured, OURS).items()
    }


def add_ratios(report: dict[str, Any]) -> None:
    report["ratios"] = all_ratios(report["jobs"])


def show(report: dict[str, Any]) -> str:
    """The tables of a report."""
    rows, memory, failed = [], [], []
    for job, result in report["jobs"].items():
        if "error" in result:
            failed.append(f"FAILED {job}: {result['error']}")
        for name in result.get("times_ms", {}).get("forward", {}):
            least = [of_kind[name]["min"] for of_kind in result["times_ms"].values()]
            over = [t / of_kind[OURS]["min"] for t, of_kind in zip(least, result["times_ms"].values())]
            errors = result.get("errors", {}).get(name, {"value": None, "gradient": None}).values()
            rows.append([job, name, *least, *over, *errors, result["noise"]["others_cpu"]])
        if "growth" in result:
            memory.append([*job.rsplit(" ", 1), result["growth"] / 1e6])
    header = ["", "", *harness.TIME_COLUMNS, *harness.ERROR_COLUMNS, "others' CPU"]
    return "\n\n".join([table(header, rows), table(["peak memory", "", "growth MB"], memory), *failed])


def main() -> int:
    return command.main(
        "bench_minibatch",
        __doc__,
        jobs,
        show,
        quick="a minute: fewer shapes and rounds",
        limit_s=JOB_LIMIT_S,
        add_ratios=add_ratios,
    )


if __name__ == "__main__":
    sys.exit(main())
