"""All that a GPU is needed for, in one command of at most ten minutes: `python -m benchmarks.gpu_suite --out FILE`.

Builds for the GPU that is here; checks the kernels by the tests marked `gpu` and by programs without torch, plain and
under compute-sanitizer; measures what the machine can do at most, and every operator beside other formulations and its
floor; counts what the main kernels execute; trains. A step is a process with a limit of its own, and those of a stage,
which measure no time, run at once. FILE is written again whenever a step has found something, so that nothing is lost
with the machine; at --minutes whatever is left is left out. What cannot be measured here is marked, with the reason:
without a GPU that is nearly all. Run it from the project's root.
"""

import argparse
import glob
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import output
from .gpu import keops, report
from .gpu.steps import OUT, Result, Step, run, why_not

PYTHON = sys.executable
WORST_START_S = 3  # with less time left no step is begun
# Another torch may warn of other things, and a package that only some tests need may be missing.
TOLERANT = (
    *("-W", "default", "-p", "no:cacheprovider", "-p", "no:benchmark", "--continue-on-collection-errors"),
    *("-r", "fE", "--tb", "short"),
)
ROOMS, TOOLS = ("mixture", "mmd"), ("memcheck", "racecheck", "synccheck", "initcheck")
PROGRAM_FOLDERS = (
    "/usr/local/cuda*/bin",
    "/usr/local/cuda*/compute-sanitizer",
    "/opt/nvidia/nsight-compute/*",
)
FOLDERS = ("tests/pykernels", "tests/vae")


def module(name: str, *arguments: str) -> tuple[str, ...]:
    return PYTHON, "-m", name, *arguments


MACHINE = Step("machine", 60, module("benchmarks.gpu.machine", "--out", OUT))


def stages(folder: Path) -> list[list[Step]]:
    """In the order of what is worth most. `folder` holds the programs."""
    selftest, ceilings = str(folder / "selftest"), str(folder / "ceilings")
    gpu, keops_needs, keops_variables = ("gpu",), ("gpu", ".pykeops", "g++"), keops.variables(folder)
    tests = module("pytest", "-q", "-m", "gpu", *TOLERANT, *_workers(), *FOLDERS)
    build: list[Step] = [
        Step("build", 240, (PYTHON, "setup.py", "build_ext", "--inplace"), ("gpu", "nvcc", "cmake", "ninja")),
        Step("build ceilings", 60, compile_ceilings(ceilings), ("gpu", "nvcc")),
    ]
    check: list[Step] = [Step("GPU tests", 150, tests, ("gpu", ".pytest"), {"OMP_NUM_THREADS": "2"})]
    for room in ROOMS:
        program = module("tests.native.gpu", "build", selftest, room)
        build.append(Step(f"build self-test, {room}", 240, program, ("gpu", "nvcc", "g++")))
        program = module("tests.native.gpu", "run", selftest, room)
        check.append(Step(f"self-test, {room}", 60, program, gpu))
        for tool in TOOLS:
            check.append(Step(f"{tool}, {room}", 150, (*program, tool), ("gpu", "compute-sanitizer")))
    check.append(Step("warm up torch.compile", 150, ops("torch.compile", "--warm-up"), gpu))
    check.append(Step("warm up KeOps", 150, ops("KeOps", "--warm-up"), keops_needs, keops_variables))
    return [
        build,
        [Step("what is built", 30, module("pykernels.info"))],
        check,
        [Step("ceilings", 30, (ceilings,), gpu)],
        [Step("joint", 75, ops("joint"), gpu)],
        [Step("MMD", 45, ops("MMD"), gpu)],
        [Step("torch.compile", 75, ops("torch.compile"), gpu)],
        [Step("KeOps", 60, ops("KeOps"), keops_needs, keops_variables)],
        [Step("counters", 75, module("benchmarks.gpu.counters", "--out", OUT), ("gpu", "ncu"))],
        [Step("training steps", 60, module("benchmarks.gpu.training", "steps", "--out", OUT), gpu)],
        [Step("others", 75, ops("others"), gpu)],
        [Step("training runs", 120, module("benchmarks.gpu.training", "runs", "--out", OUT), gpu)],
    ]


