"""Check, then time: what the benchmarks share. Linux only: noise and memory are read from /proc.

Contenders are timed in turn, round after round, in one process, so that whatever disturbs the machine disturbs all
of them; a ratio is always of two minima of the same run.
"""

import gc
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pykernels import info

from .baselines import Formulation, chunked, dense
from .problems import Problem

Key = TypeVar("Key", bound=Hashable)
Clock = Callable[[Callable[[], Any]], float]  # seconds that a call takes
ROOT = Path(__file__).resolve().parents[1]
# glibc's environment variables, read when a process starts. By default large blocks go back to the system when they
# are freed, and the next temporary pays for new pages: much of the time of formulations that make large temporaries.
ALLOCATORS = {
    "default": {},
    "tuned": {"MALLOC_MMAP_THRESHOLD_": str(1 << 40), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)},
    # Every block of 64 KiB or more comes from the system and goes back: what is resident is then what is in use.
    "returning": {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_TRIM_THRESHOLD_": str(1 << 16)},
}
VARIABLES = ("OMP_", "GOMP_", "KMP_", "MALLOC_", "PYKERNELS_")
TIME_COLUMNS = "forward ms", "+ backward", "ratio", "+ backward"
ERROR_COLUMNS = "value error", "gradient error"
QUIET = 0.1  # share of the machine that other processes may use in an undisturbed round
ORACLE_ELEMENTS = 10_000_000
SAME = 1e-3  # relative error above which a contender does not compute the same thing


class Oracle(NamedTuple):
    """Value and gradients in float64 where only some rows have a cotangent, so that it is affordable at any shape."""

    rows: Tensor
    value: Tensor
    gradients: tuple[Tensor, ...]


