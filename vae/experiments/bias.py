"""The bias study (appendix C): what minibatches do to estimates of KL(q(z)‖p(z)), measured and in training.

On encodings with a known answer every estimator is held against what is predicted of it; then its bias against the
batch size, the dimension and the size of the data set, other divergences, and networks trained with one estimator or
another.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning_fabric import Fabric
from torch.distributions import Distribution

from vae import estimators, line_figures, seeds, tables
from vae.estimators import ESTIMATORS, Encodings
from vae.experiments import bias_report, finished, regularised
from vae.experiments.regularised import OBJECTIVES, Regularised
from vae.line_figures import Line, Plot
from vae.run import RunError, RunFolder, RunOptions


@dataclass(frozen=True)
class Bias:
    """Estimators of the aggregate posterior: their bias against batch size, and in training beside the β-VAE."""

    model: str = ""
    """Run folder of vae pinwheel, fashion or shapes whose encodings are measured; else of the last training here."""
    num_points: int = 2048
    """Data points n of the constructed encodings."""
    latent_dim: int = 10
    batch_size: int = 64
    """Batch size of the training and of all that is measured at one size."""
    repeats: int = 200
    """Minibatches at the most, for each measurement."""
    data_set: Literal["pinwheel", "fashion"] = "fashion"
    """What is trained on."""
    train_points: int = 4096
    """Data points of the training."""
    weights: tuple[float, ...] = (50.0, 100.0, 200.0)
    """Weights of KL(q(z)‖p(z)) in training."""
    epochs: int = 20
    lr: float = 1e-3
    """Adam's learning rate."""
    data: str = ""
    """Folder of Fashion-MNIST's four files; else that in VAE_DATA, else that of Debian's dataset-fashion-mnist."""
    run: RunOptions = field(default_factory=lambda: RunOptions(Path("runs/bias")))

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {
            "num_points": 512,
            "repeats": 40,
            "data_set": "pinwheel",
            "train_points": 512,
            "weights": (1.0,),
            "epochs": 15,
        }
    }

    def __post_init__(self) -> None:
        for name, least in (
            ("num_points", 64),
            ("latent_dim", 1),
            ("batch_size", 2),
            ("repeats", 2),
            ("epochs", 2),
        ):
            if getattr(self, name) < least:
                raise RunError(f"--{name.replace('_', '-')} {getattr(self, name)} must be {least} or more")
        if self.batch_size > min(self.num_points, self.train_points):
            raise RunError(f"--batch-size {self.batch_size} is more than --num-points or --train-points")
        if self.train_points % self.batch_size == 1:
            raise RunError(
                f"--batch-size {self.batch_size} leaves one of --train-points {self.train_points} over, of which no "
                "estimator makes anything: give another"
            )
        if not self.weights or min(self.weights) <= 0 or self.lr <= 0:
            raise RunError("--weights and --lr must be positive")


def main(config: Bias) -> None:
    seeds.run(config, experiment)
    if not config.run.seeds:
        print((config.run.out / "bias.md").read_text())
    print(f"{config.run.out.resolve()}: summary.json, bias.md, figures/")


