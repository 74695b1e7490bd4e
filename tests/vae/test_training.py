from dataclasses import dataclass
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric

from vae.data.pinwheel import pinwheel
from vae.experiments.pinwheel import Pinwheel, build, full_inclusive_kl
from vae.objectives import decomposition
from vae.run import RunError, RunFolder, RunOptions
from vae.training import shuffled, single_threaded, train

DIVERGENCE = partial(full_inclusive_kl, num_samples=50)


@dataclass(frozen=True)
class Toy:
    run: RunOptions


def run(out, *, resume=False, stop_after=None, epochs=12, lr=1e-3, divergence=DIVERGENCE):
    """The weights and the metrics of a short minibatch training, stopped after some steps if asked."""
    folder = RunFolder(Toy(RunOptions(out, resume=resume)))
    fabric = Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(7)
    model, points, _, _ = build(Pinwheel(num_points=100))
    steps = 0

    def objective(model, batch):
        nonlocal steps
        if steps == stop_after:
            raise KeyboardInterrupt
        steps += 1
        return decomposition(model, batch, alpha=1.0, beta=0.5, divergence=divergence, data=points)

    with single_threaded():
        train(model, shuffled(points, 30), objective, epochs=epochs, lr=lr, fabric=fabric, folder=folder)
    return model.state_dict(), (out / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("stop_after", [2, 4, 17, 47])
def test_resuming_in_the_middle_of_an_epoch_changes_no_bit(tmp_path, stop_after):
    weights, metrics = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_after=stop_after)
    resumed_weights, resumed_metrics = run(tmp_path / "stopped", resume=True)
    assert resumed_metrics == metrics
    assert all(resumed_weights[name].equal(weight) for name, weight in weights.items())


def test_training_raises_the_objective(tmp_path):
    run(tmp_path / "run", epochs=100)
    rows = RunFolder(Toy(RunOptions(tmp_path / "run", resume=True))).rows()
    assert [row["epoch"] for row in rows] == list(range(1, 101))
    assert rows[-1]["objective"] > rows[0]["objective"] + 1


def test_an_objective_that_is_not_finite_ends_the_run_in_words(tmp_path):
    with pytest.raises(RunError, match="the objective became nan in epoch .*lower --lr"):
        run(tmp_path / "run", epochs=50, lr=1e30, divergence=lambda prior, encoding: encoding.loc.mean())


def test_batches_cover_the_data_in_a_new_order_each_epoch():
    data, _ = pinwheel(10)
    batches = shuffled(data, 4)
    first, second = (torch.cat(list(batches())) for _ in range(2))
    assert [len(batch) for batch in batches()] == [4, 4, 2]
    assert not first.equal(second)
    assert first.sort(0)[0].equal(data.sort(0)[0])
    (whole,) = shuffled(data, 10)()
    assert whole is data
