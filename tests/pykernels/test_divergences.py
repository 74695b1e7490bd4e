import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from pykernels import gaussian_mixture_log_prob, inclusive_kl, reference
from tests.cases import mixture_inputs


def test_a_mixture_of_one_gives_the_closed_form(variant):
    prior = Independent(Normal(torch.zeros(3).double(), torch.tensor([1.0, 2.0, 0.5]).double()), 1)
    loc, scale = torch.tensor([[0.3, -1.0, 0.1]]).double(), torch.tensor([[1.5, 1.0, 1.0]]).double()
    expected = kl_divergence(prior, Independent(Normal(loc[0], scale[0]), 1))
    draws = 200_000
    estimate = inclusive_kl(prior, loc, scale, num_samples=draws)
    samples = prior.sample((draws,))
    spread = (prior.log_prob(samples) - gaussian_mixture_log_prob(samples, loc, scale)).std() / math.sqrt(
        draws
    )
    assert (estimate - expected).abs() < 5 * spread


def test_zero_where_the_mixture_is_the_prior(variant):
    _, loc, scale, _ = mixture_inputs(1, 6, 3)
    prior = MixtureSameFamily(Categorical(torch.ones(6).double()), Independent(Normal(loc, scale), 1))
    detached = MixtureSameFamily(
        Categorical(torch.ones(6).double()), Independent(Normal(loc.detach(), scale.detach()), 1)
    )
    assert abs(inclusive_kl(detached, loc, scale, num_samples=50).item()) < 1e-12
    with torch.no_grad():  # the samples carry no gradient
        assert abs(inclusive_kl(prior, loc, scale, samples=prior.sample((50,))).item()) < 1e-12


def test_agrees_with_the_reference_and_gives_every_gradient(variant):
    value, loc, scale, weights = mixture_inputs(40, 6, 3)
    prior_loc = torch.zeros(3).double().requires_grad_()
    prior = MultivariateNormal(prior_loc, torch.eye(3).double())
    inputs = value, loc, scale, weights, prior_loc
    results = [
        torch.autograd.grad(function(prior, loc, scale, weights, samples=value), inputs)
        for function in (inclusive_kl, reference.inclusive_kl)
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("module", [reference, None])
def test_gradient_reaches_a_prior_that_can_be_reparameterised(module):
    function = inclusive_kl if module is None else module.inclusive_kl
    shift = torch.zeros(2).double().requires_grad_()
    prior = Independent(Normal(shift, torch.ones(2).double()), 1)
    loc, scale = torch.tensor([[1.0, 0.0]]).double(), torch.ones(1, 2).double()
    gradient = torch.autograd.grad(function(prior, loc, scale, num_samples=50_000), shift)[0]
    torch.testing.assert_close(gradient, -loc[0], rtol=0, atol=0.03)


def test_draws_follow_the_generator():
    _, loc, scale, _ = mixture_inputs(1, 6, 3, dtype=torch.float32)
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    torch.manual_seed(3)
    first = inclusive_kl(prior, loc, scale, num_samples=10)
    torch.manual_seed(3)
    samples = prior.rsample((10,))
    assert torch.equal(first, inclusive_kl(prior, loc, scale, samples=samples))


def test_by_point_or_in_the_mean(variant):
    value, loc, scale, weights = mixture_inputs(9, 6, 3)
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    arguments = prior, loc, scale, weights
    by_point = inclusive_kl(*arguments, samples=value, reduction="none")
    assert by_point.shape == (9,)
    expected = prior.log_prob(value) - gaussian_mixture_log_prob(value, loc, scale, weights)
    torch.testing.assert_close(by_point, expected)
    torch.testing.assert_close(by_point.mean(), inclusive_kl(*arguments, samples=value))
    of_reference = reference.inclusive_kl(*arguments, samples=value, reduction="none")
    torch.testing.assert_close(by_point, of_reference)
    assert inclusive_kl(*arguments, num_samples=5, reduction="none").shape == (5,)
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'none'"):
        inclusive_kl(*arguments, num_samples=5, reduction="sum")
