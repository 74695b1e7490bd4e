"""Entropy, exclusive KL and its decomposition, where closed forms or laws tell them."""

import math
import re

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    kl_divergence,
)

import pykernels
from pykernels import aggregate_entropy, exclusive_kl, kl_decomposition, reference
from tests.cases import mixture_inputs

MINIBATCH = ["mws", "mss", "hfvae", "batch"]
ESTIMATORS = ["exact", *MINIBATCH]


def standard_normal(dims):
    return Independent(Normal(torch.zeros(dims).double(), torch.ones(dims).double()), 1)


def encodings(n, dims, scale=0.4, seed=0):
    """(z, loc, scale), a draw from each encoding."""
    generator = torch.Generator().manual_seed(seed)
    loc, noise = torch.randn(2, n, dims, generator=generator, dtype=torch.float64)
    return loc + scale * noise, loc, torch.tensor(scale, dtype=torch.float64)


def gaussian_aggregate(covariance, scale, n=8192, draws=8192):
    """Encodings whose means are spread evenly over a Gaussian, so that q(z) is all but N(0, covariance)."""
    dims = len(covariance)
    uniform = torch.quasirandom.SobolEngine(dims, scramble=True, seed=1).draw(n, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance - scale**2 * torch.eye(dims).double())
    loc = Normal(0, 1).icdf(uniform.clamp(1e-9, 1 - 1e-9)) @ factor.T
    index = torch.randint(n, (draws,))
    z = loc[index] + scale * torch.randn(draws, dims).double()
    return z, loc, torch.tensor(scale).double(), index


def assert_mean(by_point, expected):
    error = by_point.mean() - expected
    allowed = 5 * by_point.std() / math.sqrt(len(by_point)) + 2e-3  # n means are not quite a Gaussian
    assert abs(error) < allowed, f"off by {error:.4f}, allowed {allowed:.4f}"


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_closed_forms_of_a_gaussian_aggregate(rho):
    covariance = torch.tensor([[1.0, rho, 0.0], [rho, 1.5, 0.0], [0.0, 0.0, 0.8]]).double()
    z, loc, scale, index = gaussian_aggregate(covariance, 0.5)
    aggregate = MultivariateNormal(torch.zeros(3).double(), covariance)
    prior = standard_normal(3)
    assert_mean(aggregate_entropy(z, loc, scale, reduction="none"), aggregate.entropy())
    expected = kl_divergence(aggregate, MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double()))
    assert_mean(exclusive_kl(z, loc, scale, prior, reduction="none"), expected)
    terms = kl_decomposition(z, loc, scale, prior, index=index, reduction="none")
    assert_mean(terms.mutual_information, aggregate.entropy() - 3 * Normal(0, 0.5).entropy())
    assert_mean(terms.total_correlation, -0.5 * math.log(1 - rho**2 / 1.5))
    marginals = Normal(0, covariance.diagonal().sqrt())
    assert_mean(terms.dimensionwise_kl, kl_divergence(marginals, Normal(0.0, 1.0)).sum())
    assert not terms.remainder.any()


def test_an_aggregate_of_independent_dimensions_has_no_total_correlation(variant):
    first, second = torch.randn(9).double(), torch.randn(7).double()
    loc, scale = torch.cartesian_prod(first, second), torch.tensor([0.3, 0.7]).double()
    z = loc + scale * torch.randn(63, 2).double()
    terms = kl_decomposition(z, loc, scale, standard_normal(2), reduction="none")
    assert terms.total_correlation.abs().max() < 1e-12


