import math

import pytest
import torch
from scipy.integrate import quad
from torch.distributions import Independent, MultivariateNormal, Normal, StudentT

from vae import priors, theory
from vae.experiments.theory import Theory, networks


def student(df, dims=2):
    return Independent(StudentT(torch.full((dims,), df).double()), 1)


@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
@pytest.mark.parametrize(
    "prior",
    [
        Independent(Normal(torch.zeros(2).double(), torch.tensor([0.5, 2.0]).double()), 1),
        student(4.0),
        priors.Sparse(2).double()(),
    ],
)  # fmt: skip
def test_annealing_constants_against_quadrature_by_another_program(prior, beta):
    def density(z, dim):
        return prior.base_dist.log_prob(torch.full((2,), z, dtype=torch.float64))[dim].mul(beta).exp().item()

    expected = sum(
        math.log(2 * quad(density, 0, math.inf, (dim,), epsabs=0, epsrel=1e-10)[0]) for dim in (0, 1)
    )
    assert theory.log_annealing_constant(prior, beta).item() == pytest.approx(expected, abs=1e-9)


def test_the_annealing_constant_of_a_correlated_gaussian_depends_on_the_determinant_only():
    factor = torch.tensor([[1.0, 0.0], [0.7, 0.5]]).double()
    rotated = theory.random_rotation(2, torch.Generator().manual_seed(0)) @ factor
    values = [
        theory.log_annealing_constant(MultivariateNormal(torch.zeros(2).double(), f @ f.T), 3.0)
        for f in (factor, rotated)
    ]
    torch.testing.assert_close(*values)


def test_annealing_constants_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="F_β is infinite: .* above 1, but β is 0.2 and ν 3"):
        theory.log_annealing_constant(student(3.0), 0.2)
    assert theory.log_annealing_constant(student(3.0), 0.3).isfinite()
    with pytest.raises(ValueError, match="not for DiagonalGaussianMixture"):
        theory.log_annealing_constant(priors.GaussianMixture()(), 2.0)


def test_rotations_and_symmetries_are_what_they_say():
    generator = torch.Generator().manual_seed(3)
    for dims in (1, 2, 5):
        for rotation in (theory.random_rotation(dims, generator), theory.signed_permutation(dims, generator)):
            torch.testing.assert_close(rotation @ rotation.T, torch.eye(dims).double())
    assert torch.linalg.det(theory.random_rotation(4, generator)).item() == pytest.approx(1)


def test_a_wrong_constant_or_rescaling_is_seen():
    model, x = networks(Theory()), torch.randn(4, 4).double()
    noise = torch.randn(3, 4, 3).double()
    prior = Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1)
    with torch.no_grad():
        left = theory.draws(model, x, noise).elbo(prior, 4.0)
        sides = [
            theory.entropy_regularised(theory.Rescaled(model, beta), x, noise, prior, 4.0)
            for beta in (4.0, 2.0)
        ]
    right, wrong = (side + theory.corollary_constant(prior, 4.0) for side in sides)
    torch.testing.assert_close(left, right)
    assert (left - wrong).abs().min() > 0.1
    assert (left - right - theory.corollary_constant(prior, 4.0)).abs().min() > 0.1


def test_kinds_of_priors():
    ones = torch.ones(2).double()
    kinds = {
        "isotropic Gaussian": Independent(Normal(0 * ones, 2 * ones), 1),
        "anisotropic Gaussian": Independent(Normal(0 * ones, torch.tensor([1.0, 2.0])), 1),
        "Gaussian": MultivariateNormal(0 * ones, torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()),
        "Student-t, ν = 3": student(3.0),
        "sparse": priors.Sparse(2)(),
        "Gaussian mixture": priors.GaussianMixture()(),
    }
    assert {theory.prior_name(prior) for prior in kinds.values()} == set(kinds)
    assert [theory.is_isotropic(prior) for prior in kinds.values()] == [True] + 5 * [False]
    assert not theory.is_isotropic(Independent(Normal(ones, ones), 1))
