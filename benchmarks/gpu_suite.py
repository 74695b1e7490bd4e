"""All that a GPU is needed for, in one command: `python -m benchmarks.gpu_suite --out FILE`.

Builds, runs the tests marked `gpu`, and times the mixture log-density and the MMD beside other formulations. Each step
has its own time limit, and FILE is rewritten after each, so that a machine that is taken away leaves what it measured.
Without a GPU it says so and ends.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pykernels import cauchy_mmd, gaussian_mixture_log_prob

from . import baselines, bench_mmd, harness
from .harness import table
from .problems import spread_scales

GPU_FACTS = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit,mig.mode.current"
SHAPES = ((4096, 4096, 10), (60000, 500, 50), (500, 500, 50), (400, 400, 2), (737280, 256, 10))
MMD_DIMS = 50
MMD_POINTS = {500: ("direct", "dense"), 10_000: ("direct", "chunked"), 60_000: ("direct",), 1_000_000: ()}
CHUNK_ELEMENTS = 1 << 24, 1 << 27  # larger than on a CPU: kernels must be worth their launch
ROUNDS, SECONDS = 10, 20.0
OURS = "ours"


def command(limit_s: float, *words: str) -> dict[str, Any]:
    """Exit code and end of the output, or {"error": why it did not run}."""
    if shutil.which(words[0]) is None:
        return {"error": f"{words[0]} was not found"}
    try:
        done = harness.run_limited(list(words), limit_s)
    except subprocess.TimeoutExpired:
        return {"error": f"{words[0]} took longer than {limit_s:.0f} s"}
    return {"exit_code": done.returncode, "output": (done.stdout + done.stderr)[-4000:]}


def build() -> dict[str, Any]:
    return command(240, sys.executable, "setup.py", "build_ext", "--inplace")


def gpu_tests() -> dict[str, Any]:
    result = command(150, sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests")
    if result.get("exit_code") == 5:
        return {"error": "no test is marked gpu"}
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


def time_shape(shape: tuple[int, int, int]) -> dict[str, Any]:
    problem = spread_scales(*shape).to(torch.device("cuda"))
    expected = harness.oracle(problem)
    contenders = {
        OURS: [gaussian_mixture_log_prob],
        "chunked": map(baselines.chunked, CHUNK_ELEMENTS),
        "matrix product": map(baselines.matrix_product, baselines.CHUNK_LOGITS[1:]),
    }
    errors, memory, timed = {}, {}, {}
    for name, choices in contenders.items():
        log_prob = harness.fastest(choices, problem, event_clock)
        errors[name] = harness.check(log_prob, problem, expected)
        measured = harness.calls(log_prob, problem)
        memory[name] = peak_growth(measured["both"])
        timed |= {(kind, name): call for kind, call in measured.items()}
    times, noise = harness.interleave(timed, ROUNDS, SECONDS, event_clock)
    times_ms = {kind: {name: times[kind, name] for name in contenders} for kind in ("forward", "both")}
    return {"errors": errors, "growth": memory, "times_ms": times_ms, "noise": noise}


def time_mmd(points: int) -> dict[str, Any]:
    """Value, and value with the gradient of x; errors are relative, against ours in float64."""
    x, y = (t.cuda() for t in bench_mmd.draws(points, MMD_DIMS))
    formulations = {
        OURS: cauchy_mmd,
        "direct": partial(cauchy_mmd, method="direct"),
        "dense": baselines.dense_mmd,
        "chunked": baselines.chunked_mmd,
    }
    expected = bench_mmd.value_and_gradient(cauchy_mmd, x.double(), y.double())
    errors, memory, timed = {}, {}, {}
    contenders = (OURS, *MMD_POINTS[points])
    for name in contenders:
        function = formulations[name]
        both = partial(bench_mmd.value_and_gradient, function, x, y)
        errors[name] = bench_mmd.relative(both(), expected)
        memory[name] = peak_growth(both)
        timed["forward", name] = partial(bench_mmd.value_alone, function, x, y)
        timed["both", name] = both
    times, noise = harness.interleave(timed, ROUNDS, SECONDS, event_clock)
    times_ms = {kind: {name: times[kind, name] for name in contenders} for kind in ("forward", "both")}
    return {"errors": errors, "growth": memory, "times_ms": times_ms, "noise": noise}


def show(steps: dict[str, Any]) -> str:
    rows, missing = [], []
    for step, result in steps.items():
        if "error" in result or result.get("exit_code"):
            last = (result.get("error") or result["output"]).strip().splitlines()[-1]
            missing.append(f"{step}: {last}")
        for name in result.get("errors", {}):
            times = [result["times_ms"][kind][name]["min"] for kind in ("forward", "both")]
            ratios = [
                t / result["times_ms"][kind][OURS]["min"] for t, kind in zip(times, ("forward", "both"))
            ]
            growth = result["growth"][name] / 1e6
            rows.append([step, name, *times, *ratios, *result["errors"][name].values(), growth])
    header = ["(n, B, D), or MMD of n", "", *harness.TIME_COLUMNS, *harness.ERROR_COLUMNS, "memory MB"]
    parts = [table(header, rows)] if rows else []
    return "\n".join([*parts, *(["Not measured or failed:", *missing] if missing else [])])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_suite", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_suite.json"), help="the JSON file to write")
    parser.add_argument("--shape", type=int, nargs=3, help="time this shape only, in this process")
    parser.add_argument("--mmd", type=int, choices=MMD_POINTS, help="time the MMD of so many points only")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.shape or options.mmd:
        result = time_shape(tuple(options.shape)) if options.shape else time_mmd(options.mmd)
        harness.write_json(options.out, result)
        return 0

    steps: dict[str, Any] = {}
    report = {"environment": harness.environment(), "steps": steps}
    planned: dict[str, Callable[[], dict[str, Any]]] = {
        "nvidia-smi": partial(command, 20, "nvidia-smi", f"--query-gpu={GPU_FACTS}", "--format=csv"),
        "nvcc": partial(command, 20, "nvcc", "--version"),
    }
    if torch.cuda.is_available():
        report["device"] = torch.cuda.get_device_name()
        planned |= {"build": build, "gpu tests": gpu_tests}
        for shape in SHAPES:
            arguments = ["--shape", *map(str, shape)]
            run = partial(harness.run_module, "benchmarks.gpu_suite", arguments, 120)
            planned["x".join(map(str, shape))] = run
        for points in MMD_POINTS:
            run = partial(harness.run_module, "benchmarks.gpu_suite", ["--mmd", str(points)], 60)
            planned[f"MMD of {points}"] = run
    else:
        steps["gpu"] = {"error": "torch sees no CUDA device: nothing was built, tested or timed"}
    for name, step in planned.items():
        print(f"{name} ...", file=sys.stderr)
        steps[name] = step()
        harness.write_json(options.out, report)
    print(show(steps))
    return 1 if any(result.get("exit_code") for result in steps.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
