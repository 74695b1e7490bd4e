"""The operators on a GPU beside other formulations: `python -m benchmarks.gpu.ops GROUP --out FILE`.

A group is one process; FILE is written anew after each of its cases. Each contender is checked against float64 first.
"""

import argparse
import math
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pykernels import (
    _launch,
    cauchy_mmd,
    gaussian_mixture_joint_and_marginal_log_prob,
    gaussian_mixture_log_prob,
    gaussian_mixture_marginal_log_prob,
    minibatch_log_prob,
    responsibility_statistics,
)
from vae.capture import cuda_graph, on_side_stream

from .. import baselines, bench_minibatch, bench_mmd, harness, output
from ..baselines import Formulation
from ..problems import Problem, spread_scales
from . import floors
from .machine import graphics_state
from .steps import EXIT_NOT_MEASURED

OURS, GRAPH = "ours", "ours, CUDA graph"
CHUNKS = 1 << 24, 1 << 27  # elements of a [rows, n, D] temporary: larger than on a CPU
LOGITS = 1 << 26, 1 << 30  # of a [rows, n] one
ROUNDS, SECONDS = 5, 4.0
GRAPH_BELOW_S = 1e-3  # where launches may take a part of the time
WARM_UP_PAIRS = 1 << 30
DATASET_SIZE = 60_000
MMD_DIMS = 50
Kinds = dict[str, Callable[[], Any]]


def marginals(*inputs: Tensor) -> Tensor:
    return gaussian_mixture_marginal_log_prob(*inputs).sum(-1)


def both(*inputs: Tensor) -> Tensor:
    joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    return joint - marginal.sum(-1)


def minibatch(*inputs: Tensor) -> Tensor:
    joint, marginal = minibatch_log_prob(*inputs, DATASET_SIZE, "hfvae")
    return joint - marginal.sum(-1)


def responsibilities(*inputs: Tensor) -> Tensor:
    log_prob, perplexity, collision_count = responsibility_statistics(*inputs)
    return log_prob + perplexity.log() + collision_count.log()


MIXTURE_OPS: dict[str, tuple[Formulation, Formulation]] = {
    "joint": (gaussian_mixture_log_prob, baselines.dense),
    "marginals": (marginals, baselines.dense_marginals),
    "joint and marginals": (both, baselines.dense_both),
    "responsibilities": (responsibilities, baselines.dense_responsibilities),
}
"""Ours, and the dense formula of the same."""


class Case(NamedTuple):
    op: str
    shape: tuple[int, ...]
    """(n, B, D), (B, D) of a minibatch, or points of each sample."""
    others: tuple[str, ...]


KEOPS = ("KeOps 1D", "KeOps 2D")
GROUPS: dict[str, tuple[Case, ...]] = {
    "joint": (
        Case("joint", (60000, 16384, 10), ("chunked", "matrix product")),
        Case("joint", (737280, 4096, 10), ("chunked", "matrix product")),
        Case("joint", (60000, 500, 50), ("chunked", "matrix product")),
        Case("joint", (400, 400, 2), ("dense", "matrix product")),
        Case("joint", (500, 500, 50), ("dense", "matrix product")),
        Case("joint", (737280, 16384, 10), ()),
    ),
    "MMD": (
        Case("MMD", (60000,), ("direct",)),
        Case("MMD", (2048,), ("direct", "dense")),
        Case("MMD", (500,), ("direct", "dense")),
        Case("MMD", (1_000_000,), ()),
    ),
    "others": (
        Case("marginals", (60000, 500, 50), ("chunked",)),
        Case("joint and marginals", (60000, 500, 50), ("chunked",)),
        Case("minibatch", (2048, 10), ("dense",)),
        Case("minibatch", (512, 50), ("dense",)),
        Case("responsibilities", (60000, 4096, 10), ("chunked",)),
        Case("marginals", (60000, 16384, 10), ()),
        Case("joint and marginals", (60000, 16384, 10), ()),
        Case("marginals", (737280, 4096, 10), ()),
    ),
    "torch.compile": (
        Case("joint", (60000, 16384, 10), ("torch.compile",)),
        Case("joint", (737280, 4096, 10), ("torch.compile",)),
        Case("joint and marginals", (60000, 500, 50), ("torch.compile",)),
        Case("MMD", (2048,), ("torch.compile",)),
    ),
    "KeOps": (
        Case("joint", (60000, 16384, 10), KEOPS),
        Case("joint", (737280, 4096, 10), KEOPS),
        Case("joint", (60000, 500, 50), KEOPS),
        Case("MMD", (2048,), KEOPS),
    ),
}


