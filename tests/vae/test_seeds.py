import json
from dataclasses import dataclass

import torch

from vae.run import RunOptions
from vae.seeds import intervals, run, table


@dataclass(frozen=True)
class Toy:
    run: RunOptions


def test_every_seed_has_its_own_folder_and_is_run_once(tmp_path):
    calls = []

    def experiment(config, folder, fabric):
        calls.append(config.run.seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"score": torch.rand(()).item()}

    try:
        run(Toy(RunOptions(tmp_path / "r", seeds="3-5", device="cpu")), experiment)
    except KeyboardInterrupt:
        pass
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
    ]
