"""Clustering: four spiral arms, a prior of four Gaussians, and a divergence that maps one to the other.

Under (α, β) = (1, 0) the inclusive KL lets q(z) miss no part of p(z), so each arm takes its own component.
Under (0, 1), the ELBO, arms often share a component and leave another empty.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pykernels import DiagonalGaussianMixture
from vae import divergences, figures, likelihoods, metrics, priors, ranks, seeds
from vae.data.pinwheel import pinwheel
from vae.model import VAE, Encoding
from vae.networks import GaussianMLP
from vae.objectives import decomposition
from vae.ranks import Shard
from vae.run import RunError, RunFolder, RunOptions, parse_seeds
from vae.training import shuffled, single_threaded, train


@dataclass(frozen=True)
class Pinwheel:
    """Clustering: pinwheel data, a mixture prior, and the inclusive KL to the whole data set's q(z)."""

    alpha: float = 1.0
    """Weight of the inclusive KL(p(z)‖q(z))."""
    beta: float = 0.0
    """Weight of KL(q(z|x)‖p(z))."""
    prior: Literal["cross", "square"] = "cross"
    """Where the four components of the prior lie."""
    num_points: int = 400
    """Size n of the data set."""
    batch_size: int = 400
    """Points per step; q(z) is the mixture of all n encodings whatever it is."""
    epochs: int = 500
    lr: float = 1e-3
    """Adam's learning rate."""
    # A tenth of the data's smallest deviation. Over ten seeds the inclusive KL and the assignment are those of a
    # floor of 1e-6, where the test points' log-likelihood is -11 ± 17 instead of 5.1 ± 0.3.
    decoder_floor: float = 0.01
    """Added to the decoder's scale, which could else shrink to zero and the likelihood grow without bound."""
    compare: bool = False
    """Run (alpha, beta) = (1, 0), (0, 1) and (10, 0), each over --seeds (0-9; 0-2 if --quick)."""
    run: RunOptions = field(default_factory=lambda: RunOptions(Path("runs/pinwheel")))

    presets: ClassVar[dict[str, dict[str, Any]]] = {"quick": {"epochs": 100}}

    def __post_init__(self) -> None:
        for name in ("num_points", "batch_size", "epochs", "lr", "decoder_floor"):
            if getattr(self, name) <= 0:
                raise RunError(f"--{name.replace('_', '-')} {getattr(self, name)} must be positive")


IN_SEVERAL_PROCESSES = True
SETTINGS = ({"alpha": 1.0, "beta": 0.0}, {"alpha": 0.0, "beta": 1.0}, {"alpha": 10.0, "beta": 0.0})
"""What --compare runs: the paper's two, and one that brings the inclusive KL further down."""


def main(config: Pinwheel) -> None:
    with single_threaded():
        name = seeds.label({"alpha": config.alpha, "beta": config.beta})
        summaries = compare(config) if config.compare else {name: seeds.run(config, experiment)}
    print(seeds.table(summaries))
    print(f"{config.run.out.resolve()}: summary.json, figures/")


def experiment(config: Pinwheel, folder: RunFolder, fabric: Fabric) -> dict[str, float]:
    """Train once. The inclusive KL and the arm assignment are of the training set, whose encodings make q(z);
    the rest is of the test set."""
    model, *data = build(config)
    model.to(fabric.device)
    points, arms, test_points = (item.to(fabric.device) for item in data)
    shard = Shard.of(len(points))
    own_points = shard.own(points)
    train(
        model,
        shuffled(own_points, config.batch_size, shard=shard),
        partial(
            decomposition,
            alpha=config.alpha,
            beta=config.beta,
            divergence=partial(
                divergences.inclusive_kl, num_samples=min(config.batch_size, config.num_points)
            ),
            data=own_points if config.batch_size < config.num_points else None,
        ),
        epochs=config.epochs,
        lr=config.lr,
        fabric=fabric,
        folder=folder,
    )
    with torch.no_grad():
        encoding, prior = model.encode(points), model.prior()
        nearest = torch.cdist(encoding.loc, prior.loc).argmin(1)
        summary = {
            "inclusive_kl": divergences.inclusive_kl(prior, encoding, num_samples=20_000).item(),
            "arm_assignment": metrics.assignment_accuracy(arms, nearest),
            **metrics.evaluate(model, test_points.split(100)),
        }
    if ranks.is_first():
        draw(model.cpu(), points.cpu(), arms.cpu(), folder)
    return summary


