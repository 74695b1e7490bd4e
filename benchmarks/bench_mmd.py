"""The MMD beside other formulations: `python -m benchmarks.bench_mmd [--quick] [--out FILE]`.

Times are of the value with the gradient of x, as a training step takes it; `auto`, the default, is ours. Beside them:
both methods from few points to many, errors against float64 and extended precision, and the signal-to-noise ratio of
the gradients, dimension-wise and of whole vectors. `--compare FILE` fails when a ratio has dropped by a quarter or more
since FILE was written. Every job runs in a process of its own. Run it from the project's root; needs the extra [bench].
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pykernels import cauchy_mmd, mmd

from . import baselines, command, harness
from .baselines import Mmd
from .output import table

OURS, DIRECT, PANELS = "ours", "ours, direct", "ours, panels"
JOB_LIMIT_S = 900
DIMS = 50
SLOW_TO_COMPILE = {"torch.compile", "KeOps"}
CASES = (  # points of each sample, contenders, allocator
    (500, (DIRECT, "dense", "torch.compile", "KeOps"), "tuned"),
    (500, ("dense",), "default"),
    (2000, (DIRECT, "chunked", "KeOps"), "tuned"),
    (10_000, (DIRECT,), "tuned"),
)
GROWTH = 10_000, 100_000, 1_000_000
CROSSOVER = tuple(50 * 2**k for k in range(8))  # points: 50 to 6,400
VARIANCE = 50.0  # of the Gaussian kernel of whole vectors: GeomLoss has no other that is ours, too
SIGNAL_POINTS, SIGNAL_DIMS, SIGNAL_DRAWS = (50, 200, 800), (2, 10, 50), 200


def formulation(name: str) -> Mmd:
    formulations: dict[str, Callable[[], Mmd]] = {
        OURS: lambda: cauchy_mmd,
        DIRECT: lambda: partial(cauchy_mmd, method="direct"),
        PANELS: lambda: partial(cauchy_mmd, method="panels"),
        "dense": lambda: baselines.dense_mmd,
        "chunked": lambda: baselines.chunked_mmd,
        "torch.compile": baselines.compiled_mmd,
        "KeOps": lambda: baselines.keops_mmd,
        "ours, whole vectors": lambda: partial(mmd, kernel="gaussian", scales=(VARIANCE,), unbiased=False),
        "GeomLoss, dense": lambda: baselines.geomloss_mmd(VARIANCE, "tensorized"),
        "GeomLoss, KeOps": lambda: baselines.geomloss_mmd(VARIANCE, "online"),
    }
    return formulations[name]()


def draws(n: int, dims: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Samples that differ as the encodings of a half-trained model and its prior do."""
    return 1.2 * torch.randn(n, dims, dtype=dtype) + 0.1, torch.randn(n, dims, dtype=dtype)


