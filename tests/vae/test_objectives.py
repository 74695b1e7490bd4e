import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from pykernels import DiagonalGaussianMixture
from vae import likelihoods
from vae.model import VAE
from vae.networks import GaussianMLP
from vae.objectives import decomposition, kl_to_prior

STANDARD_NORMAL = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)


@pytest.fixture
def model():
    return VAE(
        GaussianMLP(3, 2, min_scale=1e-6),
        GaussianMLP(2, 3, min_scale=0.1),
        STANDARD_NORMAL,
        likelihoods.gaussian,
    )


def mean_square(prior, encoding):
    return encoding.loc.square().mean()


def test_terms_against_their_formulas(model):
    x = torch.randn(7, 3)
    torch.manual_seed(1)
    terms = decomposition(model, x, alpha=2.0, beta=3.0, divergence=mean_square)
    torch.manual_seed(1)
    loc, scale = model.encoder(x)
    mean, deviation = model.decoder(loc + scale * torch.randn_like(loc))
    log_likelihood = Normal(mean, deviation).log_prob(x).sum(1).mean()
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(1).mean()
    torch.testing.assert_close(terms.log_likelihood, log_likelihood)
    torch.testing.assert_close(terms.kl, kl)
    torch.testing.assert_close(terms.divergence, loc.square().mean())
    torch.testing.assert_close(terms.objective, log_likelihood - 3 * kl - 2 * loc.square().mean())


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_term_of_weight_0_is_measured_but_has_no_part_in_the_objective(model, alpha, beta):
    def infinite(prior, encoding):
        return encoding.loc.sum() / 0 if alpha == 0 else encoding.loc.mean()

    terms = decomposition(model, torch.randn(7, 3), alpha=alpha, beta=beta, divergence=infinite)
    assert terms.kl.requires_grad == bool(beta)
    assert terms.divergence.requires_grad == bool(alpha)
    assert terms.divergence.isfinite() == bool(alpha)
    terms.objective.backward()
    assert terms.objective.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_nothing_has_a_gradient_where_gradients_are_off(model):
    with torch.no_grad():
        terms = decomposition(model, torch.randn(7, 3), alpha=1.0, beta=1.0, divergence=mean_square)
    assert not any(term.requires_grad for term in terms)


def test_the_divergence_sees_the_batch_or_all_of_the_data(model):
    def count(prior, encoding):
        return encoding.loc.sum() * 0 + len(encoding.loc)

    data = torch.randn(20, 3)
    assert decomposition(model, data[:5], alpha=1.0, beta=0.0, divergence=count).divergence == 5
    assert decomposition(model, data[:5], alpha=1.0, beta=0.0, divergence=count, data=data).divergence == 20


def test_monte_carlo_kl_agrees_with_the_closed_form():
    posterior = Independent(Normal(torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.2])), 1)
    same_prior = DiagonalGaussianMixture(torch.zeros(1, 2), torch.ones(1, 2))
    z = posterior.sample((100_000,))
    estimates = kl_to_prior(posterior, same_prior, z)
    closed = kl_to_prior(posterior, STANDARD_NORMAL, z)
    assert estimates.shape == (100_000,) and closed.shape == ()
    assert abs(estimates.mean() - closed) < 5 * estimates.std() / len(z) ** 0.5


def test_a_prior_may_own_parameters():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(2))

        def forward(self):
            return Independent(Normal(self.loc, torch.ones(2)), 1)

    model = VAE(
        GaussianMLP(3, 2, min_scale=1e-6), GaussianMLP(2, 3, min_scale=0.1), Learned(), likelihoods.gaussian
    )
    decomposition(model, torch.randn(7, 3), alpha=0.0, beta=1.0, divergence=mean_square).objective.backward()
    assert model.prior.loc.grad.norm() > 0