def build(config: Pinwheel) -> tuple[VAE, Tensor, Tensor, Tensor]:
    """The untrained model (Table 1b), the training points with their arms, and an independent test draw."""
    points, arms = pinwheel(config.num_points)
    test_points, _ = pinwheel(config.num_points)
    model = VAE(
        encoder=GaussianMLP(2, 2, min_scale=1e-6),
        decoder=GaussianMLP(2, 2, min_scale=config.decoder_floor),
        prior=priors.GaussianMixture(config.prior),
        likelihood=likelihoods.gaussian,
    )
    return model, points, arms, test_points


def model_and_data(config: Pinwheel) -> tuple[VAE, Tensor]:
    model, points, _, _ = build(config)
    return model, points


@torch.no_grad()
def draw(model: VAE, points: Tensor, arms: Tensor, folder: RunFolder) -> None:
    prior = model.prior()
    encoding = model.encode(points)
    drawn = prior.sample((len(points),))
    nearest = torch.cdist(drawn, encoding.loc).argmin(1)
    figures.scatters(
        {
            "data": (points, arms),
            "reconstruction": (model.decode(encoding.loc).mean, arms),
            "decoded draws from p(z)": (model.decode(drawn).mean, arms[nearest]),
        },
        folder.figures / "data.png",
    )
    aggregate = aggregate_panel("q(z), encodings by arm", encoding, arms)
    panels = [figures.Panel("p(z)", prior.log_prob), figures.Panel("q(z)", aggregate.log_prob), aggregate]
    figures.densities(panels[:1], folder.figures / "prior.png")
    figures.densities(panels, folder.figures / "aggregate.png")
    figures.training_curves(folder.rows(), folder.figures / "training.png")


def aggregate_panel(title: str, encoding: Encoding, arms: Tensor) -> figures.Panel:
    """The density q(z), with the means of the encodings coloured by arm."""
    aggregate = DiagonalGaussianMixture(encoding.loc, encoding.scale)
    return figures.Panel(title, aggregate.log_prob, encoding.loc, arms)


def compare(config: Pinwheel) -> dict[str, Any]:
    """Every setting over several seeds, and p(z) beside the q(z) of each setting's median inclusive KL."""
    folder = RunFolder(config)
    several = replace(config, compare=False)
    summaries = {}
    panels = [figures.Panel("p(z)", priors.GaussianMixture(config.prior)().log_prob)]
    for name, child in seeds.variants(several, SETTINGS, "0-2" if config.run.quick else "0-9").items():
        summaries[name] = summary = seeds.run(child, experiment)
        values = summary["inclusive_kl"]["values"]
        median = sorted(range(len(values)), key=values.__getitem__)[len(values) // 2]
        one = seeds.one_of(child.run, parse_seeds(child.run.seeds)[median])
        encoding, arms = encodings(replace(child, run=replace(one, resume=True)))
        panels.append(aggregate_panel(f"q(z), {name}, seed {one.seed}", encoding, arms))
    if ranks.is_first():
        figures.densities(panels, folder.figures / "aggregate.png")
        scales = {"inclusive_kl": "log", "arm_assignment": "linear"}
        figures.by_setting(summaries, scales, folder.figures / "seeds.png")
    folder.finish(summaries)
    return summaries


@torch.no_grad()
def encodings(config: Pinwheel) -> tuple[Encoding, Tensor]:
    """The training set's encodings by a finished run, and the arms."""
    torch.manual_seed(config.run.seed)
    model, points, arms, _ = build(config)
    state: Any = RunFolder(config).load_checkpoint()
    model.load_state_dict(state["model"])
    return model.encode(points), arms
