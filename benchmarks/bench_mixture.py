"""The mixture log-density beside other formulations: `python -m benchmarks.bench_mixture [--quick] [--out FILE]`.

`--compare FILE` runs it anew and fails when a ratio has dropped by a quarter or more since FILE was written. Every
job runs in a process of its own, with the allocator that it asks for. Shapes are (n, B, D): components, points and
dimensions. Needs `pip install -e .[bench]`: run from the project's root, Python finds the package there.
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from pykernels import _launch, gaussian_mixture_log_prob

from . import baselines, command, harness
from .output import table
from .problems import equal_scales, half_active, spread_scales

OURS, AVX2 = "ours", "ours, AVX2"
JOB_LIMIT_S = 900
# Slots of the multiply-add units that a pair takes, (of each dimension, of the pair): difference and square or
# gradients; exponential and sums. Subtractions and additions go to other units.
FORWARD_SLOTS, BACKWARD_SLOTS = (2, 5), (5, 6)
LANES = {"avx512": 16, "avx2": 8}
SLOW_TO_COMPILE = {"torch.compile", "KeOps"}


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int]
    contenders: tuple[str, ...] = ()
    allocator: str = "tuned"

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return shape if self.allocator == "tuned" else f"{shape}, {self.allocator} allocator"


CASES = (
    Case((400, 400, 2), ("dense",)),
    Case((400, 400, 2), ("dense",), "default"),
    Case((500, 500, 50), ("dense", "torch.compile", "KeOps")),
    Case((4096, 4096, 10), ("dense", "torch.compile", "KeOps", "matrix product")),
    Case((60000, 500, 50), ("matrix product",)),
    Case((60000, 500, 50), ("chunked",), "default"),
    Case((60000, 2048, 10)),
    Case((737280, 256, 10)),
)
SKIPPING_ROWS = 500, 4096
MEMORY = (
    Case((737280, 256, 10), (OURS,)),
    Case((4096, 4096, 10), (OURS, "chunked", "matrix product", "dense", "torch.compile", "KeOps")),
)


def formulation(name: str) -> baselines.Formulation:
    formulations = {
        "dense": baselines.dense,
        "chunked": baselines.chunked(),
        "torch.compile": baselines.compiled(),
        "KeOps": baselines.keops,
        "matrix product": baselines.matrix_product(baselines.CHUNK_LOGITS[-1]),
    }
    return formulations.get(name, gaussian_mixture_log_prob)


def time_case(case: Case, quick: bool) -> dict[str, Any]:
    """Contenders that cannot run here are left out, with the reason."""
    problem = spread_scales(*case.shape)
    expected = harness.oracle(problem)
    scopes = {OURS: nullcontext}
    if _launch.current_variant() == "avx512":
        scopes[AVX2] = partial(_launch.use_variant, "avx2")
    errors, not_measured, timed = {}, {}, {}
    for name in (*scopes, *chosen(case.contenders, quick)):
        scope = scopes.get(name, nullcontext)
        try:
            log_prob = formulation(name)
            if name == "matrix product":
                choices = map(baselines.matrix_product, baselines.CHUNK_LOGITS)
                log_prob = harness.fastest(choices, problem)
            with scope():
                errors[name] = harness.check(log_prob, problem, expected)
        except Exception as error:
            if name in scopes:
                raise
            not_measured[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        for kind, call in harness.calls(log_prob, problem).items():
            timed[kind, name] = within(scope, call)
    times, noise = harness.interleave(timed, *effort(quick))
    times_ms = {kind: {n: times[k, n] for k, n in times if k == kind} for kind in ("forward", "both")}
    return {"errors": errors, "not_measured": not_measured, "times_ms": times_ms, "noise": noise}


def within(scope: Callable[[], Any], call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with scope():
            return call()

    return run


def chosen(contenders: Sequence[str], quick: bool) -> list[str]:
    return [name for name in contenders if not (quick and name in SLOW_TO_COMPILE | {"chunked"})]


def effort(quick: bool) -> tuple[int, float]:
    """Rounds, and the seconds after which no more are begun."""
    return (3, 4.0) if quick else (7, 25.0)


def time_skipping(rows: int, quick: bool) -> dict[str, Any]:
    """Ours on data of less and less overlap. The first is what the others' gain is counted from."""
    sizes = 60000, rows, 10
    problems = {"sigma 1": equal_scales(*sizes, 1.0)}
    problems |= {f"sigma {scale}": equal_scales(*sizes, scale) for scale in (0.5, 0.2, 0.05)}
    problems["5 of 10 active"] = half_active(*sizes)
    errors, timed = {}, {}
    for name, problem in problems.items():
        errors[name] = harness.check(gaussian_mixture_log_prob, problem, harness.oracle(problem))
        for kind, call in harness.calls(gaussian_mixture_log_prob, problem).items():
            timed[kind, name] = call
    times, noise = harness.interleave(timed, *effort(quick))
    times_ms = {kind: {name: times[kind, name] for name in problems} for kind in ("forward", "both")}
    return {"errors": errors, "times_ms": times_ms, "noise": noise}


