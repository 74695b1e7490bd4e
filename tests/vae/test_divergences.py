import pytest
import torch
from torch.distributions import Independent, Normal

import pykernels
from vae import divergences, ranks
from vae.likelihoods import gaussian
from vae.model import VAE, Encoding
from vae.networks import GaussianMLP
from vae.objectives import decomposition
from vae.priors import Sparse


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
