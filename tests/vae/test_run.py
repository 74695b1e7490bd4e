import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from vae.run import RunError, RunFolder, RunOptions, finished_runs, parse_seeds, stored_config


@dataclass(frozen=True)
class Toy:
    run: RunOptions
    alpha: float = 1.0


@pytest.fixture
def config(tmp_path):
    return Toy(RunOptions(tmp_path / "run"))


@pytest.fixture
def resumed(config):
    return replace(config, run=replace(config.run, resume=True))


def with_checkpoint(config, epochs=3):
    folder = RunFolder(config)
    for epoch in range(1, epochs + 1):
        folder.log({"epoch": epoch})
    folder.save_checkpoint(epochs, {"weights": torch.arange(1000.0)})
    return folder


def test_config_tells_settings_seed_and_versions(config):
    RunFolder(config)
    content = json.loads((config.run.out / "config.json").read_text())
    assert content["settings"] == {"alpha": 1.0}
    assert content["run"]["seed"] == 0
    assert content["versions"]["torch"]
    assert "out" not in content["run"]


def test_a_checkpoint_comes_back_with_the_random_state(config, resumed):
    with_checkpoint(config)
    expected = torch.rand(3)
    state = RunFolder(resumed).load_checkpoint()
    assert state["epoch"] == 3 and state["weights"].equal(torch.arange(1000.0))
    assert torch.rand(3).equal(expected)


def test_rows_past_the_checkpoint_are_dropped(config, resumed):
    folder = with_checkpoint(config)
    folder.log({"epoch": 4})
    with (config.run.out / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "obj')  # as a kill in the middle of a row leaves it
    folder = RunFolder(resumed)
    folder.load_checkpoint()
    assert folder.rows() == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]


def test_a_run_killed_before_its_first_checkpoint_starts_again(config, resumed):
    RunFolder(config).log({"epoch": 1})
    folder = RunFolder(resumed)
    assert folder.load_checkpoint() is None
    assert folder.rows() == []


@pytest.mark.parametrize("left", [[], ["config.json.tmp"]])
def test_a_run_killed_before_its_config_starts_again(resumed, left):
    resumed.run.out.mkdir()
    for name in left:
        (resumed.run.out / name).write_text("{")
    assert RunFolder(resumed).load_checkpoint() is None


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_crash_while_saving_leaves_the_last_checkpoint(config, resumed, monkeypatch, stage):
    folder = with_checkpoint(config)
    before = (config.run.out / "checkpoint.pt").read_bytes()

    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, stage, crash)
        folder.save_checkpoint(4, {"weights": torch.zeros(5)})
    assert (config.run.out / "checkpoint.pt").read_bytes() == before
    assert RunFolder(resumed).load_checkpoint()["epoch"] == 3


def flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [flip_a_bit, lambda c: c[: len(c) // 2], lambda c: b""], ids=["bit", "cut", "empty"]
)
def test_a_damaged_checkpoint_is_refused_by_name(config, resumed, damage):
    with_checkpoint(config)
    path = config.run.out / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged .*delete"):
        RunFolder(resumed).load_checkpoint()


def test_missing_rows_are_refused(config, resumed):
    with_checkpoint(config)
    (config.run.out / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match=r"metrics\.jsonl has only 0 of the 3 rows: restore"):
        RunFolder(resumed).load_checkpoint()


def test_a_folder_in_use_is_refused(config):
    RunFolder(config)
    with pytest.raises(RunError, match="is not empty: --resume continues a run, --out names another"):
        RunFolder(config)


def test_other_settings_are_refused(config, resumed):
    RunFolder(config)
    with pytest.raises(RunError, match=r"started with --alpha 1\.0, not 2\.0: drop --alpha"):
        RunFolder(replace(resumed, alpha=2.0))
    with pytest.raises(RunError, match=r"started with --seed 0, not 5"):
        RunFolder(replace(resumed, run=replace(resumed.run, seed=5)))


def test_a_setting_that_is_newer_than_the_run_is_at_its_default(config, resumed):
    @dataclass(frozen=True)
    class Newer(Toy):
        sizes: tuple[int, ...] = (1, 2)

    Newer.__name__ = "Toy"
    RunFolder(config)
    assert stored_config(Newer, resumed.run) == Newer(resumed.run)
    RunFolder(Newer(resumed.run))
    with pytest.raises(RunError, match=r"started with --sizes \[1, 2\], not \[3\]: drop --sizes"):
        RunFolder(Newer(resumed.run, sizes=(3,)))


def test_the_data_may_have_moved(tmp_path):
    @dataclass(frozen=True)
    class WithData:
        run: RunOptions
        data: str = ""

    RunFolder(WithData(RunOptions(tmp_path / "run"), "here"))
    options = RunOptions(tmp_path / "run", resume=True)
    assert stored_config(WithData, options).data == "here"
    RunFolder(WithData(options, "there"))


def test_other_versions_are_warned_of(config, resumed):
    RunFolder(config)
    path = config.run.out / "config.json"
    content = json.loads(path.read_text())
    content["versions"]["torch"] = "0.1"
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="may differ from an uninterrupted run"):
        RunFolder(resumed)


