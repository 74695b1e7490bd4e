"""All public functions, and those of the reference, under torch.func and autocast."""

import sys

import pytest
import torch
from torch.distributions import Independent, LowRankMultivariateNormal, Normal
from torch.func import grad, jacrev, vmap

import pykernels
from pykernels import reference, streaming
from pykernels.reference import mixture, wasserstein

# vmap follows no validation.
PRIOR = Independent(Normal(torch.zeros(3), torch.ones(3), validate_args=False), 1, validate_args=False)


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 11, 3, generator=generator), torch.randn(11, 3, generator=generator)


def calls(module):
    """Functions of points x to a scalar, by name."""
    _, y = inputs()
    scale = torch.full((11, 3), 0.8)
    found = {
        "log_prob": lambda x: module.gaussian_mixture_log_prob(x, y, scale).sum(),
        "marginal": lambda x: module.gaussian_mixture_marginal_log_prob(y, x, scale).sum(),
        "minibatch": lambda x: module.minibatch_log_prob(x, y, scale, 100, "mss").joint.sum(),
        "statistics": lambda x: module.responsibility_statistics(x, y, scale).perplexity.sum(),
        "cauchy_mmd": lambda x: module.cauchy_mmd(x, y),
        "mmd": lambda x: module.mmd(x, y),
        "inclusive_kl": lambda x: module.inclusive_kl(PRIOR, x, scale, samples=y),
        "entropy": lambda x: module.aggregate_entropy(x, y, scale),
        "exclusive_kl": lambda x: module.exclusive_kl(x, y, scale, PRIOR),
        "decomposition": lambda x: sum(module.kl_decomposition(x, y, scale, PRIOR)),
        "mixture": lambda x: pykernels.DiagonalGaussianMixture(x, scale).log_prob(y).sum(),
    }
    if module is pykernels:
        found["sliced_wasserstein"] = lambda x: module.sliced_wasserstein(x, y, 9)
    else:
        found["sliced_wasserstein"] = lambda x: wasserstein.sliced_wasserstein(
            x, y, torch.eye(3).repeat(3, 1)
        )
        del found["mixture"]
    return found


NAMES = [(module, name) for module in (pykernels, reference) for name in calls(module)]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    for module in (mixture, sys.modules["pykernels.reference.mmd"]):
        monkeypatch.setattr(module, "TILE_ELEMENTS", 40)
    monkeypatch.setattr(wasserstein, "CHUNK_ELEMENTS", 40)


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda case: getattr(case, "__name__", case))
def test_gradients_are_those_of_autograd(module, name):
    function, (points, _) = calls(module)[name], inputs()

    def each(x):
        torch.manual_seed(1)
        return function(x)

    expected = torch.stack([torch.autograd.grad(each(leaf), leaf)[0] for leaf in map(leaf_of, points)])
    torch.testing.assert_close(grad(each)(points[0]), expected[0])
    if module is reference and name == "cauchy_mmd":
        return  # by leading dimensions alone
    options = {"randomness": "same"}
    torch.testing.assert_close(vmap(grad(each), **options)(points), expected)
    torch.testing.assert_close(grad(lambda x: vmap(each, **options)(x).sum())(points), expected)
    leaf = leaf_of(points)
    torch.testing.assert_close(torch.autograd.grad(vmap(each, **options)(leaf).sum(), leaf)[0], expected)


def leaf_of(x):
    return x.clone().requires_grad_()


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda case: getattr(case, "__name__", case))
def test_autocast_changes_no_bit(module, name):
    function, ((points, *_), _) = calls(module)[name], inputs()
    values = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values.append(function(points))
    assert values[1].dtype == torch.float32 and values[0].equal(values[1])


def test_autocast_changes_no_bit_of_a_prior_with_matrix_products():
    (z, *_), loc = inputs()
    prior, values = LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 2), torch.ones(3)), []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            drawn = pykernels.inclusive_kl(prior, loc, torch.ones(()), num_samples=7)
            terms = pykernels.kl_decomposition(z, loc, torch.ones(()), prior)
            values.append([drawn, *terms, pykernels.exclusive_kl(z, loc, torch.ones(()), prior)])
    assert all(map(torch.equal, *values))


@pytest.mark.parametrize("name", ["mmd", "sliced_wasserstein"])
def test_second_derivatives(name):
    function, points = calls(pykernels)[name], inputs()[0][0, :3]

    def each(x):
        torch.manual_seed(1)
        return function(x)

    expected = torch.autograd.functional.hessian(each, points)
    torch.testing.assert_close(jacrev(grad(each))(points), expected)


def test_blocks_say_what_to_use():
    (points, *_), y = inputs()
    blocks = [(y, torch.ones(()))]
    for transformed in (
        grad(lambda x: streaming.gaussian_mixture_log_prob(x, blocks).sum()),
        vmap(lambda x: streaming.gaussian_mixture_log_prob(x[None], blocks)),
    ):
        with pytest.raises(
            NotImplementedError, match=r"pykernels.streaming does not work under torch.func .*: use backward"
        ):
            transformed(points)
