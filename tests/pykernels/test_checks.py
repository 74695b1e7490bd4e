"""Errors name the argument, what was required, what came, and the remedy."""

import re

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
)

import pykernels
from pykernels import gaussian_mixture_log_prob

VALUE, LOC, SCALE, WEIGHTS = torch.zeros(5, 3), torch.zeros(7, 3), torch.ones(7, 3), torch.zeros(7)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((VALUE[0], LOC, SCALE), ValueError, "value must have shape [*batch, B, D], but has shape [3]"),
        ((VALUE, LOC[0], SCALE[0]), ValueError, "loc must have shape [*batch, n, D], but has shape [3]"),
        ((VALUE[:, :2], LOC, SCALE), ValueError, "value has shape [5, 2] and loc [7, 3]"),
        ((VALUE, LOC[:0], SCALE[:0]), ValueError, "at least one component (n >= 1), but has shape [0, 3]"),
        ((VALUE[:, :0], LOC[:, :0], SCALE[:, :0]), ValueError, "at least one dimension (D >= 1)"),
        ((VALUE, LOC, SCALE[:5]), ValueError, "scale must broadcast to loc, but scale has shape [5, 3]"),
        ((VALUE, LOC, torch.ones(7)), ValueError, "one scale per component is [n, 1]"),
        ((VALUE, LOC[:1], SCALE), ValueError, "scale must broadcast to loc"),
        ((VALUE, LOC, SCALE, WEIGHTS[:6]), ValueError, "log_weights must broadcast to [*batch, n]"),
        ((VALUE.expand(2, 5, 3), LOC.expand(4, 7, 3), SCALE), ValueError, "value has [2], loc has [4]"),
        ((VALUE.expand(*[1] * 9, 5, 3), LOC, SCALE), ValueError, "at most 8 batch dimensions"),
        ((VALUE, LOC, 1.0), TypeError, "scale must be a tensor, but came as float"),
        ((VALUE.long(), LOC, SCALE), TypeError, "value must be float16, bfloat16, float32 or float64, but"),
        ((VALUE, LOC.double(), SCALE), TypeError, "value is float32, loc is float64"),
        ((VALUE.half(), LOC.double(), SCALE.double()), TypeError, "float64 does not mix"),
        ((VALUE.to("meta"), LOC, SCALE), ValueError, "value is on meta, loc is on cpu"),
        ((VALUE, LOC, -SCALE), ValueError, "scale must be positive (it is a standard deviation)"),
        ((VALUE, LOC, SCALE * 0), ValueError, "its smallest element is 0.0"),
        ((VALUE, LOC, SCALE * torch.nan), ValueError, "its smallest element is nan"),
    ],
)  # fmt: skip
def test_mixture_arguments(arguments, error, words):
    with pytest.raises(error, match=re.escape(words)):
        gaussian_mixture_log_prob(*arguments)


def test_scales_are_checked_only_where_that_is_cheap_and_wanted():
    bad = -SCALE
    Distribution.set_default_validate_args(False)
    try:
        gaussian_mixture_log_prob(VALUE, LOC, bad)
    finally:
        Distribution.set_default_validate_args(True)
    torch.func.vmap(gaussian_mixture_log_prob, in_dims=(None, None, 0))(VALUE, LOC, bad.expand(2, 7, 3))
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in (VALUE, LOC, bad)]
        assert gaussian_mixture_log_prob(*fake).shape == (5,)
    meta = gaussian_mixture_log_prob(*(t.to("meta") for t in (VALUE, LOC, bad)))
    assert meta.shape == (5,)