def test_a_folder_that_is_no_run_is_not_resumed(resumed):
    resumed.run.out.mkdir()
    (resumed.run.out / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"no config\.json"):
        RunFolder(resumed)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file cannot be used"):
        RunFolder(Toy(RunOptions(tmp_path / "file")))


def test_the_stored_config_is_the_one_it_was_started_with(config, resumed):
    assert stored_config(Toy, resumed.run) is None
    started = replace(config, alpha=5.0)
    RunFolder(started)
    assert stored_config(Toy, config.run) is None
    assert stored_config(Toy, resumed.run) == replace(resumed, alpha=5.0)


@dataclass(frozen=True)
class WithTuple:
    run: RunOptions
    betas: tuple[float, ...] = (1.0, 2.0)


def test_a_tuple_comes_back_as_one(tmp_path):
    config = WithTuple(RunOptions(tmp_path / "run"))
    RunFolder(config)
    resumed = replace(config, run=replace(config.run, resume=True))
    assert stored_config(WithTuple, resumed.run) == resumed
    RunFolder(resumed)
    with pytest.raises(RunError, match=r"started with --betas \[1.0, 2.0\], not \[3.0\]"):
        RunFolder(replace(resumed, betas=(3.0,)))


def test_finished_runs_are_found_wherever_they_are(tmp_path):
    def make(name, config_class, summary, seeds=""):
        options = RunOptions(tmp_path / name, seeds=seeds, seed=7)
        folder = RunFolder(config_class(options))
        if summary:
            folder.finish(summary)

    make("b", Toy, {"kl": {"mean": 1.0}}, seeds="1-2")
    make("b/seed-1", Toy, {"kl": 1.0})
    make("b/seed-2", Toy, None)
    make("a", Toy, {"kl": 2.0})
    make("c", WithTuple, {"kl": 3.0})
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "summary.json").write_text("[]")
    found = [(config.run.out, config.run.seed, summary) for config, summary in finished_runs([tmp_path], Toy)]
    assert found == [(tmp_path / "a", 7, {"kl": 2.0}), (tmp_path / "b/seed-1", 7, {"kl": 1.0})]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is damaged"), ("{}", "does not fit Toy"), ('{"experiment": "Other"}', "it is of Other")],
)
def test_a_damaged_or_foreign_config_is_refused(resumed, content, message):
    resumed.run.out.mkdir()
    (resumed.run.out / "config.json").write_text(content)
    with pytest.raises(RunError, match=message):
        stored_config(Toy, resumed.run)


def test_seeds():
    assert parse_seeds("0-3") == [0, 1, 2, 3]
    assert parse_seeds("5,1-2") == [5, 1, 2]
    for text in ("", "3", "3-3", "a-b", "1,1", "5-2", "1-2-3"):
        with pytest.raises(RunError, match="write them like 0-9"):
            parse_seeds(text)
    with pytest.raises(RunError):
        RunOptions(Path("x"), seeds="3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_a_missing_device_is_named():
    with pytest.raises(RunError, match="--device cpu"):
        RunOptions(Path("x"), device="cuda")
