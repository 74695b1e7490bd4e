import math
from itertools import pairwise

import numpy
import pytest
import scipy.integrate
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.distributions import StudentT as TorchStudentT

from vae.student_t import StudentT


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


CLOSED = {
    1.0: lambda t: 0.5 + t.atan() / math.pi,
    2.0: lambda t: 0.5 + 0.5 * t / (2 + t.square()).sqrt(),
    3.0: lambda t: 0.5 + ((t / 3**0.5).atan() + t * 3**0.5 / (3 + t.square())) / math.pi,
}


@pytest.mark.parametrize("df", CLOSED)
def test_the_cdf_is_the_closed_one_and_icdf_its_inverse(df):
    t = torch.linspace(-20, 20, 81, dtype=torch.float64)
    distribution = StudentT(double(df), double(1.5), double(0.5))
    probability = distribution.cdf(1.5 + 0.5 * t)
    torch.testing.assert_close(probability, CLOSED[df](t), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(distribution.icdf(probability), 1.5 + 0.5 * t, rtol=1e-9, atol=1e-9)


def test_the_cdf_has_the_tails_of_the_density():
    distribution = StudentT(double(3.0))
    for value in (-1e3, -1e6):
        leading = 2 * 3**1.5 / (3 * math.pi * 3**0.5) * abs(value) ** -3 * 3**0.5
        assert distribution.cdf(double(value)).item() == pytest.approx(leading, rel=1e-4)


def test_the_map_to_a_normal():
    values = double(-1e4, -30, -1, 0, 1, 30, 1e4)
    distribution = StudentT(double(3.0), double(0.0), double(1.0))
    mapped = distribution.to_normal(values)
    assert (mapped.diff() > 0).all() and mapped[3] == 0
    assert mapped.equal(-mapped.flip(0))  # the upper tail as exact as the lower
    below = Normal(0.0, 1.0).cdf(mapped[:4])
    torch.testing.assert_close(below, distribution.cdf(values[:4]), rtol=1e-4, atol=0)
    drawn = distribution.to_normal(distribution.sample((50_000,)))
    assert drawn.mean().abs() < 0.02 and abs(drawn.std() - 1) < 0.02
    nearly_normal = StudentT(double(1e9)).to_normal(values[1:-1] / 10)
    torch.testing.assert_close(nearly_normal, values[1:-1] / 10, rtol=1e-4, atol=0)


def by_integration(loc, scale, df):
    p, q = Normal(double(loc), double(scale)).log_prob, TorchStudentT(double(df)).log_prob

    def integrand(z):
        z = double(z)
        return (p(z).exp() * (p(z) - q(z))).item()

    corners = numpy.unique(numpy.clip([-2.0, 0.0, 2.0], loc - 12 * scale, loc + 12 * scale))
    edges = [loc - 12 * scale, *corners, loc + 12 * scale]
    parts = (scipy.integrate.quad(integrand, *ends, epsabs=1e-12, limit=200) for ends in pairwise(edges))
    return sum(value for value, _ in parts)


@pytest.mark.parametrize(
    ("df", "ratio", "tolerance"),
    [
        (1.0, 0.01, 1e-11),
        (3.0, 1.0, 1e-11),
        (100.0, 1.0, 1e-11),
        (3.0, 2.0, 5e-7),
        (9.0, 2.0, 5e-7),
        (3.0, 5.0, 1e-3),
    ],
)
def test_the_kl_has_the_accuracy_that_it_states(df, ratio, tolerance):
    scale = ratio * df**0.5
    for loc in (0.0, 0.4 * scale, 3.0):
        p = Normal(double(loc), double(scale))
        found = kl_divergence(p, StudentT(double(df))).item()
        # The integral's own error counts too.
        assert found == pytest.approx(by_integration(loc, scale, df), abs=max(tolerance * (df + 1), 1e-9))


def test_the_kl_of_scaled_variables_and_its_gradient():
    parameters = [double(0.7, -2.0), double(0.3, 1.2), double(3.0, 9.0), double(0.2, 0.0), double(1.5, 0.8)]

    def kl(loc, scale, df, prior_loc, prior_scale):
        return kl_divergence(Normal(loc, scale), StudentT(df, prior_loc, prior_scale))

    for parameter in parameters:
        parameter.requires_grad_()
    assert torch.autograd.gradcheck(kl, parameters)
    loc, scale, df, prior_loc, prior_scale = parameters
    zero = torch.zeros_like(prior_loc)
    standard = kl((loc - prior_loc) / prior_scale, scale / prior_scale, df, zero, zero + 1)
    torch.testing.assert_close(kl(*parameters), standard)


def test_the_kl_is_never_negative_and_vanishes_as_both_become_normal():
    standard = Normal(double(0.0), double(1.0))
    assert kl_divergence(standard, StudentT(double(1e8))).item() == pytest.approx(0, abs=1e-6)
    for df in (1.0, 3.0, 9.0):
        assert kl_divergence(standard, StudentT(double(df))).item() > 1e-3


def test_the_kl_against_draws():
    p = Independent(Normal(torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.2])), 1)
    q = Independent(StudentT(torch.full((2,), 3.0)), 1)
    z = p.sample((200_000,))
    terms = p.log_prob(z) - q.log_prob(z)
    error = (terms.std() / 200_000**0.5).item()
    assert kl_divergence(p, q).item() == pytest.approx(terms.mean().item(), abs=4 * error)


def test_it_stays_itself_when_expanded_and_when_wrapped():
    expanded = StudentT(torch.tensor(3.0)).expand((4,))
    assert isinstance(expanded, StudentT) and expanded.cdf(torch.zeros(4)).equal(torch.full((4,), 0.5))
    assert expanded.cdf(torch.zeros(2, 4)).dtype == torch.float32
