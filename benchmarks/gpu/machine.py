"""What there is to measure on: `python -m benchmarks.gpu.machine --out FILE`."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from .. import output

QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
STATE = "clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active"
PROGRAMS = {
    "nvidia-smi": ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv"],
    "nvcc": ["nvcc", "--version"],
    "g++": ["g++", "--version"],
    "cmake": ["cmake", "--version"],
    "compute-sanitizer": ["compute-sanitizer", "--version"],
    "ncu": ["ncu", "--version"],
}


def facts() -> dict[str, Any]:
    found: dict[str, Any] = {
        "python": f"{platform.python_version()}, {sys.executable}",
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "torch's cuda": torch.version.cuda,
        "no_gpu": None if torch.cuda.is_available() else "torch sees no GPU here",
        "programs": {name: last_lines(command) for name, command in PROGRAMS.items()},
    }
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        found |= {"gpus": torch.cuda.device_count(), "device": device.name, "memory": device.total_memory}
        found |= {"capability": f"{device.major}.{device.minor}", "count": device.multi_processor_count}
    return found


def graphics_state() -> str:
    """Clocks, power and temperature right now."""
    return last_lines(["nvidia-smi", f"--query-gpu={STATE}", "--format=csv,noheader"])


def last_lines(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return "not found"
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "\n".join((done.stdout + done.stderr).strip().splitlines()[-3:])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.machine", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    output.write_json(parser.parse_args().out, facts())
    return 0


if __name__ == "__main__":
    sys.exit(main())
