import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from vae.priors import GaussianMixture


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
