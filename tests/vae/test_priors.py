import math

import pytest
import scipy.stats
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from vae.priors import GaussianMixture, Sparse


@pytest.mark.parametrize("centres", ["cross", "square"])
def test_the_density_integrates_to_one(centres):
    axis = torch.linspace(-3, 3, 601, dtype=torch.float64)
    prior = GaussianMixture(centres).double()()
    density = prior.log_prob(torch.cartesian_prod(axis, axis)).exp().view(601, 601)
    assert torch.trapezoid(torch.trapezoid(density, axis), axis).item() == pytest.approx(1, abs=1e-9)


def test_eq_9_against_torch():
    module = GaussianMixture()
    mixture = MixtureSameFamily(
        Categorical(torch.ones(4)), Independent(Normal(module.loc, math.sqrt(0.03)), 1)
    )
    z = torch.randn(50, 2)
    torch.testing.assert_close(module().log_prob(z), mixture.log_prob(z))


def test_layouts():
    cross, square = (sorted(map(tuple, GaussianMixture(c).loc.tolist())) for c in ("cross", "square"))
    assert cross == [(-1, 0), (0, -1), (0, 1), (1, 0)]
    assert square == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
def test_the_sparse_density_is_the_product_of_its_formula(gamma):
    z = torch.randn(20, 3, dtype=torch.float64)
    factors = (1 - gamma) * Normal(0.0, 1.0).log_prob(z).exp()
    factors = factors + gamma * (-z.square() / 0.1).exp() / math.sqrt(2 * math.pi * 0.05)
    prior = Sparse(3, gamma).double()()
    assert prior.event_shape == (3,) and prior.batch_shape == ()
    # gamma and the variance were rounded to float32 before they were made double.
    torch.testing.assert_close(prior.log_prob(z), factors.log().sum(1), rtol=1e-6, atol=1e-6)


def test_the_sparse_prior_draws_from_its_own_cdf():
    prior = Sparse(2)()
    z = prior.sample((20_000,))
    for d in range(2):
        uniform = prior.base_dist.cdf(z)[:, d].numpy()
        assert scipy.stats.kstest(uniform, "uniform").pvalue > 0.01
    assert abs(z.T.corrcoef()[0, 1]) < 0.03


def test_the_sparse_prior_is_an_ordinary_distribution():
    prior = Sparse(4, 0.8)()
    assert prior.mean.equal(torch.zeros(4))
    torch.testing.assert_close(prior.variance, torch.full((4,), 0.2 + 0.8 * 0.05))
    expanded = prior.expand((3,))
    z = expanded.sample()
    assert z.shape == (3, 4)
    torch.testing.assert_close(expanded.log_prob(z), prior.log_prob(z))


def test_gamma_0_is_the_standard_normal_with_its_closed_kl():
    posterior = Independent(Normal(torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.2])), 1)
    standard = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    torch.testing.assert_close(kl_divergence(posterior, Sparse(2, 0.0)()), kl_divergence(posterior, standard))
    with pytest.raises(NotImplementedError):
        kl_divergence(posterior, Sparse(2, 0.8)())