def priors():
    loc, scale = torch.randn(4, 3).double(), 0.5 + torch.rand(4, 3).double()
    weights = Categorical(logits=torch.randn(4).double())
    covariance = torch.tensor([[1.0, 0.5, 0.0], [0.5, 2.0, -0.3], [0.0, -0.3, 1.0]]).double()
    return {
        "normal": standard_normal(3),
        "student": Independent(StudentT(torch.full((3,), 5.0).double()), 1),
        "correlated": MultivariateNormal(loc[0], covariance),
        "mixture": MixtureSameFamily(weights, Independent(Normal(loc, scale), 1)),
        "heavy mixture": MixtureSameFamily(weights, Independent(StudentT(5.0, loc, scale), 1)),
        "ours": pykernels.DiagonalGaussianMixture(loc, scale, weights.logits),
    }


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", priors())
def test_the_terms_add_up_to_the_one_sample_kl(estimator, name):
    z, loc, scale = encodings(20, 3)
    prior = priors()[name]
    size = None if estimator == "exact" else 1000
    options = {"estimator": estimator, "dataset_size": size}
    own = Normal(loc, scale).log_prob(z).sum(1)
    terms = kl_decomposition(z, loc, scale, prior, **options, reduction="none")
    torch.testing.assert_close(sum(terms), own - prior.log_prob(z), rtol=0, atol=1e-11)
    torch.testing.assert_close(
        terms.total_correlation + terms.dimensionwise_kl + terms.remainder,
        exclusive_kl(z, loc, scale, prior, **options, reduction="none"),
    )
    means = kl_decomposition(z, loc, scale, prior, **options)
    torch.testing.assert_close(torch.stack(means), torch.stack(terms).mean(1))
    assert (name in ("normal", "student")) == (not terms.remainder.any())


def test_marginals_of_a_prior_however_it_is_written():
    z, loc, scale = encodings(30, 3)
    found = priors()
    normal = found["mixture"].component_distribution.base_dist
    dense = MultivariateNormal(normal.loc, torch.diag_embed(normal.scale.square()))
    several = found["mixture"], found["ours"], MixtureSameFamily(found["mixture"].mixture_distribution, dense)
    results = [torch.stack(kl_decomposition(z, loc, scale, prior)) for prior in several]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_the_remainder_of_a_correlated_gaussian():
    """Over draws of the prior itself it is minus its total correlation."""
    covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]]).double()
    z, loc, scale, index = gaussian_aggregate(covariance, 0.5)
    prior = MultivariateNormal(torch.zeros(2).double(), covariance)
    terms = kl_decomposition(z, loc, scale, prior, index=index, reduction="none")
    assert_mean(terms.remainder, 0.5 * math.log(1 - 0.6**2))
    assert_mean(terms.total_correlation + terms.remainder, 0)


def test_mws_adds_constants():
    z, loc, scale = encodings(50, 4)
    exact = kl_decomposition(z, loc, scale, standard_normal(4))
    mws = kl_decomposition(z, loc, scale, standard_normal(4), estimator="mws", dataset_size=50)
    shifts = torch.stack(mws[:3]) - torch.stack(exact[:3])
    log_n = math.log(50)
    torch.testing.assert_close(shifts, torch.tensor([log_n, 3 * log_n, -4 * log_n]).double())


@pytest.mark.parametrize("estimator", ["hfvae", "batch"])
def test_the_whole_data_set_as_a_batch_is_exact(estimator):
    z, loc, scale = encodings(50, 4)
    exact = kl_decomposition(z, loc, scale, standard_normal(4))
    minibatch = kl_decomposition(z, loc, scale, standard_normal(4), estimator=estimator, dataset_size=50)
    torch.testing.assert_close(torch.stack(minibatch), torch.stack(exact))


@pytest.mark.parametrize("module", [pykernels, reference])
def test_a_batch_by_itself_needs_no_size_of_the_data_set(module):
    z, loc, scale = encodings(9, 3)
    for size in (9, 10**6):
        given, none = {"estimator": "batch", "dataset_size": size}, {"estimator": "batch"}
        entropy = module.aggregate_entropy(z, loc, scale, **none)
        assert entropy.equal(module.aggregate_entropy(z, loc, scale, **given))
        terms = (module.kl_decomposition(z, loc, scale, standard_normal(3), **of) for of in (none, given))
        assert all(map(torch.equal, *terms))


