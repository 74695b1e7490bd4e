import math

import pytest
import scipy.stats
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from vae.priors import Gaussian, GaussianMixture, Sparse, StudentT, pca_log_variances
from vae.student_t import StudentT as StudentTDistribution


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


def test_the_gaussian_has_a_mean_variance_of_one_in_the_proportions_of_the_squares():
    values = torch.tensor([40.0, 20.0, 20.0, 10.0])
    prior = Gaussian(pca_log_variances(values))()
    torch.testing.assert_close(prior.variance, 4 * values.square() / values.square().sum())
    torch.testing.assert_close(Gaussian(torch.zeros(7))().variance, torch.ones(7))
    z = torch.randn(5, 4)
    scales = prior.variance.sqrt()
    torch.testing.assert_close(prior.log_prob(z), Normal(0.0, scales).log_prob(z).sum(1))
    assert prior.event_shape == (4,) and prior.expand((3,)).rsample().shape == (3, 4)


@pytest.mark.parametrize("scales", ["fixed", "learned", "free"])
def test_the_gaussian_s_scale_is_that_of_the_whole(scales):
    start = pca_log_variances(torch.tensor([40.0, 20.0, 10.0]))
    isotropic = Gaussian(torch.zeros(5), scales, scale=0.5)()
    torch.testing.assert_close(isotropic.variance, torch.full((5,), 0.25))
    torch.testing.assert_close(
        Gaussian(start, scales, 3.0)().variance, 9 * Gaussian(start, scales)().variance
    )
    z = torch.randn(4, 5)
    torch.testing.assert_close(isotropic.log_prob(z), Normal(0.0, 0.5).log_prob(z).sum(1))
    of_one = (0.5 * (start.log_softmax(0) + math.log(3))).exp()
    assert Gaussian(start, scales)().base_dist.scale.equal(of_one)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_the_gaussian_s_scale_is_positive(scale):
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        Gaussian(torch.zeros(2), scale=scale)


def test_singular_values_of_zero_have_a_floor():
    variance = Gaussian(pca_log_variances(torch.tensor([5.0, 0.0])))().variance
    assert variance.tolist() == pytest.approx([2.0, 2e-12], rel=1e-5)


@pytest.mark.parametrize("scales", ["fixed", "learned", "free"])
def test_what_of_the_gaussian_is_learned(scales):
    module = Gaussian(pca_log_variances(torch.tensor([3.0, 2.0, 1.0])), scales)
    start = module().variance.detach()
    torch.testing.assert_close(start, 3 * torch.tensor([9.0, 4.0, 1.0]) / 14)
    assert len(list(module.parameters())) == (scales != "fixed")
    assert list(module.state_dict()) == ["log_variances"]  # a resumed run need not decompose the data again
    for parameter in module.parameters():
        posterior = Independent(Normal(torch.tensor([4.0, 0.0, 0.0]), torch.ones(3)), 1)
        kl_divergence(posterior, module()).backward()
        with torch.no_grad():
            parameter -= 0.1 * parameter.grad
        variance = module().variance.detach()
        assert variance[0] > start[0] and variance[2] != start[2]
        assert (abs(variance.sum() - 3) < 1e-5) == (scales == "learned")


def test_the_gaussian_has_a_closed_kl():
    loc, scale = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.2])
    prior = Gaussian(torch.tensor([1.0, 0.0]))()
    variance = prior.variance
    expected = 0.5 * ((scale**2 + loc**2) / variance - 1 + (variance / scale**2).log()).sum()
    torch.testing.assert_close(kl_divergence(Independent(Normal(loc, scale), 1), prior), expected)


def test_the_student_t_prior_is_a_product():
    prior = StudentT(4, df=5.0)()
    assert prior.event_shape == (4,) and prior.batch_shape == () and prior.has_rsample
    assert isinstance(prior.base_dist, StudentTDistribution)
    z = torch.randn(6, 4)
    density = math.gamma(3) / (math.gamma(2.5) * math.sqrt(5 * math.pi)) * (1 + z.square() / 5) ** -3
    torch.testing.assert_close(prior.log_prob(z), density.log().sum(1))
    drawn = prior.expand((20_000,)).sample()
    assert scipy.stats.kstest(prior.base_dist.cdf(drawn)[:, 2].numpy(), "uniform").pvalue > 0.01


def test_rotations_leave_the_isotropic_prior_and_change_the_others():
    z = torch.randn(20, 2)
    turn = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    changes = [
        (prior().log_prob(z @ turn.T) - prior().log_prob(z)).abs().max().item()
        for prior in (Gaussian(torch.zeros(2)), Gaussian(torch.tensor([1.0, 0.0])), StudentT(2))
    ]
    assert changes[0] < 1e-5 and min(changes[1:]) > 0.1


def test_many_degrees_of_freedom_are_the_standard_normal():
    z = torch.linspace(-3, 3, 9, dtype=torch.float64)[:, None]
    found = StudentT(1, df=1e5).double()().log_prob(z)
    torch.testing.assert_close(found, Normal(0.0, 1.0).log_prob(z)[:, 0], rtol=1e-3, atol=1e-3)
