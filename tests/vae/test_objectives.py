import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from pykernels import DiagonalGaussianMixture, kl_decomposition, mmd
from vae import likelihoods, objectives
from vae.density_ratio import DensityRatio
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


def parts(model, x, seed):
    """What the published objectives are made of, written out: (log-likelihood, KL, encoding)."""
    torch.manual_seed(seed)
    loc, scale = model.encoder(x)
    z = loc + scale * torch.randn_like(loc)
    log_likelihood = Normal(*model.decoder(z)).log_prob(x).sum(1).mean()
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(1).mean()
    return log_likelihood, kl, (z, loc, scale)


def published(name, model, x):
    log_likelihood, kl, encoding = parts(model, x, 1)
    z, loc, scale = encoding
    if name == "beta_vae":
        return log_likelihood - 4 * kl
    if name == "entropy_regularised":
        return log_likelihood - kl + 1.5 * scale.square().log().sum(1).mean()
    if name == "beta_tcvae":
        terms = kl_decomposition(z, loc, scale, STANDARD_NORMAL, estimator="mws", dataset_size=500)
        return log_likelihood - kl - 5 * terms.total_correlation
    if name == "hfvae":
        terms = kl_decomposition(z, loc, scale, STANDARD_NORMAL, estimator="hfvae", dataset_size=500)
        excess = kl - sum(
            terms
        )  # the closed form over the one-sample estimate, by the weight of the last term
        return (
            log_likelihood
            - 0.5 * terms.mutual_information
            - 6 * terms.total_correlation
            - 2 * terms.dimensionwise_kl
            - 2 * excess
        )
    if name == "wae_mmd":
        return log_likelihood - 10 * mmd(z, STANDARD_NORMAL.sample((len(z),)))
    if name == "factor_vae":
        return log_likelihood - kl - 7 * model.ratio.logit(z).mean()
    return log_likelihood - 8 * (model.ratio.logit(z).exp() + 1).log().mean() + 8 * torch.tensor(2.0).log()


SETTINGS = {
    "beta_vae": lambda model: objectives.beta_vae(4.0),
    "entropy_regularised": lambda model: objectives.entropy_regularised(4.0),
    "beta_tcvae": lambda model: objectives.beta_tcvae(6.0, 500),
    "hfvae": lambda model: objectives.hfvae(
        mutual_information=0.5, total_correlation=6.0, dimensionwise_kl=2.0, dataset_size=500
    ),
    "wae_mmd": lambda model: objectives.wae_mmd(10.0),
    "factor_vae": lambda model: objectives.factor_vae(7.0, model.ratio),
    "wae_gan": lambda model: objectives.wae_gan(8.0, model.ratio),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_published_objectives_are_settings_of_one(model, name):
    """Each equals its formula, and a step along its gradient raises it."""
    model.ratio = DensityRatio(
        2,
        against="shuffled" if name == "factor_vae" else "prior",
        measure="gan" if name == "wae_gan" else "ratio",
    )
    x = torch.randn(40, 3)
    for _ in range(20):
        model.ratio(model.prior(), model.encode(x))
    model.ratio.eval()
    objective = SETTINGS[name](model)

    def value():
        torch.manual_seed(1)
        return objective(model, x).objective

    before = value()
    torch.testing.assert_close(before, published(name, model, x))
    parameters = [*model.encoder.parameters(), *model.decoder.parameters()]
    gradients = torch.autograd.grad(before, parameters)
    norm = sum(gradient.square().sum() for gradient in gradients)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients):
            parameter += 1e-3 * gradient / norm.sqrt()
    assert value() > before


def test_the_module_lists_every_setting():
    for name in SETTINGS:
        assert f"\n{name} " in objectives.__doc__
