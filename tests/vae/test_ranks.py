"""Training by several processes is the training by one, up to rounding."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import needs
from tests.vae import several_processes
from vae import ranks
from vae.cli import main
from vae.ranks import Shard
from vae.training import single_threaded


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("several")
    root = Path(__file__).parents[2]
    # The package as installed comes first.
    script = f"import sys, runpy; sys.path.append({str(root)!r}); sys.argv[1:] = [{str(base)!r}]\n"
    script += "runpy.run_module('tests.vae.several_processes', run_name='__main__')"
    home = Path(ranks.__file__).parents[1]
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600, cwd=home)
    return base


def one_process(out, **options):
    with single_threaded():
        return several_processes.run(out, **options)


def assert_same(out, base, state, other):
    torch.testing.assert_close(state, other, rtol=1e-4, atol=1e-5)
    rows, others = (
        [json.loads(row) for row in (path / "metrics.jsonl").read_text().splitlines()] for path in (out, base)
    )
    assert len(rows) == several_processes.EPOCHS
    torch.testing.assert_close(rows, others, rtol=1e-4, atol=1e-5)


@needs.gloo
def test_two_processes_begin_and_three_finish_what_one_does(base, tmp_path):
    """With the bank of encodings sharded, and batches of which some processes have nothing."""
    found = torch.load(base / "three" / "found.pt", weights_only=True)
    assert_same(tmp_path / "one", base / "three", one_process(tmp_path / "one"), found["state"])
    assert (base / "two" / "metrics.jsonl").read_text().count("\n") < several_processes.EPOCHS


@needs.gloo
def test_one_process_finishes_what_two_begin(base, tmp_path):
    shutil.copytree(base / "two", tmp_path / "one")
    found = torch.load(base / "three" / "found.pt", weights_only=True)
    state = one_process(tmp_path / "one", resume=True)
    assert_same(tmp_path / "one", base / "three", state, found["state"])


@needs.gloo
def test_what_several_processes_refuse(base):
    batch_norm, draws = torch.load(base / "three" / "found.pt", weights_only=True)["refused"]
    assert "BatchNorm sees the rows of one process only" in batch_norm
    assert "the processes drew different random numbers in epoch 1" in draws


@needs.gloo
def test_the_command_line_gives_the_same_summary(base, tmp_path):
    assert main(["pinwheel", "--out", str(tmp_path), *several_processes.COMMAND]) == 0
    summaries = [json.loads((out / "summary.json").read_text()) for out in (tmp_path, base / "command")]
    torch.testing.assert_close(*summaries, rtol=1e-4, atol=1e-5)
    assert not (base / "command" / "overlap").exists()


def test_shards_are_even_and_in_order(monkeypatch):
    monkeypatch.setattr(ranks, "world_size", lambda: 4)
    shards = []
    for rank in range(4):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shards.append(Shard.of(10))
    rows = torch.arange(10)
    assert torch.cat([shard.own(rows) for shard in shards]).equal(rows)
    assert sorted(shard.count for shard in shards) == [2, 2, 3, 3]