Z = LOC + 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((Z, LOC, SCALE, 9, "iwae"), ValueError, "one of ['mws', 'mss', 'hfvae', 'batch'], but is 'iwae'"),
        ((Z[:6], LOC, SCALE, 9, "mss"), ValueError, "z and loc must have equally many rows B, but z has shape [6, 3]"),
        ((Z[:1], LOC[:1], SCALE[:1], 9, "mss"), ValueError, "2 <= B <= dataset_size encodings, but loc has shape [1"),
        ((Z, LOC, SCALE, 6, "mws"), ValueError, "B = 7, and dataset_size is 6"),
        ((Z, LOC, SCALE, 60.0, "mws"), TypeError, "dataset_size must be an integer, but came as float"),
        ((Z[:, :2], LOC, SCALE, 9, "mss"), ValueError, "z and loc must have the same last dimension D, but z has"),
        ((Z.double(), LOC, SCALE, 9, "mss"), TypeError, "z is float64, loc is float32"),
        ((Z[0], LOC, SCALE, 9, "mss"), ValueError, "z must have shape [*batch, B, D], but has shape [3]"),
        ((Z.expand(2, 7, 3), LOC.expand(4, 7, 3), SCALE, 9, "mss"), ValueError, "z has [2], loc has [4]"),
        ((Z, LOC, -SCALE, 9, "mss"), ValueError, "scale must be positive"),
    ],
)  # fmt: skip
def test_minibatch_arguments(arguments, error, words):
    with pytest.raises(error, match=re.escape(words)):
        pykernels.minibatch_log_prob(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((VALUE[0],), ValueError, "log_prob must have shape [*batch, B, n] with n >= 1, but has shape [3]"),
        ((VALUE[:, :0],), ValueError, "but has shape [5, 0]"),
        ((VALUE, WEIGHTS), ValueError, "log_weights must broadcast to [*batch, n], but has shape [7]"),
        ((VALUE.expand(2, 5, 3), WEIGHTS[:3].expand(4, 3)), ValueError, "log_prob has [2], log_weights has [4]"),
        ((VALUE, WEIGHTS[:3].double()), TypeError, "log_prob is float32, log_weights is float64"),
    ],
)  # fmt: skip
def test_arguments_of_statistics_from_log_densities(arguments, error, words):
    with pytest.raises(error, match=re.escape(words)):
        pykernels.responsibility_statistics_from_log_prob(*arguments)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_integers_of_numpy(kind):
    estimated = pykernels.minibatch_log_prob(Z, LOC, SCALE, kind(99), "mss")
    assert estimated.joint.equal(pykernels.minibatch_log_prob(Z, LOC, SCALE, 99, "mss").joint)
    options = {"estimator": "hfvae", "dataset_size": kind(99)}
    assert pykernels.aggregate_entropy(Z, LOC, SCALE, **options).isfinite()
    assert pykernels.exclusive_kl(Z, LOC, SCALE, PRIOR, dataset_size=kind(7)).isfinite()
    assert pykernels.inclusive_kl(PRIOR, LOC, SCALE, num_samples=kind(3)).isfinite()
    assert pykernels.sliced_wasserstein(Z, LOC, kind(3)).isfinite()
    with pytest.raises(ValueError, match="num_samples must be a positive integer"):
        pykernels.inclusive_kl(PRIOR, LOC, SCALE, num_samples=np.float64(3))


NORMAL = Normal(torch.zeros(3), torch.ones(3))
PRIOR = Independent(NORMAL, 1)


@pytest.mark.parametrize(
    ("prior", "options", "error", "words"),
    [
        (PRIOR, {}, ValueError, "exactly one of num_samples and samples must be given, but neither came"),
        (PRIOR, {"num_samples": 2, "samples": VALUE}, ValueError, "but both came"),
        (PRIOR, {"num_samples": 0}, ValueError, "num_samples must be a positive integer, but is 0"),
        (PRIOR, {"samples": VALUE[0]}, ValueError, "samples must have shape [B, 3] with B >= 1, but has"),
        (PRIOR, {"samples": VALUE[:0]}, ValueError, "with B >= 1"),
        (PRIOR, {"samples": VALUE.double()}, TypeError, "samples is float64, loc is float32"),
        (NORMAL, {"num_samples": 2}, ValueError, "wrap it with torch.distributions.Independent(prior, 1)"),
        (PRIOR.expand((4,)), {"num_samples": 2}, ValueError, "no batch_shape, but has event_shape (3,) and"),
        (VALUE, {"num_samples": 2}, TypeError, "prior must be a torch.distributions.Distribution"),
    ],
)  # fmt: skip
def test_inclusive_kl_arguments(prior, options, error, words):
    with pytest.raises(error, match=re.escape(words)):
        pykernels.inclusive_kl(prior, LOC, SCALE, **options)