def test_small_batches_of_little_overlap_reach_their_limits():
    """Section 5 of the specification: log n + E[H], log (n B) + E[H] and log B + E[H], so that the KL is negative."""
    z, loc, scale = encodings(8, 10, scale=0.05)
    own = -Normal(loc, scale).log_prob(z).sum(1).mean()
    n = 10**9
    limits = {"hfvae": math.log(n), "mss": math.log(n), "mws": math.log(8 * n), "batch": math.log(8)}
    for name, limit in limits.items():
        entropy = aggregate_entropy(z, loc, scale, estimator=name, dataset_size=n)
        torch.testing.assert_close(entropy, own + limit)
    wide = Independent(Normal(torch.zeros(10).double(), torch.ones(10).double() * 0.1), 1)
    assert exclusive_kl(0.1 * z, 0.1 * loc, scale, wide, estimator="hfvae", dataset_size=n) < 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_agrees_with_the_reference_and_gives_every_gradient(variant, estimator):
    value, loc, scale, weights = mixture_inputs(6, 6, 3)
    prior_loc = torch.zeros(3).double().requires_grad_()
    prior = MultivariateNormal(prior_loc, torch.eye(3).double())
    exact = estimator == "exact"
    options = {"estimator": estimator, "dataset_size": None if exact else 100}
    inputs = [value, loc, scale, prior_loc]
    if exact:
        options |= {"log_weights": weights, "index": torch.tensor([0, 5, 1, 1, 2, 3])}
        inputs.append(weights)
    results = []
    for module in (pykernels, reference):
        terms = module.kl_decomposition(value, loc, scale, prior, **options)
        entropy = module.aggregate_entropy(value, loc, scale, **options)
        kl = module.exclusive_kl(value, loc, scale, prior, **options)
        combined = sum(weight * term for weight, term in zip((1, 2, 3, 4, 5, 6), (*terms, entropy, kl)))
        results.append((*terms, entropy, kl, *torch.autograd.grad(combined, inputs)))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_through_the_draws_is_the_whole_one_on_average():
    """That through the encodings inside q averages to 0 over q, but not where each draw sees only its own attached."""
    noise = Normal(0, 1).icdf((torch.arange(2000).double() + 0.5) / 2000)[:, None]
    prior = standard_normal(1)

    def gradient(is_attached):
        loc = torch.tensor([[-1.0], [0.2], [0.9]]).double().requires_grad_()
        scale = torch.tensor([[0.4], [0.5], [0.8]]).double().requires_grad_()
        total = 0
        for b in range(3):
            attached = torch.tensor([[is_attached(b, i)] for i in range(3)])
            inside = [torch.where(attached, t, t.detach()) for t in (loc, scale)]
            total += exclusive_kl(loc[b] + scale[b] * noise, *inside, prior) / 3
        return torch.cat(torch.autograd.grad(total, (loc, scale)))

    through_draws = gradient(lambda b, i: False)
    whole = gradient(lambda b, i: True)
    own = gradient(lambda b, i: b == i)
    torch.testing.assert_close(through_draws, whole, rtol=0, atol=2e-3)
    assert (own - whole).abs().max() > 0.05