def ops(group: str, *arguments: str) -> tuple[str, ...]:
    return module("benchmarks.gpu.ops", group, *arguments, "--out", OUT)


def compile_ceilings(target: str) -> tuple[str, ...]:
    return "nvcc", "-O3", "-std=c++17", "-arch=native", "benchmarks/gpu/ceilings.cu", "-o", target


def _workers() -> tuple[str, ...]:
    """Several at once, where pytest has the plugin for it."""
    return ("-n", str(min(6, os.cpu_count() or 1))) if find_spec("xdist") else ()


def _find_programs() -> None:
    """Those beside this Python, which may not be on the PATH, and of CUDA where it usually lies."""
    usual = [path for pattern in PROGRAM_FOLDERS for path in sorted(glob.glob(pattern))]
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(PYTHON), os.environ.get("PATH", ""), *usual])


class Suite:
    """The steps' results so far, in a file."""

    def __init__(self, path: Path, minutes: float, planned: list[list[Step]]):
        self._path, self._end = path, time.monotonic() + 60 * minutes
        self._lock, self.stop = threading.Lock(), threading.Event()
        self.found: dict[str, Any] = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "git": _git(),
            "minutes": minutes,
            "device": None,
            "steps": {
                step.name: {"not_measured": "not reached"}
                for stage in [[MACHINE], *planned]
                for step in stage
            },
        }

    def put(self, name: str, result: Result) -> None:
        with self._lock:
            self.found["steps"][name] = result
            output.write_json(self._path, self.found)

    def run(self, step: Step) -> Result:
        left = self._end - time.monotonic()
        if why := why_not(step, self.found["no_gpu"]):
            result: Result = {"not_measured": why}
        elif self.stop.is_set():
            result = {"not_measured": "stopped"}
        elif left < WORST_START_S:
            result = {"not_measured": f"the {self.found['minutes']:g} minutes are over"}
        else:
            print(f"{step.name} ...", file=sys.stderr, flush=True)
            limit_s = min(step.limit_s, left)
            result = run(step, limit_s, lambda partial: self.put(step.name, partial), self.stop.is_set)
        result["limit_s"] = step.limit_s
        self.put(step.name, result)
        print(f"{step.name}: {report.outcome(result)}", file=sys.stderr, flush=True)
        return result

    def look(self) -> None:
        """What machine this is."""
        self.found["no_gpu"] = None
        result = self.run(MACHINE)
        self.found["no_gpu"] = result.get("error") or result.get("no_gpu")
        self.found["device"] = result.get("device") or self.found["no_gpu"]


def _git() -> str:
    """The commit, if this is a checkout that has one."""
    command = ["git", "--no-optional-locks", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_suite", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_suite.json"), help="the JSON file to write")
    parser.add_argument(
        "--minutes", type=float, default=9, help="begin nothing after so many, and end what runs"
    )
    parser.add_argument("--list", action="store_true", help="print the steps with their limits, and run none")
    options = parser.parse_args(arguments)
    _find_programs()
    with tempfile.TemporaryDirectory() as folder:
        planned = stages(Path(folder))
        if options.list:
            for number, stage in enumerate(planned):
                for step in stage:
                    print(f"{number:3}  {step.limit_s:4.0f} s  {step.name}")
            return 0
        suite = Suite(options.out, options.minutes, planned)
        suite.look()
        for stage in planned:
            with ThreadPoolExecutor(len(stage)) as pool:
                try:
                    list(pool.map(suite.run, stage))
                except KeyboardInterrupt:
                    suite.stop.set()
                    raise
    print(report.show(suite.found))
    return 1 if any("error" in result for result in suite.found["steps"].values()) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no step is left running
    sys.exit(main())
