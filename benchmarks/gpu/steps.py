"""Steps of a long measurement, each a command in a process of its own: what each needs, how long it may take, and what
came out, of one that was ended, too."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = 12_000  # characters kept, from the end
OUT = "{out}"  # in a command: the JSON file that it writes, as often as it likes
EXIT_NOT_MEASURED = 3  # of a command that says why with its last line
POLL_S = 0.2

Result = dict[str, Any]


class Step(NamedTuple):
    name: str
    limit_s: float
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """"gpu", programs, and Python modules, these with a dot before them."""
    variables: Mapping[str, str] = {}


def why_not(step: Step, no_gpu: str | None) -> str | None:
    """Why a step cannot be measured here."""
    for need in step.needs:
        if need == "gpu":
            if no_gpu:
                return no_gpu
        elif need.startswith("."):
            if importlib.util.find_spec(need[1:]) is None:
                return f"the package {need[1:]} is not installed"
        elif shutil.which(need) is None:
            return f"{need} was not found"
    return None


def run(
    step: Step,
    limit_s: float,
    report: Callable[[Result], None],
    stopped: Callable[[], bool] = lambda: False,
) -> Result:
    """Its result: what it wrote to {out}, its exit code, the end of its output, seconds; "not_measured" or "error": why
    there is no more. `report` is given it as far as it has come, whenever that file changes; `stopped` is asked whether
    to end it. All that the step started ends with it."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder, "result.json"), Path(folder, "log")
        command = [str(out) if word == OUT else word for word in step.command]
        start, seen = time.monotonic(), 0.0
        with log.open("wb") as written:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **step.variables},
                    stdin=subprocess.DEVNULL,
                    stdout=written,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:  # it was to be built, say
                return {"not_measured": str(error)}
            try:
                while process.poll() is None and time.monotonic() < start + limit_s and not stopped():
                    time.sleep(POLL_S)
                    if out.exists() and (changed := out.stat().st_mtime) > seen:
                        seen = changed
                        report({**json.loads(out.read_text()), "unfinished": True})
            finally:
                ended = process.poll() is None
                _end_group(process)
        result = json.loads(out.read_text()) if out.exists() else {}
        result |= {"seconds": round(time.monotonic() - start, 1), "exit_code": process.returncode}
        output = log.read_text(errors="replace").strip()
    lines = output.splitlines() or [f"exit code {process.returncode}"]
    if ended:
        result["error"] = "stopped" if stopped() else f"ended after {limit_s:.0f} s"
    elif process.returncode == EXIT_NOT_MEASURED:
        return {**result, "not_measured": lines[-1]}
    elif process.returncode:
        result["error"] = lines[-1]
    return {**result, "output": output[-OUTPUT:]}


def _end_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
