import json
import logging
from dataclasses import dataclass

import pytest
import torch

from vae import seeds
from vae.run import RunOptions
from vae.seeds import intervals, label, run, table, variants


@dataclass(frozen=True)
class Toy:
    run: RunOptions
    alpha: float = 1.0


def test_every_seed_has_its_own_folder_and_is_run_once(tmp_path):
    calls = []

    def experiment(config, folder, fabric):
        calls.append(config.run.seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"score": torch.rand(()).item()}

    with pytest.raises(KeyboardInterrupt):
        run(Toy(RunOptions(tmp_path / "r", seeds="3-5", device="cpu")), experiment)
    summary = run(Toy(RunOptions(tmp_path / "r", seeds="3-5", device="cpu", resume=True)), experiment)
    assert calls == [3, 4, 4, 5]
    torch.manual_seed(4)
    assert summary["score"]["values"][1] == torch.rand(()).item()
    assert summary == json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (tmp_path / "r" / "seed-5" / "summary.json").exists()


def test_the_table_lines_up():
    several = intervals([{"kl": 1.0, "iwae": -2.0}, {"kl": 3.0, "iwae": -2.0}])
    assert table({"a": several, "b": {"kl": 0.12345, "iwae": 7.0}}).splitlines() == [
        "           a       b",
        "kl    2 ± 13  0.1235",
        "iwae  -2 ± 0       7",
        "±: half-width of the 95 % Student-t interval over the seeds",
    ]
    assert table({"b": {"kl": 0.12345}}).splitlines() == ["         b", "kl  0.1235"]


def test_variants_have_folders_and_seeds_of_their_own(tmp_path):
    config = Toy(RunOptions(tmp_path, device="cpu"))
    found = variants(config, [{"alpha": 0.0}, {"alpha": 2.5}], "0-2")
    assert list(found) == ["alpha=0", "alpha=2.5"]
    child = found["alpha=2.5"]
    assert (child.alpha, child.run.seeds, child.run.out) == (2.5, "0-2", tmp_path / "alpha-2.5")
    named = Toy(RunOptions(tmp_path, seeds="4,5", device="cpu"))
    assert variants(named, [{"alpha": 0.0}], "0-2")["alpha=0"].run.seeds == "4,5"


def test_a_label_has_words_and_numbers():
    assert label({"prior": "student-t", "df": 3.0, "beta": 0.5}) == "prior=student-t df=3 beta=0.5"


def test_nothing_is_logged_of_the_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "_has_bfloat16", lambda device: True)
    said, logger = [], logging.getLogger("lightning_fabric.utilities.rank_zero")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    try:
        seeds.start(RunOptions(tmp_path, device="cpu", precision="mixed"))
        logger.info("something else")
    finally:
        logger.removeHandler(handler)
    assert said == ["something else"]


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_mixed_precision_is_bfloat16_where_the_hardware_has_it(tmp_path, monkeypatch, has_bfloat16):
    monkeypatch.setattr(seeds, "_has_bfloat16", lambda device: has_bfloat16)

    def experiment(config, folder, fabric):
        layer = torch.nn.Linear(2, 2)
        with fabric.autocast():
            return {"bfloat16": float(layer(torch.ones(2)).dtype == torch.bfloat16)}

    for precision in ("float32", "mixed"):
        options = RunOptions(tmp_path / precision, device="cpu", precision=precision)
        assert run(Toy(options), experiment)["bfloat16"] == (precision == "mixed" and has_bfloat16)
