from typing import ClassVar

import pytest
import torch
from torch.distributions import Distribution, Independent, Normal

import pykernels
from vae import divergences, ranks
from vae.likelihoods import gaussian
from vae.model import VAE, Encoding
from vae.networks import GaussianMLP
from vae.objectives import decomposition, wae_mmd
from vae.priors import Gaussian, GaussianMixture, Sparse, StudentT


def normal(scale, dims=3):
    return Independent(Normal(torch.zeros(dims), scale * torch.ones(dims)), 1)


def encoding(count=20, dims=3, shift=0.0):
    loc, scale = torch.randn(count, dims) + shift, 0.1 + torch.rand(count, dims)
    return Encoding(loc, scale, loc + scale * torch.randn(count, dims))


def test_each_is_the_kernel_of_its_name():
    prior, of_q = Sparse(3)(), encoding()

    def seeded(function, *arguments, **options):
        torch.manual_seed(3)
        return function(*arguments, **options)

    expected = seeded(pykernels.inclusive_kl, prior, of_q.loc, of_q.scale, num_samples=50)
    assert seeded(divergences.inclusive_kl, prior, of_q, num_samples=50).equal(expected)
    drawn = seeded(prior.sample, (20,))
    expected = pykernels.cauchy_mmd(of_q.z, drawn)
    assert seeded(divergences.dimensionwise_mmd, prior, of_q).equal(expected)
    torch.manual_seed(3)
    expected = pykernels.sliced_wasserstein(of_q.z, prior.sample((20,)), 7)
    assert seeded(divergences.sliced_wasserstein, prior, of_q, num_projections=7).equal(expected)


def test_the_inclusive_kl_of_equal_distributions_is_0():
    one = torch.zeros(1, 3), torch.ones(1, 3), torch.zeros(1, 3)
    assert abs(divergences.inclusive_kl(normal(1.0), Encoding(*one), num_samples=100)) < 1e-5


def test_sliced_wasserstein_of_a_shift_and_of_a_width():
    z = torch.randn(20_000, 3)
    of_q = Encoding(z, z, z + torch.tensor([3.0, 0.0, 0.0]))
    value = divergences.sliced_wasserstein(normal(1.0), of_q, num_projections=2000)
    assert value.item() == pytest.approx(9 / 3, rel=0.1)
    value = divergences.sliced_wasserstein(normal(1.0), Encoding(z, z, 2 * z))
    assert value.item() == pytest.approx(1, rel=0.1)


def test_sliced_wasserstein_moves_encodings_towards_the_prior():
    start = encoding(count=100, shift=2.0)
    z = start.z.requires_grad_()
    torch.manual_seed(0)
    value = divergences.sliced_wasserstein(normal(1.0), start._replace(z=z))
    (gradient,) = torch.autograd.grad(value, z)
    assert (gradient.mean(0) > 0).all()


def test_sliced_wasserstein_is_for_one_process(monkeypatch):
    part = ranks.Part(torch.arange(20), 40)
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    with ranks.holding(part), pytest.raises(ValueError, match="the sliced Wasserstein distance cannot be"):
        divergences.sliced_wasserstein(normal(1.0), encoding())


@pytest.mark.parametrize(
    "divergence",
    [
        divergences.dimensionwise_mmd,
        divergences.sliced_wasserstein,
        lambda prior, encoding: divergences.inclusive_kl(prior, encoding, num_samples=10),
    ],
)
def test_the_objective_takes_them(divergence):
    model = VAE(GaussianMLP(2, 3, min_scale=0.1), GaussianMLP(3, 2, min_scale=0.1), normal(1.0), gaussian)
    terms = decomposition(model, torch.randn(30, 2), alpha=2.0, beta=0.0, divergence=divergence)
    torch.testing.assert_close(terms.objective, terms.log_likelihood - 2 * terms.divergence)
    gradients = torch.autograd.grad(terms.divergence, list(model.encoder.parameters()))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def whole_vector_mmd(prior, of_q, **options):
    torch.manual_seed(5)
    return divergences.whole_vector_mmd(prior, of_q, **options)


@pytest.mark.parametrize("kernel", ["cauchy", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_whole_vector_mmd_of_a_unit_prior_has_the_kernel_s_own_scales(kernel, dtype):
    prior, of_q = Gaussian(torch.zeros(3)).to(dtype)(), Encoding(*(item.to(dtype) for item in encoding()))
    torch.manual_seed(5)
    expected = pykernels.mmd(of_q.z, prior.sample((20,)), kernel)
    assert whole_vector_mmd(prior, of_q, kernel=kernel).equal(expected)


def test_the_whole_vector_mmd_does_not_see_units():
    of_q = encoding(count=200, shift=0.5)
    wide = Encoding(*(8 * item for item in of_q))
    expected = whole_vector_mmd(normal(1.0), of_q)
    torch.testing.assert_close(whole_vector_mmd(normal(8.0), wide), expected)
    assert expected > 0.1


def test_scales_may_be_given():
    of_q = encoding()
    torch.manual_seed(5)
    expected = pykernels.mmd(of_q.z, normal(3.0).sample((20,)), "gaussian", (1.0, 7.0))
    assert whole_vector_mmd(normal(3.0), of_q, kernel="gaussian", scales=(1.0, 7.0)).equal(expected)
    model = VAE(GaussianMLP(2, 3, min_scale=0.1), GaussianMLP(3, 2, min_scale=0.1), normal(3.0), gaussian)
    x = torch.randn(30, 2)
    found = []
    for objective in (wae_mmd(2.0, scales=(1.0, 7.0)), wae_mmd(2.0), wae_mmd(2.0, "gaussian", (1.0, 7.0))):
        torch.manual_seed(1)
        found.append(objective(model, x).divergence.item())
    assert len(set(found)) == 3


class Shapeless(Distribution):
    """A prior that does not know its variance."""

    arg_constraints: ClassVar = {}

    def sample(self, sample_shape=()):
        return torch.randn(*sample_shape, 3)


@pytest.mark.parametrize(
    ("prior", "variance"),
    [
        (normal(3.0), 9.0),
        (Independent(Normal(torch.zeros(2), torch.tensor([1.0, 2.0])), 1), 2.5),
        (GaussianMixture()(), 0.53),
        (StudentT(3, df=5.0)(), 5 / 3),
        (StudentT(3, df=2.0)(), 1.0),  # infinite
        (StudentT(3, df=1.0)(), 1.0),  # there is none
    ],
)
def test_the_scales_go_with_the_prior_s_mean_variance(prior, variance):
    dims = prior.event_shape[0]
    found = divergences.vector_scales(prior, torch.zeros(4, dims))
    factors = torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0])
    torch.testing.assert_close(found, 2 * dims * variance * factors)
    assert not found.requires_grad


def test_the_scales_of_a_learned_prior_have_no_gradient_and_of_an_unknown_one_are_the_kernel_s():
    learned = Gaussian(torch.zeros(3), "free", scale=2.0)
    found = divergences.vector_scales(learned(), torch.zeros(4, 3))
    assert found[3].item() == pytest.approx(2 * 3 * 4) and not found.requires_grad
    unknown = Shapeless(event_shape=torch.Size([3]), validate_args=False)
    assert divergences.vector_scales(unknown, torch.zeros(4, 3)) is None
    assert whole_vector_mmd(unknown, encoding()).isfinite()
