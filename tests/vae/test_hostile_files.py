"""Run folders that are cut off, overwritten or made to do harm: refused by name, or read as they were."""

import json
import pickle
import random
import shutil
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from vae.experiments import finished
from vae.run import RunError, RunFolder, RunOptions, stored_config

FILES = ("config.json", "metrics.jsonl", "checkpoint.pt", "summary.json")


class Bomb:
    """Unpickled, it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a file was unpickled",)


@dataclass(frozen=True)
class Toy:
    run: RunOptions
    alpha: float = 1.0


@pytest.fixture
def whole(tmp_path):
    """The configuration of a run that has ended, to resume it."""
    config = Toy(RunOptions(tmp_path / "run"))
    folder = RunFolder(config)
    for epoch in (1, 2, 3):
        folder.log({"epoch": epoch, "objective": -1.5 * epoch})
    folder.save_checkpoint(3, {"model": {"weight": torch.arange(50.0)}})
    folder.finish({"kl": 2.5})
    return replace(config, run=replace(config.run, resume=True))


def read(config):
    """All that resuming and reporting read."""
    stored = stored_config(Toy, config.run)
    folder = RunFolder(stored)
    checkpoint = folder.load_checkpoint()
    return stored, folder.summary, folder.rows(), checkpoint["epoch"], checkpoint["model"]["weight"].tolist()


def damaged(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    kind = chance.choice(("cut", "bit", "zeros", "insert", "drop", "swap"))
    if kind == "cut":
        return content[:place]
    if kind == "bit":
        return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
    if kind == "zeros":
        return content[:place] + bytes(len(content[place : place + 64])) + content[place + 64 :]
    if kind == "insert":
        return content[:place] + chance.randbytes(8) + content[place:]
    if kind == "drop":
        return content[:place] + content[place + 9 :]
    return content[place:] + content[:place]


@pytest.mark.filterwarnings("ignore:.* was started with")  # other versions, where they are what was damaged
def test_random_damage_is_refused_or_harmless(whole, tmp_path):
    """Text that still reads well may say something else: of that the checkpoint alone is protected, by checksums."""
    expected, refused = read(whole), 0
    for number in range(240):
        chance = random.Random(number)
        name = FILES[number % len(FILES)]
        content = (whole.run.out / name).read_bytes()
        (whole.run.out / name).write_bytes(damaged(content, chance))
        try:
            found = read(whole)
            assert name != "checkpoint.pt" or found == expected
        except RunError:
            refused += 1
        (whole.run.out / name).write_bytes(content)
    assert refused > 100
    assert read(whole) == expected


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_bomb_is_refused(whole, protocol):
    path = whole.run.out / "checkpoint.pt"
    bombed = path.with_name("bombed.pt")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(bombed, "w") as other:
        for name in archive.namelist():
            bomb = name.endswith("data.pkl")
            other.writestr(name, pickle.dumps(Bomb(), protocol) if bomb else archive.read(name))
    shutil.move(bombed, path)
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        read(whole)
    with pytest.raises(RunError, match="is no run folder with a trained model"):
        finished.load(str(whole.run.out))
    path.write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        read(whole)


@pytest.mark.parametrize(
    "state",
    [{}, {"epoch": 3}, {"epoch": 3, "random": {}}, {"epoch": "x", "random": {"cpu": 0, "cuda": []}}, [1]],
)
def test_a_checkpoint_of_something_else_is_refused(whole, state):
    torch.save(state, whole.run.out / "checkpoint.pt")
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged"):
        read(whole)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "[]",
        "{}",
        '{"experiment": "Toy", "settings": [], "run": {}, "versions": {}}',
        '{"experiment": "Toy", "settings": {}, "run": 3, "versions": {}}',
        '{"experiment": "Toy", "settings": {"beta": 1}, "run": {}, "versions": {}}',
        '{"experiment": "Toy", "settings": {}, "run": {"out": "/"}, "versions": {}}',
    ],
)
def test_a_configuration_of_something_else_is_refused(whole, content):
    path = whole.run.out / "config.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"config\.json (is damaged|does not fit)"):
        read(whole)
    with pytest.raises(RunError, match=r"config\.json|was started with"):
        RunFolder(whole)


def test_rows_that_are_no_json_are_refused(whole):
    path = whole.run.out / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch"\n' + "[" * 100_000 + "\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged"):
        read(whole)


def test_the_model_of_another_architecture_is_refused(tmp_path):
    folder = tmp_path / "run"
    assert finished_pinwheel(folder)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["model"] = {"weight": torch.zeros(3)}
    torch.save(state, folder / "checkpoint.pt")
    with pytest.raises(RunError, match="does not fit"):
        finished.load(str(folder))


def finished_pinwheel(folder: Path) -> bool:
    """A folder as `vae pinwheel` leaves it, of no training at all."""
    from vae.experiments.pinwheel import Pinwheel, model_and_data

    config = Pinwheel(run=RunOptions(folder))
    model, _ = model_and_data(config)
    RunFolder(config).save_checkpoint(0, {"model": model.state_dict()})
    assert finished.load(str(folder)).name == "pinwheel"
    return json.loads((folder / "config.json").read_text())["experiment"] == "Pinwheel"
