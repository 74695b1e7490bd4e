"""Appendix A, checked: both sides of every statement in float64, on small random networks or a trained model.

What has to be equal differs by rounding, below 1e-10. What must not be equal, the objective under a rotation of the
latent space when the prior is not an isotropic Gaussian, differs by far more: there the prior chooses the axes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, StudentT

from vae import line_figures, priors, seeds, tables, theory
from vae.experiments import finished
from vae.likelihoods import gaussian
from vae.line_figures import Line, Plot
from vae.model import VAE
from vae.run import RunError, RunFolder, RunOptions
from vae.tables import Table
from vae.theory import Residual
from vae.training import single_threaded


@dataclass(frozen=True)
class Theory:
    """The theorems of appendix A as tables of residuals, and rotations that change the objective."""

    model: str = ""
    """Run folder of vae pinwheel, fashion or shapes whose trained model is checked beside random networks."""
    betas: tuple[float, ...] = (0.3, 1.0, 4.0, 10.0)
    latent_dim: int = 3
    """Latent dimensions of the random networks."""
    draws: int = 32
    """Draws of each q(z|x), the same on both sides."""
    num_points: int = 16
    """Data points x."""
    rotations: int = 5
    """Random rotations."""
    run: RunOptions = field(default_factory=lambda: RunOptions(Path("runs/theory")))

    presets: ClassVar[dict[str, dict[str, Any]]] = {"quick": {"draws": 8, "num_points": 8, "rotations": 2}}

    def __post_init__(self) -> None:
        for name in ("latent_dim", "draws", "num_points", "rotations"):
            if getattr(self, name) <= 0:
                raise RunError(f"--{name.replace('_', '-')} {getattr(self, name)} must be positive")
        if not self.betas or min(self.betas) <= 0:
            raise RunError(f"--betas {' '.join(map(str, self.betas))} must be one or more positive numbers")


BOUND = 1e-10
"""What vanishes in exact arithmetic stays below this, and what must not vanish above a million times it."""


def main(config: Theory) -> None:
    with single_threaded():
        seeds.run(config, experiment)
    print((config.run.out / "residuals.md").read_text() if not config.run.seeds else "")
    print(f"{config.run.out.resolve()}: summary.json, residuals.md, figures/")


def experiment(config: Theory, folder: RunFolder, fabric: Fabric) -> dict[str, float]:
    """The largest residual of each statement, over all else."""
    generator = torch.Generator().manual_seed(config.run.seed)
    residuals = list(on_random_networks(config, generator))
    if config.model:
        residuals += on_a_trained_model(config, generator)
    by_statement: dict[tuple[str, str], list[Residual]] = {}
    for residual in residuals:
        by_statement.setdefault((residual.statement, residual.case.split(", β")[0]), []).append(residual)
    rows = [
        [statement, case, f"{_extreme(found):.1e}", "0" if found[0].vanishes else "not 0", _verdict(found)]
        for (statement, case), found in by_statement.items()
    ]
    header = "statement", "case", "residual", "expected", ""
    title = f"Differences between the two sides, float64; 0 means below {BOUND:.0e}"
    tables.write(folder.path / "residuals.md", {title: Table(header, rows)})
    line_figures.residuals(_by_kind(residuals), BOUND, folder.figures / "residuals.png")
    line_figures.plots([turning(config, generator)], folder.figures / "rotation.png")
    return {
        "largest_residual": max(r.value for r in residuals if r.vanishes),
        "smallest_change": min(r.value for r in residuals if not r.vanishes),
        **{f"{statement}: {case}": _extreme(found) for (statement, case), found in by_statement.items()},
    }


def on_random_networks(config: Theory, generator: torch.Generator) -> Iterator[Residual]:
    dims = config.latent_dim
    uniform = partial(torch.rand, dtype=torch.float64, generator=generator)
    factor = uniform(dims, dims).tril() + torch.eye(dims)
    isotropic = Independent(Normal(torch.zeros(dims).double(), 1.3 * torch.ones(dims).double()), 1)
    anisotropic = Independent(Normal(torch.zeros(dims).double(), 0.5 + uniform(dims)), 1)
    correlated = MultivariateNormal(torch.zeros(dims).double(), scale_tril=factor)
    student = Independent(StudentT(torch.full((dims,), 5.0).double()), 1)
    sparse = priors.Sparse(dims).double()()
    refuse_where_infinite(student, config.betas)

    x, model = torch.randn(config.num_points, 4, dtype=torch.float64, generator=generator), networks(config)
    noise = torch.randn(config.draws, config.num_points, dims, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        for beta in config.betas:
            for prior in (isotropic, anisotropic, correlated, student, sparse):
                yield from theory.theorem_1(model, x, noise, prior, beta)
            for prior in (isotropic, anisotropic, correlated):
                yield from theory.corollary_1(model, x, noise, prior, beta)
                yield from theory.corollary_2(model, x, noise, prior, beta)
            yield from surgery(config, model, x, noise, correlated, beta)
            yield from marginal_likelihood(correlated, beta, generator)
        for _ in range(config.rotations):
            rotation = theory.random_rotation(dims, generator)
            for beta in config.betas:
                yield from theory.theorem_2(model, x, noise, isotropic, beta, rotation)
            found = theory.draws(model, x, noise)
            if dims > 1:
                for prior in (anisotropic, student, sparse):
                    yield changed(found, prior, rotation)
            symmetry = theory.signed_permutation(dims, generator)
            for prior in (student, sparse):
                yield kept(found, prior, symmetry, "signed permutation")
            flips = symmetry.sum(1).diag()
            yield kept(found, anisotropic, flips, "flipped signs")
        yield from mixture_of_the_cross(config, generator)


def on_a_trained_model(config: Theory, generator: torch.Generator) -> Iterator[Residual]:
    """Each statement under N(0, I), and under the model's own prior where that is of the kind that it is about."""
    name, model, data = finished.load(config.model)
    model, x = model.double(), data[: config.num_points].double()
    with torch.no_grad():
        own = model.prior()
    dims = own.event_shape[0]
    standard = Independent(Normal(torch.zeros(dims).double(), torch.ones(dims).double()), 1)
    gaussian, isotropic = theory.as_gaussian(own), theory.is_isotropic(own)
    is_centred = gaussian is not None and not gaussian.mean.any()
    factorises = isinstance(own, Independent)
    if factorises:
        refuse_where_infinite(own, config.betas)
    noise = torch.randn(config.draws, len(x), dims, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        for beta in config.betas:
            found: list[Residual] = []
            for prior in (own, standard) if is_centred else (standard,):
                found += theory.corollary_1(model, x, noise, prior, beta)
                found += theory.corollary_2(model, x, noise, prior, beta)
            for prior in (own, standard) if factorises or is_centred else (standard,):
                found += theory.theorem_1(model, x, noise, prior, beta)
            for _ in range(config.rotations):
                rotation = theory.random_rotation(dims, generator)
                for prior in (own, standard) if isotropic else (standard,):
                    found += theory.theorem_2(model, x, noise, prior, beta, rotation)
                if not isotropic:
                    found.append(changed(theory.draws(model, x, noise), own, rotation))
            yield from (r._replace(statement=f"{r.statement}, model of vae {name}") for r in found)


def refuse_where_infinite(prior: Distribution, betas: Sequence[float]) -> None:
    """Theorem 1 is about priors with a finite F_β."""
    for beta in betas:
        try:
            theory.log_annealing_constant(prior, beta)
        except ValueError as error:
            name = theory.prior_name(prior)
            raise RunError(f"--betas {beta:g} is too low for the prior {name}: {error}") from error


def changed(found: theory.Draws, prior: Distribution, rotation: Tensor) -> Residual:
    value = theory.change_under_rotation(found, prior, rotation).abs().max().item()
    return Residual("generic rotation", theory.prior_name(prior), value, vanishes=False)


def kept(found: theory.Draws, prior: Distribution, symmetry: Tensor, name: str) -> Residual:
    value = theory.change_under_rotation(found, prior, symmetry).abs().max().item()
    return Residual(f"the prior's own symmetry: {name}", theory.prior_name(prior), value)


def mixture_of_the_cross(config: Theory, generator: torch.Generator) -> Iterator[Residual]:
    """Its four components are where they were after a quarter turn, and after no other."""
    cross, found = priors.GaussianMixture().double()(), plane(config, generator)
    yield kept(found, cross, turn(math.pi / 2), "quarter turn")
    for _ in range(config.rotations):
        # Away from the multiples of a quarter turn.
        angle = math.pi / 2 * (0.1 + 0.8 * torch.rand((), generator=generator).item())
        yield changed(found, cross, turn(angle))


def turning(config: Theory, generator: torch.Generator) -> Plot:
    """In the plane, the mean change of KL(q(z|x)‖p) against the angle, for each kind of prior."""
    found, two = plane(config, generator), torch.zeros(2).double()
    kinds = {
        "isotropic Gaussian": Independent(Normal(two, two + 1), 1),
        "anisotropic Gaussian": Independent(Normal(two, torch.tensor([0.6, 1.28]).double()), 1),
        "Student-t, ν = 3": Independent(StudentT(two + 3), 1),
        "sparse": priors.Sparse(2).double()(),
        "mixture (cross)": priors.GaussianMixture().double()(),
    }
    degrees = torch.linspace(0, 180, 181).tolist()
    lines = {}
    for name, prior in kinds.items():
        change = [theory.change_under_rotation(found, prior, turn(math.radians(angle))) for angle in degrees]
        lines[name] = Line(degrees, [each.mean().item() for each in change])
    return Plot("encodings turned in the plane", "angle, degrees", "change of KL(q(z|x)‖p), nats", lines)


def plane(config: Theory, generator: torch.Generator) -> theory.Draws:
    """Encodings along one axis of the plane."""
    normal = partial(torch.randn, dtype=torch.float64, generator=generator)
    along = torch.linspace(-1.5, 1.5, config.num_points).double()
    loc = torch.stack([along, torch.zeros_like(along)], 1)
    scale = torch.full_like(loc, 0.2)
    z = loc + scale * normal(config.draws, config.num_points, 2)
    return theory.Draws(loc, scale, z, loc.new_zeros(config.num_points))


def turn(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)


class Encoder(nn.Module):
    """tanh, then a head for the mean and one for the log-variance: S' = βS is log β on the latter's bias."""

    def __init__(self, dims: int, hidden: int = 8):
        super().__init__()
        self.hidden = nn.Linear(4, hidden)
        self.mean, self.log_variance = nn.Linear(hidden, dims), nn.Linear(hidden, dims)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(x).tanh()
        return self.mean(hidden), (0.5 * self.log_variance(hidden)).exp()


class Decoder(nn.Module):
    def __init__(self, dims: int, hidden: int = 8):
        super().__init__()
        self.first, self.heads = nn.Linear(dims, hidden), nn.Linear(hidden, 8)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.heads(self.first(z).tanh()).chunk(2, -1)
        return loc, log_scale.exp()


def networks(config: Theory) -> VAE:
    dims = config.latent_dim
    return VAE(Encoder(dims), Decoder(dims), priors.Sparse(dims, gamma=0.0), gaussian).double()


def surgery(
    config: Theory, model: VAE, x: Tensor, noise: Tensor, prior: Distribution, beta: float
) -> Iterator[Residual]:
    """Corollary 2 between two sets of weights: g_β scales or shifts each, so that its J is diagonal."""
    root, other = math.sqrt(beta), networks(config)
    factors = {"encoder.mean.weight": root, "encoder.mean.bias": root, "decoder.first.weight": 1 / root}
    state = {name: value * factors.get(name, 1.0) for name, value in model.state_dict().items()}
    state["encoder.log_variance.bias"] += math.log(beta)
    other.load_state_dict(state)
    with torch.enable_grad():
        left = theory.draws(model, x, noise).elbo(prior, beta).mean()
        right = theory.entropy_regularised(other, x, noise, prior, beta).mean()
        gradients = [
            torch.autograd.grad(side, list(own.parameters())) for side, own in ((left, model), (right, other))
        ]
    names = [name for name, _ in model.named_parameters()]
    difference = max(
        (a - factors.get(name, 1.0) * b).abs().max().item() / (1 + a.abs().max().item())
        for name, a, b in zip(names, *gradients, strict=True)
    )
    case = f"{theory.prior_name(prior)}, β = {beta:g}"
    constant = theory.corollary_constant(prior, beta)
    yield Residual("Corollary 1 by weight surgery", case, (left - right - constant).abs().item())
    yield Residual("Corollary 2 by weight surgery", case, difference)


def marginal_likelihood(
    prior: MultivariateNormal, beta: float, generator: torch.Generator
) -> Iterator[Residual]:
    """Eq 8's π(x) = p'(x), where both are known: a linear decoder with Gaussian noise."""
    covariance, dims = prior.covariance_matrix, prior.event_shape[0]
    normal = partial(torch.randn, dtype=torch.float64, generator=generator)
    weight, bias, x = normal(4, dims), normal(4), normal(5, 4)
    noise = 0.3 * torch.eye(4).double()
    annealed = MultivariateNormal(bias, weight @ (covariance / beta) @ weight.T + noise)
    rescaled = weight / math.sqrt(beta)
    primed = MultivariateNormal(bias, rescaled @ covariance @ rescaled.T + noise)
    value = (annealed.log_prob(x) - primed.log_prob(x)).abs().max().item()
    yield Residual("eq 8, π(x) = p'(x)", f"{theory.prior_name(prior)}, β = {beta:g}", value)


def _extreme(found: Sequence[Residual]) -> float:
    """The worst: the largest of what is to vanish, the smallest of what is not to."""
    return (max if found[0].vanishes else min)(r.value for r in found)


def _verdict(found: Sequence[Residual]) -> str:
    worst = _extreme(found)
    holds = worst < BOUND if found[0].vanishes else worst > 1e6 * BOUND
    return "holds" if holds else "FAILS"


def _by_kind(residuals: Sequence[Residual]) -> Mapping[str, list[float]]:
    kinds: dict[str, list[float]] = {}
    for residual in residuals:
        name = residual.statement if residual.vanishes else f"{residual.statement}, {residual.case}"
        kinds.setdefault(name, []).append(residual.value)
    return kinds