def experiment(config: Bias, folder: RunFolder, fabric: Fabric) -> dict[str, float]:
    size, dims = 8, config.latent_dim
    prior = estimators.standard_normal(dims)
    count = config.num_points // size
    constructed = {
        f"{count} clusters of {size}": estimators.clusters(count, size, dims),
        "Gaussian, σ = 0.3": estimators.gaussian_encodings(config.num_points, dims, 0.3),
        "Gaussian, σ = 0.7": estimators.gaussian_encodings(config.num_points, dims, 0.7),
    }
    studies = {
        name: estimators.study(encodings, prior, config.repeats) for name, encodings in constructed.items()
    }
    predicted = {
        (name, batch_size): math.log(count) - estimators.expected_excess(name, count, size, batch_size)
        for name, batch_size in product(ESTIMATORS, estimators.batch_sizes(count * size))
    }
    skew = estimators.second_term(
        constructed["Gaussian, σ = 0.3"], config.batch_size, max(2, config.repeats // 20)
    )
    growth = {name: grow(config, scale) for name, scale in GROWTH.items()}
    divergences = other_divergences(constructed["Gaussian, σ = 0.7"], prior, config)
    ratios = signal_to_noise(config)
    trained = train(config, folder, fabric)
    name, encodings, prior = trained_encodings(config, folder)
    studies[name] = estimators.study(encodings, prior, config.repeats)

    bias_report.draw(folder, studies, predicted, growth, skew, trained, config.batch_size)
    line_figures.plots([*divergences.values(), *ratios], folder.figures / "divergences.png")
    tables.write(folder.path / "bias.md", bias_report.report(studies, predicted, trained))
    return bias_report.summary(studies, growth, skew, trained, config.batch_size)


GROWTH: dict[str, Callable[[int], float]] = {
    "I = 4": lambda dims: math.exp(-4 / dims),
    "σ = 0.3": lambda dims: 0.3,
}
"""Scales of Gaussian encodings by their dimension: such that all tell 4 nats of x, or the same for all. Those tell more
the larger D is, until none overlap, not even over the data set, and no bias is left."""


def grow(config: Bias, scale: Callable[[int], float]) -> dict[tuple[int, int], float]:
    """The bias by eq 11b at the one batch size, by (D, n)."""
    found = {}
    sizes = [4**k for k in range(4, 8) if config.batch_size < 4**k <= 8 * config.num_points]
    for dims, n in product((1, 2, 5, 10, 20, 50), sizes):
        encodings = estimators.gaussian_encodings(n, dims, scale(dims))
        repeats = max(2, config.repeats // 4)
        estimate = estimators.kl_estimates(
            encodings, estimators.standard_normal(dims), config.batch_size, repeats, 0.0, ("hfvae",)
        )
        found[dims, n] = estimate["hfvae"].bias
    return found


def other_divergences(encodings: Encodings, prior: Distribution, config: Bias) -> dict[str, Plot]:
    """Divergences from batches of both, against the batch size: which have a bias?"""
    truth = estimators.nested_truth(encodings, prior, 16_384)
    sizes = [4, 16, 64, 256]
    found = [
        estimators.nested(encodings, prior, size, max(4, min(1000, 4 * config.repeats * 16 // size)))
        for size in sizes
    ]
    plots = {}
    for name, value in truth.items():
        means = [batch[name].mean().item() for batch in found]
        errors = [(2 * batch[name].std() / math.sqrt(len(batch[name]))).item() for batch in found]
        known = Line([sizes[0], sizes[-1]], [value, value], dashed=True, colour="k")
        plots[name] = Plot(
            name,
            "batch size",
            "mean ± 2 standard errors",
            {"estimate": Line(sizes, means, errors), "truth": known},
            xscale="log",
        )
    return plots


def signal_to_noise(config: Bias) -> list[Plot]:
    """Of the gradient of an MMD, whole-vector and dimension-wise, against the dimension and the batch size."""
    repeats, size = max(10, config.repeats // 2), config.batch_size
    dims, sizes = [1, 2, 5, 10, 20, 50], [16, 32, 64, 128, 256]
    found = {
        (f"all of D dimensions off, B = {size}", "D"): (dims, [(d, d, size) for d in dims]),
        (f"one of D dimensions off, B = {size}", "D"): (dims, [(d, 1, size) for d in dims]),
        ("one of 50 dimensions off", "batch size"): (sizes, [(50, 1, size) for size in sizes]),
    }
    plots = []
    for (title, xlabel), (x, cases) in found.items():
        ratios = [estimators.gradient_to_noise(*case, repeats) for case in cases]
        lines = {name: Line(x, [one[name] for one in ratios]) for name in estimators.MMDS}
        plots.append(Plot(title, xlabel, "signal / noise of the gradient", lines, xscale="log"))
    return plots


def train(config: Bias, folder: RunFolder, fabric: Fabric) -> dict[tuple[str, float], dict[str, float]]:
    """Summaries by (objective, weight); each is a run in a folder of its own."""
    found = {}
    for weight, objective in product(config.weights, OBJECTIVES):
        run = replace(
            config.run,
            out=folder.path / "training" / f"{objective.replace(' ', '-')}-{weight:g}",
            resume=True,
        )
        found[objective, weight] = seeds.run(child(config, objective, weight, run), regularised.experiment)
    return found


def child(config: Bias, objective: Any, weight: float, run: RunOptions) -> Regularised:
    return Regularised(
        objective=objective,
        weight=weight,
        data_set=config.data_set,
        num_points=config.train_points,
        batch_size=config.batch_size,
        latent_dim=config.latent_dim if config.data_set == "fashion" else 2,
        epochs=config.epochs,
        lr=config.lr,
        data=config.data,
        run=run,
    )


def trained_encodings(config: Bias, folder: RunFolder) -> tuple[str, Encodings, Distribution]:
    """Of the run folder given, else of the training by the bank with the middle weight."""
    if config.model:
        name, model, data = finished.load(config.model)
        data = data[: config.train_points]
    else:
        name, weight = "trained with a bank", sorted(config.weights)[len(config.weights) // 2]
        out = folder.path / "training" / f"bank-{weight:g}"
        model, data = regularised.trained(child(config, "bank", weight, replace(config.run, out=out)))
    with torch.no_grad():
        loc, scale, _ = model.encode(data)
    return name, Encodings(loc, scale), model.prior()