def test_inclusive_kl_takes_one_list_of_encodings():
    with pytest.raises(ValueError, match=re.escape("loc must have shape [n, D]")):
        pykernels.inclusive_kl(PRIOR, LOC.expand(2, 7, 3), SCALE, num_samples=2)


def test_inclusive_kl_does_not_lose_a_gradient_silently():
    weights = torch.zeros(4, requires_grad=True)
    components = Independent(Normal(torch.zeros(4, 3), torch.ones(4, 3)), 1)
    prior = MixtureSameFamily(Categorical(logits=weights), components)
    with pytest.raises(ValueError, match="prior must have rsample where one of its parameters requires"):
        pykernels.inclusive_kl(prior, LOC, SCALE, num_samples=2)
    with pytest.raises(
        ValueError, match=r"samples must carry a gradient .* with prior.rsample\(\); if only the"
    ):
        pykernels.inclusive_kl(prior, LOC, SCALE, samples=VALUE)
    carrying = VALUE.clone().requires_grad_()
    assert pykernels.inclusive_kl(prior, LOC, SCALE, samples=carrying).requires_grad
    with torch.no_grad():
        assert pykernels.inclusive_kl(prior, LOC, SCALE, samples=VALUE).isfinite()
    learned = Independent(Normal(torch.zeros(3, requires_grad=True), torch.ones(3)), 1)
    with pytest.raises(ValueError, match="samples must carry a gradient"):
        pykernels.inclusive_kl(learned, LOC, SCALE, samples=learned.sample((5,)))
    assert pykernels.inclusive_kl(learned, LOC, SCALE, samples=learned.rsample((5,))).requires_grad
    encoded = LOC.clone().requires_grad_()
    assert pykernels.inclusive_kl(PRIOR, encoded, SCALE, samples=VALUE).requires_grad


def priors_of(dtype):
    loc, scale = torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)
    components = Independent(Normal(torch.zeros(4, 3, dtype=dtype), torch.ones(4, 3, dtype=dtype)), 1)
    return [
        Independent(Normal(loc, scale), 1),
        MultivariateNormal(loc, torch.diag(scale)),
        MixtureSameFamily(Categorical(logits=torch.zeros(4, dtype=dtype)), components),
        pykernels.DiagonalGaussianMixture(torch.zeros(4, 3, dtype=dtype), torch.ones(4, 3, dtype=dtype)),
    ]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(("of_prior", "of_encodings"), [("float64", "float32"), ("float32", "float64")])
def test_a_prior_of_another_dtype(number, of_prior, of_encodings):
    prior = priors_of(getattr(torch, of_prior))[number]
    z, loc, scale = (t.to(getattr(torch, of_encodings)) for t in (Z, LOC, SCALE))
    words = (
        f"prior must be of float64 where .* its parameters are {of_prior} and loc is {of_encodings}: build it"
    )
    for call in (
        lambda: pykernels.exclusive_kl(z, loc, scale, prior),
        lambda: pykernels.kl_decomposition(z, loc, scale, prior),
        lambda: pykernels.inclusive_kl(prior, loc, scale, samples=z),
        lambda: pykernels.inclusive_kl(prior, loc, scale, num_samples=2),
    ):
        with pytest.raises(TypeError, match=words):
            call()


def test_distribution_arguments():
    mixture = pykernels.DiagonalGaussianMixture
    with pytest.raises(ValueError, match=re.escape("logits must broadcast to [*batch, n]")):
        mixture(LOC, SCALE, WEIGHTS[:6])
    with pytest.raises(ValueError, match="scale"):
        mixture(LOC, -SCALE)
    with pytest.raises(TypeError, match="Independent"):
        mixture.from_mixture(PRIOR)
    heavy = MixtureSameFamily(Categorical(logits=WEIGHTS), Independent(StudentT(3.0, LOC, SCALE), 1))
    with pytest.raises(TypeError, match="StudentT"):
        mixture.from_mixture(heavy)