def peak_memory(shape: tuple[int, int, int], name: str) -> dict[str, float]:
    """Of forward and backward, the gradients included, as a multiple of inputs and gradients together."""
    problem = spread_scales(*shape)
    inputs = sum(tensor.nbytes for tensor in problem)
    growth = harness.peak_growth(harness.calls(formulation(name), problem)["both"])
    return {"inputs": inputs, "growth": growth, "multiple": (inputs + growth) / (2 * inputs)}


def accuracy(quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Errors of float32 against float64 where scales are small beside locations, and where they are not."""
    names = chosen((OURS, "dense", "matrix product", "torch.compile", "KeOps"), quick)
    problems = {
        "D 10, sigma 0.01, loc 3": equal_scales(1000, 200, 10, 0.01, spread=3.0),
        "D 50, sigma 0.01, loc 3": equal_scales(1000, 200, 50, 0.01, spread=3.0),
        "D 10, sigma 0.37 to 1, loc 1": spread_scales(1000, 200, 10),
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    for label, problem in problems.items():
        expected = harness.oracle(problem)
        found[label] = {}
        for name in names:
            try:
                found[label][name] = harness.errors(formulation(name), problem, expected)
            except Exception as error:
                if name == OURS:
                    raise
                print(f"{name}: {error}", file=sys.stderr)
    return found


def jobs(quick: bool) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Name -> allocator and function, whose result is JSON."""
    cases = [case for case in CASES if not quick or chosen(case.contenders, quick)]
    made = {f"time {case}": (case.allocator, partial(time_case, case, quick)) for case in cases}
    for rows in SKIPPING_ROWS[: 1 if quick else None]:
        made[f"skip 60000x{rows}x10"] = "tuned", partial(time_skipping, rows, quick)
    for case in MEMORY:
        for name in case.contenders[: 1 if quick else None]:
            made[f"memory {case} {name}"] = "returning", partial(peak_memory, case.shape, name)
    made["accuracy"] = "tuned", partial(accuracy, quick)
    return made


def add_ratios(report: dict[str, Any]) -> None:
    before, after = report["fma_peak"], fma_peaks()
    report["fma_peak"] = {v: {t: max(rate, after[v][t]) for t, rate in before[v].items()} for v in before}
    report["roofline"] = rooflines(report)
    report["ratios"] = all_ratios(report["jobs"])


def fma_peaks() -> dict[str, dict[str, float]]:
    peaks = {variant: harness.fma_peak(LANES[variant]) for variant in _launch.variants() if variant in LANES}
    return {variant: peak for variant, peak in peaks.items() if peak}


def rooflines(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Shares of the peak of all threads, by case and variant; the backward time is that of both less the forward."""
    threads = str(report["environment"]["threads"])
    best = _launch.current_variant()
    found = {}
    for case in CASES:
        times = report["jobs"].get(f"time {case}", {}).get("times_ms")
        for name, variant in ((OURS, best), (AVX2, "avx2")):
            if not times or name not in times["forward"] or variant not in report["fma_peak"]:
                continue
            rate = report["fma_peak"][variant][threads]
            forward, both = (1e-3 * times[kind][name]["min"] for kind in ("forward", "both"))
            found[f"{case}, {variant}"] = {
                "forward": slots(case.shape, FORWARD_SLOTS) / (forward * rate),
                "backward": slots(case.shape, BACKWARD_SLOTS) / ((both - forward) * rate),
            }
    return found


def slots(shape: tuple[int, int, int], each: tuple[int, int]) -> float:
    n, rows, dims = shape
    return n * rows * (each[0] * dims + each[1])


def all_ratios(results: dict[str, Any]) -> dict[str, float]:
    """What --compare looks at: contenders' times over ours, and what skipping gains."""
    found = {}
    for job, result in results.items():
        for kind, times in result.get("times_ms", {}).items():
            if job.startswith("skip"):
                for name, ratio in harness.ratios(times, "sigma 1").items():
                    found[f"{job}, {name}, {kind}"] = 1 / ratio
            else:
                for name, ratio in harness.ratios(times, OURS).items():
                    if name != AVX2:
                        found[f"{job}, {name}, {kind}"] = ratio
    return found


def show(report: dict[str, Any]) -> str:
    """The tables of a report."""
    results = report["jobs"]
    header = ["(n, B, D)", "", *harness.TIME_COLUMNS, *harness.ERROR_COLUMNS, "spread", "others' CPU"]
    memory = [
        [*job.removeprefix("memory ").split(" ", 1), result["growth"] / 1e6, result["multiple"]]
        for job, result in results.items()
        if "growth" in result
    ]
    rooflines = [[name, "", *shares.values()] for name, shares in report["roofline"].items()]
    errors = [
        [data, name, *found.values()]
        for data, row in results["accuracy"].items()
        if data != "error"
        for name, found in row.items()
    ]
    parts = [
        ("Time, and over ours; spread: median over least", table(header, time_rows(results, "time", OURS))),
        (
            "Skipping: time, and over that at full overlap",
            table(header, time_rows(results, "skip", "sigma 1")),
        ),
        ("Share of the multiply-add peak", table(["(n, B, D)", "", "forward", "backward"], rooflines)),
        ("Peak memory, over inputs and gradients", table(["(n, B, D)", "", "growth MB", "multiple"], memory)),
        ("Largest float32 error against float64", table(["data", "", *harness.ERROR_COLUMNS], errors)),
        ("Multiply-adds per second, by kernel and threads", json.dumps(report["fma_peak"])),
    ]
    parts += [(f"FAILED {job}", result["error"]) for job, result in results.items() if "error" in result]
    return "\n\n".join(f"{title}\n{text}" for title, text in parts)


def time_rows(results: dict[str, Any], kind: str, base: str) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for job, result in results.items():
        if not job.startswith(f"{kind} ") or "times_ms" not in result:
            continue
        shape, noise = job.removeprefix(f"{kind} "), result["noise"]["others_cpu"]
        for name, errors in result["errors"].items():
            times = [of_kind[name] for of_kind in result["times_ms"].values()]
            least = [time["min"] for time in times]
            over = [t / of_kind[base]["min"] for t, of_kind in zip(least, result["times_ms"].values())]
            spread = times[-1]["median"] / times[-1]["min"] - 1
            rows.append([shape, name, *least, *over, *errors.values(), spread, noise])
        rows += [[shape, f"{name}: {reason}"] for name, reason in result.get("not_measured", {}).items()]
    return rows


def main() -> int:
    return command.main(
        "bench_mixture",
        __doc__,
        jobs,
        show,
        quick="a minute: fewer contenders, shapes and rounds",
        limit_s=JOB_LIMIT_S,
        begin=lambda: {"fma_peak": fma_peaks()},
        add_ratios=add_ratios,
    )


if __name__ == "__main__":
    sys.exit(main())
