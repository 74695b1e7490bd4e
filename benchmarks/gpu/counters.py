"""The main kernels under ncu, beside what their budgets predict: `python -m benchmarks.gpu.counters --out FILE`.

Instructions are of a thread and a unit (see floors.py), `issue` is the share of cycles in which a scheduler starts one.
ncu's clock control is off: the clocks are left as they are.
"""

import argparse
import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from pykernels import _launch, cauchy_mmd, gaussian_mixture_log_prob, gaussian_mixture_marginal_log_prob

from .. import bench_mmd, harness, output
from ..problems import spread_scales
from . import floors
from .steps import EXIT_NOT_MEASURED

METRICS = {
    "ms": "gpu__time_duration.sum",
    "instructions": "smsp__inst_executed.sum",
    "fma": "sm__inst_executed_pipe_fma.sum",
    "special": "sm__inst_executed_pipe_xu.sum",
    "issue": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "occupancy": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
    "bank_conflicts": "l1tex__data_bank_conflicts_pipe_lsu.sum",
    "local_bytes": "l1tex__t_bytes_pipe_lsu_mem_local_op_ld.sum",
    "dram_bytes": "dram__bytes.sum",
}
ESSENTIAL = ("ms", "instructions", "issue", "occupancy", "registers")
ROWS, COMPONENTS, POINTS = 4096, 60_000, 20_000
PAIRS = ROWS * COMPONENTS
# Base name and template arguments, of which the first are enough; units of a launch; the budget.
KERNELS: dict[str, tuple[float, floors.Cost]] = {
    "forward_joint<float, 10, 4, 1, false>": (PAIRS, floors.DENSITY[10]),
    "forward_joint<float, 10, 2, 1, true>": (PAIRS, floors.WITH_SLOPES[10]),
    "joint_component_sums<float, 10, 1, false>": (PAIRS, floors.COMPONENT_GRADIENTS[10]),
    "forward_joint_tiles<float, 2, 2, false>": (PAIRS, floors.DENSITY[50]),
    "forward_joint_slopes<float>": (PAIRS, floors.WITH_SLOPES[50]),
    "joint_component_tiles<float, false>": (PAIRS, floors.COMPONENT_GRADIENTS[50]),
    "forward_marginal<float, 8, false>": (10 * PAIRS, floors.MARGINAL),
    "forward_marginal<float, 8, true>": (10 * PAIRS, floors.MARGINAL_WITH_SLOPE),
    "marginal_component_sums<float, 8>": (10 * PAIRS, floors.MARGINAL_GRADIENTS),
    "sum_over_pairs<float, 2, false, false>": (50 * 2 * POINTS**2, floors.KERNEL),
    "sum_over_pairs<float, 2, true, false>": (50 * 4 * POINTS**2, floors.KERNEL_WITH_SLOPE),
    "sum_moments<float, 8, false>": (50 * 2 * POINTS, floors.Cost(40.3, 0)),
    "slopes_at_points<float, 8, false>": (50 * 2 * POINTS, floors.PANEL_SLOPES),
}


def calls(device: torch.device) -> Iterator[Callable[[], Any]]:
    """What launches each of KERNELS."""
    for dims in (10, 50):
        problem = spread_scales(COMPONENTS, ROWS, dims).to(device)
        yield from harness.calls(gaussian_mixture_log_prob, problem).values()
    marginal = harness.calls(
        lambda *inputs: gaussian_mixture_marginal_log_prob(*inputs).sum(-1),
        spread_scales(COMPONENTS, ROWS, 10).to(device),
    )
    yield from marginal.values()
    x, y = (t.to(device) for t in bench_mmd.draws(POINTS, 50))
    # With both gradients, for which every pair of two samples is met twice: of one alone the tiles of the other sample
    # would be a launch without slopes.
    for method in ("direct", "panels"):
        yield lambda method=method: bench_mmd.value_alone(lambda x, y: cauchy_mmd(x, y, method=method), x, y)
        leaves = [t.clone().requires_grad_() for t in (x, y)]
        yield lambda method=method, leaves=leaves: torch.autograd.grad(
            cauchy_mmd(*leaves, method=method), leaves
        )


def launch_all() -> None:
    """Everything once to warm up, then under the profiler."""
    torch.manual_seed(0)
    made = list(calls(torch.device("cuda")))
    for call in made:
        call()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    for call in made:
        call()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def profile(names: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    bases = "|".join(sorted({kernel.partition("<")[0] for kernel in KERNELS}))
    command = ["ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"]
    command += ["--print-units", "base", "-k", f"regex:^({bases})$"]
    command += ["--metrics", ",".join(METRICS[name] for name in names)]
    command += [sys.executable, "-m", "benchmarks.gpu.counters", "--launch"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def read(text: str) -> list[dict[str, Any]]:
    """The launches in ncu's table: its header, a row of units, and a row for each."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(lines))
    return [
        {"kernel": row["Kernel Name"]}
        | {name: _number(row[metric]) for name, metric in METRICS.items() if metric in row}
        for row in rows[1:]
    ]


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def summary(launches: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By kernel of KERNELS, of its longest launch: counts for a unit beside the budget, and what is a share."""
    found: dict[str, dict[str, Any]] = {}
    for kernel, (units, cost) in KERNELS.items():
        pattern = re.compile(rf"\b{re.escape(kernel.removesuffix('>'))}[,>]")
        matching = [launch for launch in launches if pattern.search(_plain(launch["kernel"]))]
        if not matching:
            continue
        longest = max(matching, key=lambda launch: launch.get("instructions") or 0)
        counted = {
            name: 32 * longest[name] / units
            for name in ("instructions", "fma", "special")
            if longest.get(name) is not None
        }
        shown = {name: value for name, value in longest.items() if name not in (*counted, "kernel")}
        if shown.get("ms") is not None:
            shown["ms"] *= 1e-6  # from nanoseconds
        found[kernel] = {**counted, "budget": cost.slots, "budget_special": cost.special, **shown}
    return found


def _plain(kernel: str) -> str:
    """As tests/budgets writes it, from "void pykernels::forward_joint<float, (int)10, (bool)0>(...)"."""
    return re.sub(r"\(bool\)0", "false", re.sub(r"\(bool\)1", "true", kernel)).replace("(int)", "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.counters", description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--launch", action="store_true", help="what ncu runs: every kernel, in this process")
    options = parser.parse_args()
    if options.launch:
        launch_all()
        return 0
    if not shutil.which("ncu"):
        print("ncu was not found")
        return EXIT_NOT_MEASURED
    if _launch.variant_for(torch.empty(0, device="cuda")) != _launch.CUDA:
        print("the CUDA kernels are not built")
        return EXIT_NOT_MEASURED
    for names in (tuple(METRICS), ESSENTIAL):  # another ncu may not know all of them
        done = profile(names)
        launches = read(done.stdout)
        if launches:
            break
        print(done.stdout[-2000:], done.stderr[-2000:])
    output.write_json(options.out, {"kernels": summary(launches), "launches": launches})
    return 0 if launches else 1


if __name__ == "__main__":
    sys.exit(main())