def oracle(problem: Problem, formulation: Formulation = dense) -> Oracle:
    count = min(len(problem.value), max(8, ORACLE_ELEMENTS // problem.loc.numel()))
    rows = torch.linspace(0, len(problem.value) - 1, count, device=problem.value.device).round().long()
    exact = problem.to(torch.float64).leaves()
    value = chunked(formulation=formulation)(exact.value[rows], exact.loc, exact.scale)
    return Oracle(rows, value.detach(), torch.autograd.grad(value.sum(), exact))


def errors(log_prob: Formulation, problem: Problem, expected: Oracle) -> dict[str, float]:
    """Largest error of the value in nats, and of the gradients relative to the largest element of each."""
    problem = problem.leaves()
    value = log_prob(*problem)
    gradients = torch.autograd.grad(value[expected.rows].sum(), problem)
    relative = [
        ((actual - exact).abs().max() / exact.abs().max()).item()
        for actual, exact in zip(gradients, expected.gradients)
    ]
    return {"value": (value[expected.rows] - expected.value).abs().max().item(), "gradient": max(relative)}


def check(log_prob: Formulation, problem: Problem, expected: Oracle) -> dict[str, float]:
    """`errors` at the benchmark's own shape; raises where something else is computed."""
    found = errors(log_prob, problem, expected)
    if not (found["value"] <= SAME * (1 + expected.value.abs().max().item()) and found["gradient"] <= SAME):
        raise ValueError(f"computes something else: errors {found}")
    return found


def calls(log_prob: Formulation, problem: Problem) -> dict[str, Callable[[], Any]]:
    """The two things that are timed: the value alone, and the value with all its gradients."""
    leaves = problem.leaves()
    cotangent = torch.full_like(leaves.value[:, 0], 1 / len(leaves.value)).detach()

    def forward() -> Tensor:
        with torch.no_grad():
            return log_prob(*leaves)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(log_prob(*leaves), leaves, cotangent)

    return {"forward": forward, "both": both}


def wall_clock(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def fastest(choices: Iterable[Formulation], problem: Problem, clock: Clock = wall_clock) -> Formulation:
    """Of several chunk sizes the best, by forward and backward."""

    def seconds(log_prob: Formulation) -> float:
        both = calls(log_prob, problem)["both"]
        return min(clock(both) for _ in range(2))

    return min(choices, key=seconds)


def interleave(
    timed: Mapping[Key, Callable[[], Any]],
    rounds: int,
    seconds: float,
    clock: Clock = wall_clock,
) -> tuple[dict[Key, dict[str, float]], dict[str, float]]:
    """Times in milliseconds over rounds, and the noise. A round's time is the least of as many calls as fit into
    30 ms, but of two where they are under a second: the first finds caches and memory as another contender left
    them. Disturbed rounds are made up for by more, up to twice as many in all; after `seconds`, two suffice."""
    repeats = {}
    for name, call in timed.items():
        taken = clock(call)
        if taken < 1:  # the first call warms up, which is lost in a longer one
            taken = clock(call)
        repeats[name] = min(max(1 if taken >= 1 else 2, round(0.03 / taken)), 200)
    samples: dict[Key, list[float]] = {name: [] for name in timed}
    shares: list[float] = []
    start = time.perf_counter()
    while sum(share < QUIET for share in shares) < rounds and len(shares) < 2 * rounds:
        if len(shares) >= 2 and time.perf_counter() - start > seconds:
            break
        before = _cpu_seconds()
        for name, call in timed.items():
            samples[name].append(1e3 * min(clock(call) for _ in range(repeats[name])))
        shares.append(_others_share(before, _cpu_seconds()))
    times = {
        key: {"min": min(s), "median": statistics.median(s), "max": max(s)} for key, s in samples.items()
    }
    quiet = sum(share < QUIET for share in shares)
    return times, {"rounds": len(shares), "quiet": quiet, "others_cpu": statistics.median(shares)}


class _CpuSeconds(NamedTuple):
    own: float
    busy: float
    total: float


def _cpu_seconds() -> _CpuSeconds:
    times = os.times()
    user, nice, system, idle, iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    busy = user + nice + system + irq + softirq + steal
    tick = os.sysconf("SC_CLK_TCK")
    return _CpuSeconds(times.user + times.system, busy / tick, (busy + idle + iowait) / tick)


def _others_share(before: _CpuSeconds, after: _CpuSeconds) -> float:
    """Share of the machine's processors that other processes used, hypervisor's neighbours included."""
    own, busy, total = (b - a for a, b in zip(before, after))
    return max(0.0, busy - own) / total if total else 0.0


def peak_growth(call: Callable[[], Any]) -> int:
    """Bytes by which the resident set grows at most during a call, results included. Needs the "returning" allocator.
    The call is made once before, so that code and thread stacks are there already."""
    call()
    gc.collect()
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    call()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def fma_peak(lanes: int) -> dict[str, float] | None:
    """Measured multiply-adds per second, lane by lane, by number of threads; None without a C++ compiler."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "fma_peak")
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-pthread", f"-DLANES={lanes}"]
        source = str(Path(__file__).with_name("fma_peak.cpp"))
        built = subprocess.run(
            [compiler, *flags, source, "-o", str(program)], check=False, capture_output=True
        )
        if built.returncode:
            return None
        threads = sorted({1, torch.get_num_threads()})
        return {str(t): float(subprocess.check_output([program, str(t)])) for t in threads}


def ratios(times: Mapping[str, Mapping[str, float]], ours: str) -> dict[str, float]:
    """How many times longer than `ours` each of the others took."""
    return {name: time["min"] / times[ours]["min"] for name, time in times.items() if name != ours}


def regressions(committed: Mapping[str, float], new: Mapping[str, float], allowed: float = 0.25) -> list[str]:
    """One line for each ratio that both have and that dropped by the allowed part or more."""
    return [
        f"{name}: {before:.3g} before, {new[name]:.3g} now"
        for name, before in committed.items()
        if name in new and not new[name] > (1 - allowed) * before
    ]


def compare(report: dict[str, Any], path: Path) -> int:
    """The number of ratios that dropped; prints them, and what cannot be compared."""
    committed = json.loads(path.read_text())
    for what in ("cpu", "threads"):
        before, now = committed["environment"][what], report["environment"][what]
        if before != now:
            print(f"{path} was measured with {what} {before}, this run with {now}: ratios need not agree")
    absent = sorted(committed["ratios"].keys() - report["ratios"].keys())
    if absent:
        print(f"Not measured in this run: {'; '.join(absent)}")
    dropped = regressions(committed["ratios"], report["ratios"])
    print("\n".join(["Dropped by a quarter or more:", *dropped]) if dropped else "No ratio dropped.")
    return len(dropped)


def environment() -> dict[str, Any]:
    """All that a reader needs to judge a result."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "numpy", "pykeops", "geomloss", "triton"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": _git(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "info": info.report().splitlines(),
        "variables": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(VARIABLES)},
        "allocators": ALLOCATORS,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _git() -> str:
    """The commit, with "+" where the tree differs from it."""
    command = ["git", "--no-optional-locks", "-C", str(ROOT)]
    run = partial(subprocess.check_output, text=True, stderr=subprocess.DEVNULL)
    try:
        commit = run([*command, "rev-parse", "HEAD"])
        changes = run([*command, "status", "--porcelain"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.strip() + ("+" if changes.strip() else "")


def run_limited(
    command: list[str], limit_s: float, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command from the project's root, and ends it with all that it started when the time is over."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=limit_s)
        except BaseException:  # the limit, or Ctrl-C, which a session of its own does not hear
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def run_module(
    module: str, arguments: list[str], limit_s: float, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs `python -m module *arguments --out FILE` in a process of its own and returns what it wrote there, or
    {"error": why not}."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        command = [sys.executable, "-m", module, *arguments, "--out", str(out)]
        try:
            done = run_limited(command, limit_s, variables)
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {limit_s:.0f} s"}
        if not out.exists():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return {"error": lines[-1]}
        return json.loads(out.read_text())
