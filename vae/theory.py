"""Appendix A as statements about numbers: the two sides of each equation, for any model, in float64.

Expectations over q(z|x) are means over draws z = loc + scale · noise with the same noise on both sides, entropies and
what torch has in closed form are so here too: what is left between the two sides is rounding, or the equation is wrong.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    kl_divergence,
)

from pykernels import DiagonalGaussianMixture
from vae.model import VAE


class Residual(NamedTuple):
    """The largest difference between two sides, over data points; `vanishes` says whether it is to be 0."""

    statement: str
    case: str
    value: float
    vanishes: bool = True


def log_annealing_constant(prior: Distribution, beta: float) -> Tensor:
    """log F_β, F_β = ∫ p(z)^β dz (Theorem 1): in closed form for a Gaussian, else by quadrature in each dimension.

    Raises ValueError for a prior that is neither Gaussian nor factorises, and where F_β is infinite, as for a Student-t
    of ν degrees of freedom when β(ν + 1) ≤ 1.
    """
    if (gaussian := as_gaussian(prior)) is not None:
        dims = gaussian.event_shape[0]
        log_det = 2 * gaussian.scale_tril.diagonal().log().sum()
        return 0.5 * ((1 - beta) * (dims * math.log(2 * math.pi) + log_det) - dims * math.log(beta))
    if not (isinstance(prior, Independent) and prior.base_dist.event_shape == ()):
        raise ValueError(
            f"F_β is known for Gaussian and for factorised priors, not for {type(prior).__name__}"
        )
    factors = prior.base_dist
    if isinstance(factors, StudentT) and (beta * (factors.df + 1) <= 1).any():
        raise ValueError(
            f"F_β is infinite: β(ν + 1) must be above 1, but β is {beta} and ν {factors.df.min().item():g}"
        )
    return line_integral(lambda z: (beta * factors.log_prob(z)).exp(), factors.mean).log().sum()


def line_integral(function: Callable[[Tensor], Tensor], centre: Tensor, nodes: int = 3001) -> Tensor:
    """∫ function(z) dz over the line, for [D] functions at once: the trapezoid rule in t with z = sinh(π/2 sinh t),
    under which tails that are but powers of z become as thin as a double exponential."""
    t = torch.linspace(-6, 6, nodes, dtype=centre.dtype, device=centre.device).unsqueeze(-1)
    inner = 0.5 * math.pi * t.sinh()
    weight = 0.5 * math.pi * t.cosh() * inner.cosh() * (t[1] - t[0])
    return (function(centre.nan_to_num() + inner.sinh()) * weight).sum(0)


def annealed_student(prior: Independent[Any], beta: float) -> Distribution:
    """f_β of a Student-t prior, again one: ν' = β(ν + 1) − 1, narrower by √(ν/ν')."""
    base = prior.base_dist
    df = beta * (base.df + 1) - 1
    return Independent(StudentT(df, base.loc, base.scale * (base.df / df).sqrt()), 1)


def as_gaussian(prior: Distribution) -> MultivariateNormal | None:
    """The prior with a covariance matrix, if it is Gaussian."""
    if isinstance(prior, MultivariateNormal):
        return prior
    if isinstance(prior, Independent) and isinstance(prior.base_dist, Normal):
        return MultivariateNormal(prior.base_dist.loc, scale_tril=torch.diag(prior.base_dist.scale))
    return None


def is_isotropic(prior: Distribution) -> bool:
    """Whether it is N(0, σ² I), to rounding."""
    gaussian = as_gaussian(prior)
    if gaussian is None or gaussian.mean.any():
        return False
    covariance = gaussian.covariance_matrix
    return torch.allclose(covariance, covariance[0, 0] * torch.eye(len(covariance)).to(covariance))


class Draws(NamedTuple):
    """q(z|x) of a batch, its draws [K, B, D] and log p(x|z) there, averaged [B]."""

    loc: Tensor
    scale: Tensor
    z: Tensor
    log_likelihood: Tensor

    @property
    def posterior(self) -> MultivariateNormal:
        return MultivariateNormal(self.loc, scale_tril=torch.diag_embed(self.scale))

    def elbo(self, prior: Distribution, beta: float = 1.0) -> Tensor:
        """L_β (eq 2), [B]."""
        return self.log_likelihood - beta * self.kl(prior)

    def kl(self, prior: Distribution) -> Tensor:
        """KL(q(z|x)‖prior) [B], in closed form for a Gaussian, else with the cross-entropy at the draws."""
        if (gaussian := as_gaussian(prior)) is not None:
            return kl_divergence(self.posterior, gaussian)
        result: Tensor = -self.posterior.entropy() - prior.log_prob(self.z).mean(0)
        return result


def draws(model: Any, x: Tensor, noise: Tensor) -> Draws:
    loc, scale = model.encoder(x)
    z = loc + scale * noise
    log_likelihood = torch.stack([model.decode(one).log_prob(x) for one in z]).mean(0)
    return Draws(loc, scale, z, log_likelihood)


class Rescaled(nn.Module):
    """The networks θ', φ' of Corollary 1: mu' = √β mu, S' = βS, and p'(x|z) = p(x|z/√β)."""

    def __init__(self, model: VAE, beta: float):
        super().__init__()
        self.model, self.root = model, math.sqrt(beta)

    def encoder(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self.model.encoder(x)
        return self.root * loc, self.root * scale

    def decode(self, z: Tensor) -> Distribution:
        return self.model.decode(z / self.root)


def entropy_regularised(
    model: nn.Module, x: Tensor, noise: Tensor, prior: Distribution, beta: float
) -> Tensor:
    """L_{H,β} (eq 5), [B]."""
    found = draws(model, x, noise)
    return found.elbo(prior) + (beta - 1) * found.scale.log().sum(-1)


def corollary_constant(prior: Distribution, beta: float) -> Tensor:
    dims = prior.event_shape[0]
    return 0.5 * dims * (beta - 1) * (1 + math.log(2 * math.pi / beta)) + log_annealing_constant(prior, beta)


def theorem_1(model: VAE, x: Tensor, noise: Tensor, prior: Any, beta: float) -> Iterator[Residual]:
    """Eq 3: L_β = ELBO under f_β = p^β / F_β, plus (β−1) H[q(z|x)] + log F_β."""
    found = draws(model, x, noise)
    constant = log_annealing_constant(prior, beta)
    gaussian = as_gaussian(prior)
    annealed: Distribution | None
    if gaussian is not None:
        annealed = MultivariateNormal(gaussian.mean, scale_tril=gaussian.scale_tril / math.sqrt(beta))
    elif isinstance(prior.base_dist, StudentT):
        annealed = annealed_student(prior, beta)
    else:
        annealed = None
        mass = line_integral(
            lambda z: (beta * prior.base_dist.log_prob(z)).exp(), prior.mean + 0.1, nodes=2401
        )
        yield Residual("Theorem 1, f_β has mass 1", _case(prior, beta), _largest(mass.log().sum() - constant))
    if annealed is not None:
        log_ratio = annealed.log_prob(found.z) - (beta * prior.log_prob(found.z) - constant)
        yield Residual("Theorem 1, f_β = p^β / F_β", _case(prior, beta), _largest(log_ratio))
        kl = found.kl(annealed)
    else:
        kl = -found.posterior.entropy() - (beta * prior.log_prob(found.z) - constant).mean(0)
    right = found.log_likelihood - kl + (beta - 1) * found.posterior.entropy() + constant
    yield Residual("Theorem 1 (eq 3)", _case(prior, beta), _largest(found.elbo(prior, beta) - right))


def corollary_1(model: VAE, x: Tensor, noise: Tensor, prior: Distribution, beta: float) -> Iterator[Residual]:
    """Eq 4 and the identities of eq 8, for a Gaussian prior with mean 0."""
    gaussian, case = as_gaussian(prior), _case(prior, beta)
    assert gaussian is not None
    left, root = draws(model, x, noise), math.sqrt(beta)
    rescaled = Rescaled(model, beta)
    right = entropy_regularised(rescaled, x, noise, gaussian, beta) + corollary_constant(gaussian, beta)
    yield Residual("Corollary 1 (eq 4)", case, _largest(left.elbo(gaussian, beta) - right))

    z, log_jacobian = root * left.z, 0.5 * gaussian.event_shape[0] * math.log(beta)
    annealed = beta * gaussian.log_prob(z / root) - log_annealing_constant(gaussian, beta)
    residual = _largest(annealed - log_jacobian - gaussian.log_prob(z))
    yield Residual("eq 8, f_β(z/√β) = β^{D/2} p(z)", case, residual)
    primed = MultivariateNormal(root * left.loc, scale_tril=torch.diag_embed(root * left.scale))
    residual = _largest(left.posterior.log_prob(z / root) - log_jacobian - primed.log_prob(z))
    yield Residual("eq 8, q(z/√β|x) = β^{D/2} q'(z|x)", case, residual)


def corollary_2(model: VAE, x: Tensor, noise: Tensor, prior: Distribution, beta: float) -> Iterator[Residual]:
    """∇L_β = Jᵀ ∇L_{H,β}, with the map to the rescaled networks inside the second, so that autograd has its J."""
    parameters = [p for p in (*model.encoder.parameters(), *model.decoder.parameters()) if p.requires_grad]
    with torch.enable_grad():
        left = draws(model, x, noise).elbo(prior, beta).mean()
        right = entropy_regularised(Rescaled(model, beta), x, noise, prior, beta).mean()
        of_left, of_right = (
            torch.autograd.grad(side, parameters, materialize_grads=True) for side in (left, right)
        )
    residual = max(_largest(a - b) / (1 + _largest(a)) for a, b in zip(of_left, of_right))
    yield Residual("Corollary 2, ∇L_β = Jᵀ∇L_{H,β}", _case(prior, beta), residual)


def theorem_2(
    model: VAE, x: Tensor, noise: Tensor, prior: Distribution, beta: float, rotation: Tensor
) -> Iterator[Residual]:
    """Eq 6 and the steps of its proof, for a prior N(0, σ² I) and a rotation [D, D]."""
    found, case = draws(model, x, noise), _case(prior, beta)
    rotated = rotate(found, rotation)
    z = found.z @ rotation.T
    residual = _largest(rotated.log_prob(z) - found.posterior.log_prob(z @ rotation))
    yield Residual("Theorem 2, N(Rz; R mu, RSRᵀ) = N(z; mu, S)", case, residual)
    reconstruction = torch.stack([model.decode(one @ rotation).log_prob(x) for one in z]).mean(0)
    yield Residual("Theorem 2, reconstruction term", case, _largest(reconstruction - found.log_likelihood))
    gaussian = as_gaussian(prior)
    assert gaussian is not None
    kl = kl_divergence(rotated, gaussian)
    yield Residual("Theorem 2, KL", case, _largest(kl - found.kl(gaussian)))
    yield Residual(
        "Theorem 2 (eq 6)", case, _largest(reconstruction - beta * kl - found.elbo(gaussian, beta))
    )


def change_under_rotation(found: Draws, prior: Distribution, rotation: Tensor) -> Tensor:
    """How much KL(q(z|x)‖p) grows, [B], when the encoder is rotated and the decoder undoes it: by how L_β changes,
    but for −β. The entropy of q does not change, so it is the cross-entropy that does."""
    gaussian = as_gaussian(prior)
    if gaussian is not None:
        return kl_divergence(rotate(found, rotation), gaussian) - found.kl(gaussian)
    return (prior.log_prob(found.z) - prior.log_prob(found.z @ rotation.T)).mean(0)


def rotate(found: Draws, rotation: Tensor) -> MultivariateNormal:
    """N(R mu, R S Rᵀ): a full covariance, though S is diagonal."""
    covariance = rotation @ torch.diag_embed(found.scale.square()) @ rotation.T
    return MultivariateNormal(found.loc @ rotation.T, 0.5 * (covariance + covariance.mT))


def random_rotation(dims: int, generator: torch.Generator) -> Tensor:
    """Uniform over the rotations of R^D."""
    q: Tensor
    q, r = torch.linalg.qr(torch.randn(dims, dims, dtype=torch.float64, generator=generator))
    q = q * r.diagonal().sign()
    q[:, 0] *= torch.linalg.det(q).sign()
    return q


def signed_permutation(dims: int, generator: torch.Generator) -> Tensor:
    """A symmetry of every prior whose factors are all one and even."""
    signs = 2.0 * torch.randint(2, (dims, 1), generator=generator) - 1
    return signs.double() * torch.eye(dims, dtype=torch.float64)[torch.randperm(dims, generator=generator)]


def _case(prior: Distribution, beta: float) -> str:
    return f"{prior_name(prior)}, β = {beta:g}"


def prior_name(prior: Distribution) -> str:
    if (gaussian := as_gaussian(prior)) is not None:
        isotropic = is_isotropic(prior)
        diagonal = not (gaussian.covariance_matrix - gaussian.variance.diag_embed()).any()
        return "isotropic Gaussian" if isotropic else "anisotropic Gaussian" if diagonal else "Gaussian"
    factors = prior.base_dist if isinstance(prior, Independent) else prior
    if isinstance(factors, StudentT):
        return f"Student-t, ν = {factors.df.min().item():g}"
    kind = "sparse" if isinstance(factors, MixtureSameFamily) else type(factors).__name__
    return "Gaussian mixture" if isinstance(prior, DiagonalGaussianMixture) else kind


def _largest(difference: Tensor) -> float:
    return difference.abs().max().item()
