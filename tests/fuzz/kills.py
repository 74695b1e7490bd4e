"""Experiments killed (SIGKILL) at random moments and resumed, until they end: python -m tests.fuzz.kills --kills 50

Each has to end with the very files of a run that was left alone. Children are forked from one process that has
imported everything and computed nothing, so that a kill costs no start.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import torch

from tests.vae.idx_files import write_fashion
from vae.cli import main as vae
from vae.experiments import bias, fashion, overlap, pinwheel, shapes, theory  # noqa: F401

SUBSET = ("--subset", "1", "3", "8", "16", "16")
SETTINGS = {
    "pinwheel": ("--epochs", "60"),
    "fashion": ("--epochs", "4", "--batch-size", "30", "--latent-dim", "3", "--iwae-samples", "2"),
    "shapes": (*SUBSET, "--epochs", "3", "--batch-size", "40", "--latent-dim", "4"),
    "bias": (
        *("--num-points", "64", "--latent-dim", "2", "--batch-size", "16", "--repeats", "4"),
        *("--data-set", "pinwheel", "--train-points", "100", "--weights", "1", "2", "--epochs", "2"),
    ),
    "overlap": ("--num-points", "80", "--modes", "10", "--draws", "4"),
    "theory": ("--quick",),
}
COMPARED = ("summary.json", "metrics.jsonl")


def start(name: str, out: Path, data: Path, *flags: str) -> int:
    """A child that runs the experiment; its process id."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(os.open(out.parent / "errors.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        torch.set_num_threads(1)
        os.environ["VAE_DATA"] = str(data)
        status = vae([name, "--out", str(out), *flags])
    finally:
        os._exit(status)


def wait(child: int, seconds: float | None) -> int | None:
    """Its exit status; None after so many seconds, when it is killed."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.001)


def results(out: Path) -> dict[str, bytes]:
    """The files that must be the same, those of runs within the run included."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.name in COMPARED or path.suffix == ".md"
    }


def trial(
    name: str, whole: Path, duration: float, folder: Path, data: Path, at_most: int
) -> tuple[int, str | None]:
    """How often a run was killed before it ended, and how it then differs from the whole one."""
    out, kills = folder / "run", 0
    while True:
        flags = ("--resume",) if out.exists() and any(out.iterdir()) else ()
        if not (out / "config.json").exists():
            flags += (*SETTINGS[name], "--device", "cpu")
        patience = random.uniform(0, 1.2 * duration) if kills < at_most else None
        status = wait(start(name, out, data, *flags), patience)
        if status is None:
            kills += 1
        elif status != 0:
            return kills, f"exit status {status}: {(folder / 'errors.txt').read_text()[-300:]}"
        else:
            found, expected = results(out), results(whole)
            different = [
                path for path in sorted({*found, *expected}) if found.get(path) != expected.get(path)
            ]
            left = [path.name for path in out.rglob("*.tmp")]
            return kills, f"{different} differ, {left} are left" if different or left else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each experiment, at least")
    parser.add_argument("--experiments", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        prepare = os.fork()
        if not prepare:  # torch's threads start here, and not in the process that forks
            write_fashion(data)
            os._exit(0)
        os.waitpid(prepare, 0)
        for name in options.experiments:
            home = Path(temporary) / name
            (home / "whole").mkdir(parents=True)
            flags, began = (*SETTINGS[name], "--device", "cpu"), time.monotonic()
            if status := wait(start(name, home / "whole" / "run", data, *flags), None):
                print(f"{name}: exit status {status}: {(home / 'whole' / 'errors.txt').read_text()[-500:]}")
                return 1
            duration = time.monotonic() - began
            kills, trials, differences = 0, 0, []
            while kills < options.kills:
                folder = home / f"trial-{trials}"
                folder.mkdir()
                more, difference = trial(
                    name, home / "whole" / "run", duration, folder, data, options.kills - kills
                )
                kills, trials = kills + more, trials + 1
                differences += [difference] if difference else []
            bad += len(differences)
            print(
                f"{name:10} {kills:4} kills, {trials:4} runs, {len(differences)} of them different",
                flush=True,
            )
            for difference in differences[:3]:
                print(f"    {difference}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