Z, LOC, SCALE = torch.zeros(5, 3), torch.zeros(7, 3), torch.ones(7, 3)
PRIOR = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
BATCH = {"estimator": "hfvae", "dataset_size": 100}


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((Z, LOC, SCALE), {"estimator": "mwss"}, ValueError, "estimator must be one of ['exact', 'mws', 'mss',"),
        ((Z, LOC, SCALE), {"reduction": "sum"}, ValueError, "reduction must be 'mean' or 'none'"),
        ((Z[0], LOC, SCALE), {}, ValueError, "z must have shape [B, D] with B >= 1, but has shape [3]"),
        ((Z[:0], LOC, SCALE), {}, ValueError, "with B >= 1, but has shape [0, 3]"),
        ((Z, LOC.expand(2, 7, 3), SCALE), {}, ValueError, "loc must have shape [n, D]"),
        ((Z.double(), LOC, SCALE), {}, TypeError, "z is float64, loc is float32"),
        ((Z, LOC, SCALE), {"dataset_size": 8}, ValueError, "dataset_size must be the number of encodings 7"),
        ((Z, LOC, SCALE), {"index": [0] * 5}, TypeError, "index must be a tensor of int64, rows of loc, but"),
        ((Z, LOC, SCALE), {"index": torch.zeros(5)}, TypeError, "but came as torch.float32"),
        ((Z, LOC, SCALE), {"index": torch.arange(4)}, ValueError, "index must have shape [5]"),
        ((Z, LOC, SCALE), {"index": torch.arange(3, 8)}, ValueError, "below 7, the number of encodings, but"),
        ((Z, LOC, SCALE), {}, ValueError, "index must be given where z has another number of rows than loc"),
        ((Z, Z, SCALE[:5]), {"estimator": "mws"}, ValueError, "dataset_size must be given for the estimator"),
        ((Z, Z, SCALE[:5]), BATCH | {"index": torch.arange(5)}, ValueError, "index is for the estimator 'exact'"),
        ((Z, Z, SCALE[:5]), BATCH | {"log_weights": Z[:, 0]}, ValueError, "log_weights are for the estimator"),
        ((Z, LOC, SCALE), BATCH, ValueError, "index must be given where z has another number of rows"),
    ],
)  # fmt: skip
def test_arguments_in_words(arguments, options, error, words):
    with pytest.raises(error, match=re.escape(words)):
        kl_decomposition(*arguments, PRIOR, **options)


def test_priors_in_words():
    with pytest.raises(ValueError, match=re.escape("wrap it with torch.distributions.Independent(prior, 1)")):
        exclusive_kl(Z, LOC, SCALE, PRIOR.base_dist)
    flow = torch.distributions.TransformedDistribution(PRIOR, torch.distributions.ExpTransform())
    with pytest.raises(TypeError, match="prior must be one whose marginals are known"):
        kl_decomposition(Z + 1, LOC, SCALE, flow, index=torch.arange(5))
    assert exclusive_kl(Z + 1, LOC, SCALE, flow).isfinite()


def test_half_precision_and_reductions():
    z, loc, scale = (t.to(torch.bfloat16) for t in encodings(20, 3))
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    terms = kl_decomposition(z, loc, scale, prior, reduction="none")
    assert all(term.dtype == torch.float32 and term.shape == (20,) for term in terms)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(half):
    z, loc, scale = (t.to(half) for t in encodings(50, 20))
    exact = [t.float() for t in (z, loc, scale)]
    prior, expected = (
        Independent(Normal(torch.full((20,), 0.25, dtype=kind), torch.ones(20, dtype=kind)), 1)
        for kind in (half, torch.float32)
    )
    assert exclusive_kl(z, loc, scale, prior).equal(exclusive_kl(*exact, expected))
    inclusive = pykernels.inclusive_kl(prior, loc, scale, samples=z)
    assert inclusive.equal(pykernels.inclusive_kl(expected, *exact[1:], samples=exact[0]))
    for ours, theirs in zip(kl_decomposition(z, loc, scale, prior), kl_decomposition(*exact, expected)):
        assert ours.equal(theirs)


# The compiler's own habit, in tracing any autograd.Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_they_compile_and_map():
    _, loc, scale = encodings(7, 3)
    z, index = torch.randn(4, 5, 3).double(), torch.tensor([0, 6, 1, 1, 2])
    # The compiler follows no validation; torch turns it off at the first compilation of a process, too late for others.
    factors = Normal(torch.zeros(3).double(), torch.ones(3).double(), validate_args=False)
    prior = Independent(factors, 1, validate_args=False)

    def everything(z):
        terms = kl_decomposition(z, loc, scale, prior, index=index)
        return sum(terms) + exclusive_kl(z, loc, scale, prior) + aggregate_entropy(z, loc, scale)

    expected = torch.stack([everything(each) for each in z])
    torch.testing.assert_close(torch.func.vmap(everything)(z), expected)
    gradient = torch.func.grad(everything)(z[0])
    leaf = z[0].clone().requires_grad_()
    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")(leaf)
    torch.testing.assert_close(compiled, expected[0])
    torch.testing.assert_close(torch.autograd.grad(compiled, leaf)[0], gradient)
