"""The sliced Wasserstein distance against couplings by hand, and its laws."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance_nd

from pykernels import sliced_wasserstein
from pykernels.reference import wasserstein as reference


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_two_samples_on_a_line_match_in_order():
    x, y = torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0], [5.0]])
    assert sliced_wasserstein(x, y).item() == pytest.approx((1 + 4) / 2)


@pytest.mark.parametrize(("n", "m"), [(6, 4), (5, 7), (1, 9), (12, 3)])
def test_unequal_counts_are_those_repeated_to_equal_ones(n, m, generator):
    x, y = (torch.randn(k, 3, generator=generator, dtype=torch.float64) for k in (n, m))
    directions = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64))
    same = math.lcm(n, m)
    repeated = x.repeat_interleave(same // n, 0), y.repeat_interleave(same // m, 0)
    actual, expected = (reference.sliced_wasserstein(*pair, directions) for pair in ((x, y), repeated))
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)


def test_no_more_than_the_distance_that_is_not_sliced(generator):
    x, y = (torch.randn(30, 2, generator=generator) for _ in "xy")
    whole = wasserstein_distance_nd(x.numpy(), 2 * y.numpy())  # of order 1, which is at most that of order 2
    along = np.sqrt(sliced_wasserstein(x, 2 * y, 2000, generator).item() * 2)
    assert 0.5 * whole < along < 2 * whole


def test_laws(dtype, generator):
    x = torch.randn(400, 5, generator=generator, dtype=dtype)
    shift = torch.tensor([3.0, 0, 0, 0, 0], dtype=dtype)
    assert sliced_wasserstein(x, x).item() == 0
    assert sliced_wasserstein(x, x[torch.randperm(400)]).item() == pytest.approx(0, abs=1e-12)
    assert sliced_wasserstein(x, x + shift, 20_000, generator).item() == pytest.approx(9 / 5, rel=0.03)
    assert sliced_wasserstein(x, 3 * x, 200, generator).item() == pytest.approx(4, rel=0.2)
    order = sliced_wasserstein(3 * x, x, 200, generator)
    assert order.item() == pytest.approx(4, rel=0.2)


def test_normal_samples_approach_their_closed_form(generator):
    x, y = (a * torch.randn(20_000, 3, generator=generator) for a in (2.0, 0.5))
    assert sliced_wasserstein(x, y, generator=generator).item() == pytest.approx(1.5**2, rel=0.03)


def test_parts_of_the_directions_change_nothing(generator, monkeypatch):
    x, y = (torch.randn(2, k, 3, generator=generator, dtype=torch.float64) for k in (8, 5))
    directions = torch.randn(9, 3, generator=generator, dtype=torch.float64)

    def value_and_gradient():
        leaf = x.clone().requires_grad_()
        value = reference.sliced_wasserstein(leaf, y, directions)
        return value.detach(), *torch.autograd.grad(value.sum(), leaf)

    whole = value_and_gradient()
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 40)
    for part, expected in zip(value_and_gradient(), whole):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-14)


def test_gradients(generator):
    x, y = (torch.randn(k, 2, generator=generator, dtype=torch.float64).requires_grad_() for k in (6, 4))
    directions = torch.nn.functional.normalize(torch.randn(7, 2, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda a, b: reference.sliced_wasserstein(a, b, directions), (x, y))
    assert torch.autograd.gradgradcheck(lambda a, b: reference.sliced_wasserstein(a, b, directions), (x, y))


def test_batches_and_dtypes(generator):
    x, y = torch.randn(4, 1, 20, 3, generator=generator), torch.randn(5, 20, 3, generator=generator)

    def along(a, b):
        return sliced_wasserstein(a, b, generator=torch.Generator().manual_seed(1))

    value = along(x, y)
    assert value.shape == (4, 5)
    assert value[2, 3].item() == pytest.approx(along(x[2, 0], y[3]).item(), rel=1e-5)
    half = along(x[0, 0].half(), y[0])
    assert half.dtype == torch.float32
    mapped = torch.func.vmap(lambda a: reference.sliced_wasserstein(a, y[0], torch.eye(3)))(x[:, 0])
    assert mapped.shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.zeros(2, 1)), r"x must have shape .*\[3\]"),
        ((torch.zeros(3, 2), torch.zeros(2, 1)), "same last dimension"),
        ((torch.zeros(0, 2), torch.zeros(2, 2)), "at least one"),
        ((torch.zeros(3, 2), torch.zeros(2, 2), 0), "num_projections must be a positive integer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(*arguments)