def formulations(case: Case) -> dict[str, list[Formulation]]:
    """Of each contender the choices, of which the fastest counts."""
    if case.op == "minibatch":
        return {OURS: [minibatch], "dense": [baselines.dense_minibatch("hfvae", DATASET_SIZE)]}
    ours, dense = MIXTURE_OPS[case.op]
    return {
        OURS: [ours],
        "dense": [dense],
        "chunked": [baselines.chunked(elements, dense) for elements in CHUNKS],
        "matrix product": list(map(baselines.matrix_product, LOGITS)),
        "torch.compile": [baselines.compiled(dense)],
        **{name: [partial(baselines.keops, backend=f"GPU_{name[-2:]}")] for name in KEOPS},
    }


def mmd_formulations() -> dict[str, baselines.Mmd]:
    return {
        OURS: cauchy_mmd,
        "direct": partial(cauchy_mmd, method="direct"),
        "dense": baselines.dense_mmd,
        "torch.compile": baselines.compiled_mmd(),
        **{name: partial(baselines.keops_mmd, backend=f"GPU_{name[-2:]}") for name in KEOPS},
    }


def problem_of(case: Case, device: torch.device) -> tuple[Problem, harness.Oracle]:
    """On the device, with the values and gradients of some rows in float64."""
    if case.op == "minibatch":
        problem = bench_minibatch.encodings(*case.shape).to(device)
        rows = torch.linspace(0, case.shape[0] - 1, 16, device=device).round().long()
        exact = problem.to(torch.float64).leaves()
        value = baselines.dense_minibatch("hfvae", DATASET_SIZE, rows)(*exact)
        return problem, harness.Oracle(rows, value.detach(), torch.autograd.grad(value.sum(), exact))
    problem = spread_scales(*case.shape).to(device)
    return problem, harness.oracle(problem, MIXTURE_OPS[case.op][1])


def mixture_contenders(case: Case, device: torch.device) -> Iterable[tuple[str, Callable[[], Any]]]:
    """Name, and what checks it and returns its errors and what is timed."""
    problem, expected = problem_of(case, device)
    choices = formulations(case)

    def prepare(name: str) -> tuple[dict[str, float], Kinds]:
        of_name = choices[name]
        chosen = harness.fastest(of_name, problem, event_clock) if len(of_name) > 1 else of_name[0]
        return harness.check(chosen, problem, expected), harness.calls(chosen, problem)

    return [(name, partial(prepare, name)) for name in (OURS, *case.others)]


def mmd_contenders(case: Case, device: torch.device) -> Iterable[tuple[str, Callable[[], Any]]]:
    """Of the value, and of the value with the gradient of x; errors are relative, against ours in float64."""
    x, y = (t.to(device) for t in bench_mmd.draws(case.shape[0], MMD_DIMS))
    expected = bench_mmd.value_and_gradient(cauchy_mmd, x.double(), y.double())
    choices = mmd_formulations()

    def prepare(name: str) -> tuple[dict[str, float], Kinds]:
        value = partial(bench_mmd.value_alone, choices[name], x, y)
        gradient = partial(bench_mmd.value_and_gradient, choices[name], x, y)
        errors = bench_mmd.relative(gradient(), expected)
        if not max(errors.values()) <= harness.SAME:
            raise ValueError(f"computes something else: errors {errors}")
        return errors, {"forward": value, "both": gradient}

    return [(name, partial(prepare, name)) for name in (OURS, *case.others)]


