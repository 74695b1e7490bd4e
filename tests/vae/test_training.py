from dataclasses import dataclass
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric

from vae import divergences, likelihoods
from vae.data.pinwheel import pinwheel
from vae.experiments.pinwheel import Pinwheel, build
from vae.model import VAE
from vae.networks import DCGANDecoder, DCGANEncoder
from vae.objectives import decomposition
from vae.priors import Sparse
from vae.run import RunError, RunFolder, RunOptions
from vae.training import shuffled, single_threaded, train

DIVERGENCE = partial(divergences.inclusive_kl, num_samples=50)


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


def run_images(out, *, precision, resume=False, stop_after=None, measure=None):
    """The state, running statistics included, after a short training of networks with BatchNorm."""
    folder = RunFolder(Toy(RunOptions(out, resume=resume)))
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    torch.manual_seed(7)
    images = torch.rand(40, 1, 32, 32)
    model = VAE(DCGANEncoder(3, min_scale=1e-6), DCGANDecoder(3), Sparse(3), likelihoods.laplace)
    steps = 0

    def objective(model, batch):
        nonlocal steps
        if steps == stop_after:
            raise KeyboardInterrupt
        steps += 1
        assert model.training
        return decomposition(
            model, batch, alpha=1.0, beta=1.0, divergence=lambda p, encoding: encoding.z.square().mean()
        )

    batches = shuffled(images, 16)
    with single_threaded():
        train(model, batches, objective, epochs=4, lr=1e-3, fabric=fabric, folder=folder, measure=measure)
    return model.state_dict(), folder.rows()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_resuming_changes_no_bit_of_networks_with_batch_norm(tmp_path, precision):
    state, rows = run_images(tmp_path / "whole", precision=precision)
    with pytest.raises(KeyboardInterrupt):
        run_images(tmp_path / "stopped", precision=precision, stop_after=7)
    resumed_state, resumed_rows = run_images(tmp_path / "stopped", precision=precision, resume=True)
    assert resumed_rows == rows
    assert state["encoder.body.1.num_batches_tracked"] == 12
    assert all(resumed_state[name].equal(value) for name, value in state.items())


def test_what_is_measured_is_logged_and_changes_nothing(tmp_path):
    def measure(model):
        assert not model.training and not torch.is_grad_enabled()
        model.encoder(torch.zeros(2, 1, 32, 32))
        return {"steps": model.encoder.body[1].num_batches_tracked.item()}

    state, rows = run_images(tmp_path / "without", precision="32-true")
    same_state, more = run_images(tmp_path / "with", precision="32-true", measure=measure)
    assert more == [{**row, "steps": 3 * row["epoch"]} for row in rows]
    assert all(same_state[name].equal(value) for name, value in state.items())


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


def test_batches_are_prepared_one_by_one():
    prepared = []

    def prepare(batch):
        prepared.append(len(batch))
        return batch.float()

    iterator = iter(shuffled(torch.arange(10), 4, prepare)())
    assert prepared == []
    assert next(iterator).dtype == torch.float32
    assert prepared == [4]
    assert [len(batch) for batch in shuffled(torch.arange(10), 10, prepare)()] == [10]
