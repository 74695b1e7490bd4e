import math
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric
from torch.distributions import Independent, Normal

from tests.vae.test_training import Toy
from vae.density_ratio import DensityRatio
from vae.divergences import shuffled_dimensions
from vae.experiments.pinwheel import Pinwheel, build
from vae.model import Encoding
from vae.objectives import factor_vae
from vae.run import RunFolder, RunOptions
from vae.training import shuffled, single_threaded, train

PRIOR = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)


def gaussian(n, shift=0.0, rho=0.0):
    noise = torch.randn(n, 2)
    z = shift + torch.stack([noise[:, 0], rho * noise[:, 0] + math.sqrt(1 - rho**2) * noise[:, 1]], 1)
    return Encoding(z, torch.ones_like(z), z)


@pytest.mark.parametrize(
    ("against", "draw", "expected"),
    [
        ("prior", partial(gaussian, shift=0.7), 0.7**2),
        ("prior", gaussian, 0.0),
        ("shuffled", partial(gaussian, shift=3.0, rho=0.8), -0.5 * math.log(1 - 0.8**2)),
        ("shuffled", partial(gaussian, shift=3.0), 0.0),
    ],
)  # fmt: skip
def test_it_learns_the_divergence(against, draw, expected):
    ratio = DensityRatio(2, against=against)
    with single_threaded():
        for _ in range(120):
            ratio(PRIOR, draw(256))
        value = ratio.eval()(PRIOR, draw(10_000)).item()
    assert 0.7 * expected - 0.05 < value < 1.2 * expected + 0.05


def test_who_gets_a_gradient():
    ratio, encoding = DensityRatio(2), gaussian(64, shift=1.0)
    before = [p.clone() for p in ratio.parameters()]
    encoding = encoding._replace(z=encoding.z.requires_grad_())
    ratio(PRIOR, encoding).backward()
    assert encoding.z.grad.abs().sum() > 0
    assert all(p.grad is None for p in ratio.parameters())
    moved = [p.clone() for p in ratio.parameters()]
    assert not any(a.equal(b) for a, b in zip(before[-2:], moved[-2:]))
    with torch.no_grad():
        ratio(PRIOR, encoding)
    ratio.eval()(PRIOR, encoding)
    assert all(a.equal(b) for a, b in zip(moved, ratio.parameters()))


@pytest.mark.parametrize("measure", ["ratio", "gan"])
def test_the_penalty_bounds_what_the_encoder_feels_where_nothing_overlaps(measure):
    """Logits of separable draws would grow as long as they are trained."""
    steepest = {}
    for penalty in (0.0, 0.05):
        torch.manual_seed(0)
        ratio = DensityRatio(2, measure=measure, penalty=penalty)
        with single_threaded():
            for _ in range(150):
                encoding = gaussian(64, shift=8.0)
                encoding = encoding._replace(z=encoding.z.requires_grad_())
                value = ratio(PRIOR, encoding)
        (slope,) = torch.autograd.grad(value, encoding.z)
        steepest[penalty] = 64 * slope.norm(dim=1).max().item()
    assert steepest[0.05] < 0.7 * steepest[0.0]
    assert steepest[0.05] < 2


def test_it_starts_from_no_difference():
    assert DensityRatio(2).eval()(PRIOR, gaussian(10)) == 0
    assert DensityRatio(2, measure="gan").eval()(PRIOR, gaussian(10)).abs() < 1e-6


def test_shuffling_keeps_each_dimension_and_breaks_what_binds_them():
    z = gaussian(5000, rho=0.9).z
    mixed = shuffled_dimensions(z)
    assert mixed.sort(0).values.equal(z.sort(0).values)
    assert mixed.T.corrcoef()[0, 1].abs() < 0.05
    assert z.T.corrcoef()[0, 1] > 0.8


def run(out, *, resume=False, stop_after=None):
    folder, fabric = RunFolder(Toy(RunOptions(out, resume=resume))), Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(7)
    model, points, _, _ = build(Pinwheel(num_points=100))
    model.ratio = DensityRatio(2, against="shuffled", hidden_features=16)
    steps = 0

    def objective(model, batch):
        nonlocal steps
        if steps == stop_after:
            raise KeyboardInterrupt
        steps += 1
        return factor_vae(5.0, model.ratio)(model, batch)

    with single_threaded():
        train(model, shuffled(points, 30), objective, epochs=5, lr=1e-3, fabric=fabric, folder=folder)
    return model.state_dict(), folder.rows()


def test_as_part_of_a_model_it_resumes_with_its_optimiser(tmp_path):
    state, metrics = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_after=10)
    resumed, resumed_metrics = run(tmp_path / "stopped", resume=True)
    assert resumed_metrics == metrics
    for name, value in state.items():
        assert name == "ratio._extra_state" or resumed[name].equal(value)
    assert state["ratio.network.4.weight"].abs().sum() > 0