def costs_of(case: Case) -> dict[str, dict[str, floors.Cost]]:
    """Of ours, by contender: see floors.py."""
    if case.op == "MMD":
        costs = {OURS: floors.mmd("panels", *case.shape, MMD_DIMS)}  # from 500 points on that is the default
        return costs | {"direct": floors.mmd("direct", *case.shape, MMD_DIMS)}
    size = (case.shape[0], *case.shape) if case.op == "minibatch" else case.shape
    return {OURS: floors.mixture(case.op, *size)}


def measure(case: Case, device: torch.device) -> dict[str, Any]:
    """Errors, whether a repeat gives the same bits, memory and times; and why a contender was left out."""
    contenders = (mmd_contenders if case.op == "MMD" else mixture_contenders)(case, device)
    result: dict[str, Any] = {"costs": costs_of(case), "errors": {}, "growth": {}, "not_measured": {}}
    timed: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, prepare in contenders:
        try:
            result["errors"][name], calls = prepare()
            result["growth"][name] = peak_growth(calls["both"])
        except Exception as error:  # out of memory, say, or a package that cannot compile here
            torch.cuda.empty_cache()
            if name == OURS:
                raise
            result["errors"].pop(name, None)
            result["not_measured"][name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            continue
        timed |= {(kind, name): call for kind, call in calls.items()}
        if name == OURS:
            result["same_bits"] = same_bits(calls["both"]) and same_bits(calls["forward"])
            if event_clock(calls["forward"]) < GRAPH_BELOW_S:
                timed |= {(kind, GRAPH): graphed(call) for kind, call in calls.items()}
    times, result["noise"] = harness.interleave(timed, ROUNDS, SECONDS, event_clock)
    result["state"] = graphics_state()
    result["times_ms"] = {
        kind: {name: time for (k, name), time in times.items() if k == kind} for kind in ("forward", "both")
    }
    return result


def event_clock(call: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return 1e-3 * start.elapsed_time(end)


def peak_growth(call: Callable[[], Any]) -> int:
    """Bytes allocated at most during a call beyond those before it, results included."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def same_bits(call: Callable[[], Any]) -> bool:
    first, second = (found if isinstance(found, tuple) else (found,) for found in (call(), call()))
    return all(a.equal(b) for a, b in zip(first, second, strict=True))


def graphed(call: Callable[[], Any]) -> Callable[[], Any]:
    """What replays a call, recorded as a CUDA graph."""
    on_side_stream(call)
    return cuda_graph(call)


def title(case: Case) -> str:
    if case.op == "MMD":
        return f"MMD n={case.shape[0]} D={MMD_DIMS}"
    names = ("B", "D") if case.op == "minibatch" else ("n", "B", "D")
    return " ".join([case.op, *(f"{name}={size}" for name, size in zip(names, case.shape))])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.ops", description=__doc__)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--warm-up", action="store_true", help="compile what is compiled here, and time nothing"
    )
    options = parser.parse_args()
    device = torch.device("cuda")
    if _launch.variant_for(torch.empty(0, device=device)) != _launch.CUDA:
        print("the CUDA kernels are not built")
        return EXIT_NOT_MEASURED
    cases: dict[str, Any] = {}
    for case in GROUPS[options.group]:
        torch.manual_seed(0)
        try:
            if options.warm_up and math.prod(case.shape[:2]) > WARM_UP_PAIRS:
                continue  # other steps run meanwhile, and have need of memory
            if options.warm_up:
                contenders = (mmd_contenders if case.op == "MMD" else mixture_contenders)(case, device)
                cases[title(case)] = {name: str(prepare()[0]) for name, prepare in contenders if name != OURS}
            else:
                cases[title(case)] = measure(case, device)
        except (RuntimeError, ValueError, TypeError, ImportError) as error:
            # The exit status tells, and the other cases are worth having.
            traceback.print_exc()
            cases[title(case)] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        torch.cuda.empty_cache()
        output.write_json(options.out, {"cases": cases})
    return 1 if any("error" in case for case in cases.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