def value_and_gradient(function: Mmd, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = function(x, y)
    return value.detach(), *torch.autograd.grad(value, x)


def value_alone(function: Mmd, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return function(x, y)


def relative(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> dict[str, float]:
    errors = [((a - e).abs().max() / e.abs().max()).item() for a, e in zip(found, exact)]
    return dict(zip(("value", "gradient"), errors))


def time_case(n: int, names: tuple[str, ...], quick: bool) -> dict[str, Any]:
    """Contenders that cannot run here are left out, with the reason."""
    x, y = draws(n, DIMS)
    expected = value_and_gradient(formulation(names[0]), x.double(), y.double())
    errors, not_measured, timed = {}, {}, {}
    for name in names:
        if quick and name in SLOW_TO_COMPILE:
            continue
        try:
            function = formulation(name)
            errors[name] = relative(value_and_gradient(function, x, y), expected)
            if not max(errors[name].values()) <= harness.SAME:
                raise ValueError(f"computes something else: errors {errors[name]}")
        except Exception as error:
            if name.startswith(OURS):
                raise
            not_measured[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        timed["value", name] = partial(value_alone, function, x, y)
        timed["gradient", name] = partial(value_and_gradient, function, x, y)
    times, noise = harness.interleave(timed, *effort(quick))
    times_ms = {kind: {n: times[k, n] for k, n in times if k == kind} for kind in ("value", "gradient")}
    return {"errors": errors, "not_measured": not_measured, "times_ms": times_ms, "noise": noise}


def time_growth(quick: bool) -> dict[str, Any]:
    timed: dict[tuple[str, str], Callable[[], Any]] = {}
    for n in GROWTH[: 2 if quick else None]:
        x, y = draws(n, DIMS)
        timed["value", str(n)] = partial(value_alone, cauchy_mmd, x, y)
        timed["gradient", str(n)] = partial(value_and_gradient, cauchy_mmd, x, y)
    times, noise = harness.interleave(timed, *effort(quick))
    times_ms = {kind: {n: times[k, n] for k, n in times if k == kind} for kind in ("value", "gradient")}
    return {"times_ms": times_ms, "noise": noise}


def time_crossover(dims: int, dtype: torch.dtype, quick: bool) -> dict[str, Any]:
    """Least times by method and number of points, and what the default loses to the better method, at most."""
    found: dict[str, dict[str, float]] = {}
    for n in CROSSOVER[:: 4 if quick else 1]:
        x, y = draws(n, dims, dtype)
        timed = {
            name: partial(value_and_gradient, formulation(name), x, y) for name in (OURS, DIRECT, PANELS)
        }
        times, _ = harness.interleave(timed, 5, 2.0)
        found[str(n)] = {name: of_method["min"] for name, of_method in times.items()}
    worst = max(times[OURS] / min(times[DIRECT], times[PANELS]) for times in found.values())
    return {"crossover_ms": found, "worst": worst}


def exact_pairs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 10 and its gradient of x over all pairs, in numpy's longest floating point."""
    p, q = (t.double().numpy().astype(np.longdouble) for t in (x, y))
    n, m = len(p), len(q)
    value, slope = np.longdouble(0), np.zeros_like(p)
    for d in range(p.shape[1]):
        for a, b, weight in (
            (p, p, 1 / np.longdouble(n * (n - 1))),
            (q, q, 1 / np.longdouble(m * (m - 1))),
            (p, q, -2 / np.longdouble(n * m)),
        ):
            t = a[:, None, d] - b[None, :, d]
            kernel = sum(s / (s + t * t) for s in map(np.longdouble, baselines.SCALES))
            if a is b:
                np.fill_diagonal(kernel, 0)
            value += weight * kernel.sum()
            if a is p:
                factor = 2 * weight if a is b else weight
                slope[:, d] += factor * sum(
                    -2 * s * t / (s + t * t) ** 2 for s in map(np.longdouble, baselines.SCALES)
                ).sum(1)
    return torch.tensor(float(value), dtype=torch.float64), torch.from_numpy(slope.astype(np.float64))


def far_reaching() -> dict[str, tuple[Tensor, Tensor]]:
    """Float32 samples of 2,000 points, D = 2, but of heavy tails 60,000."""
    student = torch.distributions.StudentT(3.0)

    def clusters() -> Tensor:
        return torch.randn(2000, 2) + 1e5 * torch.randn(2000, 2).sign()

    sparse = torch.randn(2000, 2) * torch.where(torch.rand(2000, 2) < 0.8, 0.05**0.5, 1.0)
    outlier = torch.randn(2000, 2)
    outlier[0] = 1e30
    return {
        "normal": (torch.randn(2000, 2), torch.randn(2000, 2)),
        "normal, one sample wider": draws(2000, 2),
        "sparse": (sparse, torch.randn(2000, 2)),
        "heavy tails": (student.sample((60_000, 2)), student.sample((60_000, 2))),
        "offset 1e4": (1e4 + torch.randn(2000, 2), 1e4 + torch.randn(2000, 2)),
        "clusters at ±1e5": (clusters(), clusters()),
        "duplicates": (torch.randn(2000, 2).round(), torch.randn(2000, 2).round()),
        "one outlier at 1e30": (outlier, torch.randn(2000, 2)),
    }


def accuracy(quick: bool) -> dict[str, Any]:
    """Errors of the value over |MMD²| + D κ(0) / n, and of the gradient over its largest entry. Up to 2,000 points
    they are against extended precision, and else against float64 panels whose bound is 1e-14."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    contenders = (
        ("ours, float32", OURS, torch.float32),
        ("ours, direct, float32", DIRECT, torch.float32),
        ("dense, float32", "dense", torch.float32),
        ("ours, float64", OURS, torch.float64),
        ("ours, direct, float64", DIRECT, torch.float64),
    )
    for label, (x, y) in far_reaching().items():
        many = len(x) > 2000
        if many and quick:
            continue
        if many:
            expected = value_and_gradient(partial(cauchy_mmd, tolerance=1e-14), x.double(), y.double())
        else:
            expected = exact_pairs(x, y)
        size = expected[0].abs() + x.shape[1] * len(baselines.SCALES) / len(x)
        found[label] = {}
        for title, name, dtype in contenders:
            if many and name != OURS:
                continue
            value, slope = value_and_gradient(formulation(name), x.to(dtype), y.to(dtype))
            found[label][title] = {
                "value": ((value - expected[0]).abs() / size).item(),
                "gradient": ((slope - expected[1]).abs().max() / expected[1].abs().max()).item(),
            }
    return {"accuracy": found}


def signal_to_noise(quick: bool) -> dict[str, Any]:
    """Of the gradients of a shift and of a factor of x, both of each dimension, where x is N(0.2, 1.1²) and y N(0, 1):
    the length of the gradient's mean over the root of its mean squared deviation, over independent draws."""
    found = []
    functions: dict[str, Mmd] = {"dimension-wise": cauchy_mmd, "whole vectors": mmd}
    for dims in SIGNAL_DIMS:
        for n in SIGNAL_POINTS[: 2 if quick else None]:
            row: dict[str, Any] = {"n": n, "D": dims}
            for name, function in functions.items():
                parameters = torch.stack(
                    [torch.full((dims,), 0.2), torch.full((dims,), 1.1)]
                ).requires_grad_()
                gradients = []
                for _ in range(SIGNAL_DRAWS // (8 if quick else 1)):
                    noise, y = torch.randn(2, n, dims).unbind()
                    value = function(parameters[0] + parameters[1] * noise, y)
                    gradients.append(torch.autograd.grad(value, parameters)[0])
                stacked = torch.stack(gradients)
                mean, variance = stacked.mean(0), stacked.var(0)
                ratios = mean.square().sum(1).sqrt() / variance.sum(1).sqrt()
                row[name] = dict(zip(("shift", "factor"), ratios.tolist()))
            found.append(row)
    return {"signal": found}


def effort(quick: bool) -> tuple[int, float]:
    """Rounds, and the seconds after which no more are begun."""
    return (3, 4.0) if quick else (7, 25.0)


def jobs(quick: bool) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Name -> allocator and function, whose result is JSON."""
    made: dict[str, tuple[str, Callable[[], Any]]] = {}
    for n, names, allocator in CASES:
        if not (quick and n > 500):
            label = f"n {n}" if allocator == "tuned" else f"n {n}, {allocator} allocator"
            made[label] = allocator, partial(time_case, n, (OURS, *names), quick)
    whole = "ours, whole vectors", "GeomLoss, dense", "GeomLoss, KeOps"
    made["whole vectors, n 2000"] = "tuned", partial(time_case, 2000, whole[: 2 if quick else None], quick)
    made["growth"] = "tuned", partial(time_growth, quick)
    for dims in (2, 10, 50)[2 if quick else 0 :]:
        for name, dtype in (("float32", torch.float32), ("float64", torch.float64))[: 1 if quick else None]:
            made[f"crossover, D {dims}, {name}"] = "tuned", partial(time_crossover, dims, dtype, quick)
    made["accuracy"] = "default", partial(accuracy, quick)
    made["signal to noise"] = "default", partial(signal_to_noise, quick)
    return made


def all_ratios(results: dict[str, Any]) -> dict[str, float]:
    """What --compare looks at: contenders' times over ours."""
    found = {}
    for job, result in results.items():
        for kind, times in result["times_ms"].items() if "errors" in result else ():
            for name, ratio in harness.ratios(times, next(iter(times))).items():
                found[f"{job}, {name}, {kind}"] = ratio
    return found


def add_ratios(report: dict[str, Any]) -> None:
    report["ratios"] = all_ratios(report["jobs"])


def show(report: dict[str, Any]) -> str:
    """The tables of a report."""
    results = report["jobs"]
    times: list[list[Any]] = []
    for job, result in results.items():
        if "errors" not in result:
            continue
        by_kind = result["times_ms"]
        ours = next(iter(by_kind["value"]))
        for name, errors in result["errors"].items():
            least = [by_kind[kind][name]["min"] for kind in by_kind]
            over = [by_kind[kind][name]["min"] / by_kind[kind][ours]["min"] for kind in by_kind]
            spread = by_kind["gradient"][name]["median"] / least[-1] - 1
            times.append([job, name, *least, *over, *errors.values(), spread])
        times += [[job, f"{name}: {reason}"] for name, reason in result["not_measured"].items()]
    growth = [
        [kind, n, time["min"]]
        for kind, by_n in results.get("growth", {}).get("times_ms", {}).items()
        for n, time in by_n.items()
    ]
    crossover = [
        [job, n, *by_method.values(), by_method[OURS] / min(by_method[DIRECT], by_method[PANELS])]
        for job, result in results.items()
        for n, by_method in result.get("crossover_ms", {}).items()
    ]
    errors = [
        [data, name, *found.values()]
        for data, row in results["accuracy"].get("accuracy", {}).items()
        for name, found in row.items()
    ]
    signal = [
        [f"D {row['D']}", name, row["n"], *row[name].values()]
        for row in results["signal to noise"].get("signal", ())
        for name in ("dimension-wise", "whole vectors")
    ]
    header = ["", "", "value ms", "+ gradient", "ratio", "+ gradient", *harness.ERROR_COLUMNS, "spread"]
    parts = [
        ("Time, and over ours; spread: median over least", table(header, times)),
        ("Growth with the number of points", table(["", "n", "ms"], growth)),
        (
            "Value and gradient by method",
            table(["", "n", OURS, DIRECT, PANELS, "over the better"], crossover),
        ),
        ("Largest errors", table(["data", "", *harness.ERROR_COLUMNS], errors)),
        ("Signal-to-noise ratio of gradients", table(["", "", "n", "shift", "factor"], signal)),
    ]
    parts += [(f"FAILED {job}", result["error"]) for job, result in results.items() if "error" in result]
    return "\n\n".join(f"{title}\n{text}" for title, text in parts)


def main() -> int:
    return command.main(
        "bench_mmd",
        __doc__,
        jobs,
        show,
        quick="a minute: fewer contenders, sizes and rounds",
        limit_s=JOB_LIMIT_S,
        add_ratios=add_ratios,
    )


if __name__ == "__main__":
    sys.exit(main())
