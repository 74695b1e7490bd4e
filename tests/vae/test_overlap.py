import math

import pytest
import torch
from torch.distributions import Independent, Normal

from pykernels import responsibility_statistics
from vae.overlap import BallAndPrior, Gaussian, Multimodal, matched, measure

PRIOR = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)


@pytest.fixture
def x():
    return torch.randn(200, 2)


def encoders(x):
    return {
        "gaussian": Gaussian(x, 0.1 + torch.rand(len(x), 2)),
        "ball": BallAndPrior(x, 0.5, 0.7, PRIOR),
        "multimodal": Multimodal(x, torch.randn(30, 2), torch.tensor(0.2)),
    }


@pytest.mark.parametrize("name", encoders(torch.zeros(1, 2)))
def test_densities_are_those_of_the_draws(x, name):
    """By importance: the mean of q/r over draws of r is 1, and that of z² q/r the mean of z² over draws of q."""
    encoder, wide = encoders(x)[name], Independent(Normal(torch.zeros(2), 3 * torch.ones(2)), 1)
    z = wide.sample((20_000,))
    weight = (encoder.log_prob(z)[:, 0] - wide.log_prob(z)).exp()
    own = encoder.sample(torch.zeros(20_000).long())
    for of_z, of_q in ((torch.ones(20_000), torch.ones(1)), (z.square().sum(1), own.square().sum(1))):
        spread = (weight * of_z).std() / math.sqrt(len(z)) + of_q.std(correction=0) / math.sqrt(len(own))
        assert abs((weight * of_z).mean() - of_q.mean()) < 5 * spread


def test_statistics_are_those_of_the_fused_kernel(x):
    encoder = encoders(x)["gaussian"]
    torch.manual_seed(1)
    found = measure(encoder, x, draws=3, chunk=70)
    torch.manual_seed(1)
    fused = responsibility_statistics(encoder.sample(torch.arange(200).repeat(3)), *encoder)
    torch.testing.assert_close(found.perplexity, fused.perplexity, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.collision_count, fused.collision_count, rtol=1e-5, atol=0)
    own = Normal(encoder.loc, encoder.scale)
    assert found.spread == pytest.approx(own.variance.sum(1).mean().sqrt().item(), rel=0.1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_ball_and_prior_meets_all_or_none(x, share):
    found = measure(BallAndPrior(x, 1e-4, share, PRIOR), x)
    assert found.mutual_information == pytest.approx(share * math.log(200), rel=0.01)
    assert found.perplexity.mean().item() == pytest.approx(share + (1 - share) * 200, rel=0.01)
    assert found.perplexity.quantile(0.95).item() == pytest.approx(200, rel=0.01)


def test_modes_that_do_not_meet_change_nothing_but_the_spread(x):
    offsets = torch.tensor([[100.0 * k, 0.0] for k in range(20)])
    one, many = (
        measure(e, x, 20) for e in (Gaussian(x, torch.tensor(0.1)), Multimodal(x, offsets, torch.tensor(0.1)))
    )
    assert many.mutual_information == pytest.approx(one.mutual_information, abs=0.05)
    assert many.distance.mean().item() == pytest.approx(one.distance.mean().item(), rel=0.1)
    assert many.spread > 100 * one.spread


def test_modes_that_meet_share_points_from_anywhere(x):
    offsets, scale = torch.randn(100, 2), torch.ones(())
    chance = torch.cdist(x, x).mean()
    kinds = {
        "one": lambda sigma: Gaussian(x, sigma * scale),
        "many": lambda sigma: Multimodal(x, offsets, sigma * scale),
    }
    found = {name: measure(make(matched(make, x, 3.0, 1e-4, 10)), x) for name, make in kinds.items()}
    for one in found.values():
        assert one.mutual_information == pytest.approx(3, abs=0.1)
    assert found["many"].perplexity.mean().item() == pytest.approx(
        found["one"].perplexity.mean().item(), rel=0.15
    )
    assert found["one"].distance.mean() < 0.2 * chance < 0.5 * chance < found["many"].distance.mean()


def test_a_summary_has_means_and_quantiles(x):
    summary = measure(Gaussian(x, torch.tensor(1e-6)), x).summary()
    assert summary["mutual_information"] == pytest.approx(math.log(200))
    for name in ("perplexity_mean", "perplexity_q10", "collision_count_q90"):
        assert summary[name] == pytest.approx(1)
    assert summary["distance"] == pytest.approx(0, abs=1e-6)
