import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import vae
from vae.cli import main

SHORT = ["--epochs", "4", "--device", "cpu"]


def command(out, *flags):
    return main(["pinwheel", "--out", str(out), *flags])


def read(out, name="summary.json"):
    return json.loads((out / name).read_text())


def test_a_run_fills_its_folder(tmp_path, capsys):
    assert command(tmp_path / "run", *SHORT) == 0
    assert set(read(tmp_path / "run")) == {
        *("inclusive_kl", "arm_assignment"),
        *("log_likelihood", "kl", "iwae", "reconstruction"),
    }
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert figures == {"data.png", "prior.png", "aggregate.png", "training.png"}
    assert "arm_assignment" in capsys.readouterr().out


def test_quick_is_a_preset_that_flags_override(tmp_path):
    command(tmp_path / "a", "--quick", "--device", "cpu")
    command(tmp_path / "b", "--quick", "--device", "cpu", "--epochs", "3")
    assert read(tmp_path / "a", "config.json")["settings"]["epochs"] == 100
    assert read(tmp_path / "b", "config.json")["settings"]["epochs"] == 3


def test_minibatches_and_the_square_prior(tmp_path):
    assert command(tmp_path / "run", *SHORT, "--batch-size", "150", "--prior", "square", "--beta", "1") == 0


def test_a_large_alpha_fits_every_arm_to_its_component(tmp_path):
    command(tmp_path / "run", "--alpha", "10", "--device", "cpu")
    summary = read(tmp_path / "run")
    assert summary["arm_assignment"] > 0.95
    assert summary["inclusive_kl"] < 0.3


def test_compare(tmp_path, capsys):
    assert command(tmp_path / "run", *SHORT, "--compare", "--seeds", "0-1") == 0
    summary = read(tmp_path / "run")
    assert list(summary) == ["alpha=1 beta=0", "alpha=0 beta=1", "alpha=10 beta=0"]
    assert len(summary["alpha=0 beta=1"]["inclusive_kl"]["values"]) == 2
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {"aggregate.png", "seeds.png"}
    assert "±" in capsys.readouterr().out


def test_resuming_takes_the_settings_from_the_folder(tmp_path, capsys):
    assert command(tmp_path / "run", *SHORT, "--alpha", "3") == 0
    before = (tmp_path / "run" / "checkpoint.pt").stat().st_mtime_ns
    assert command(tmp_path / "run", "--resume") == 0
    assert (tmp_path / "run" / "checkpoint.pt").stat().st_mtime_ns == before
    assert command(tmp_path / "run", "--resume", "--alpha", "5") == 2
    assert "started with --alpha 3.0, not 5.0" in capsys.readouterr().err
    assert command(tmp_path / "run") == 2


LONG = ("--epochs", "400", "--device", "cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    command(out, *LONG)
    return out


@pytest.mark.parametrize("rows", [0, 1, 150])
def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path, rows):
    """Killed at a random moment after so many epochs, the last checkpoint anywhere behind it."""
    out = tmp_path / "run"
    start_and_kill(out, rows)
    assert not (out / "summary.json").exists()
    assert command(out, "--resume") == 0
    for name in ("metrics.jsonl", "summary.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    weights, expected = (torch.load(o / "checkpoint.pt", weights_only=True)["model"] for o in (out, whole))
    assert all(weights[name].equal(weight) for name, weight in expected.items())


def start_and_kill(out, rows):
    # Away from the source tree, which would hide an installed package, but with the packages under test.
    environment = {**os.environ, "PYTHONPATH": str(Path(vae.__file__).parents[1])}
    arguments = [sys.executable, "-m", "vae.cli", "pinwheel", "--out", str(out), *LONG]
    process = subprocess.Popen(arguments, cwd=out.parent, env=environment)
    metrics = out / "metrics.jsonl"
    try:
        while (
            not out.exists()
            if rows == 0
            else not metrics.exists() or metrics.read_bytes().count(b"\n") < rows
        ):
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(0.1 * random.random())
    finally:
        process.kill()
        process.wait()
