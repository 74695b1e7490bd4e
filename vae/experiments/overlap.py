"""Overlap (appendix D): encoders of the same mutual information that overlap in entirely different ways.

I(x;z) does not say how many other data points an encoding meets, nor whether they are alike. Beside it stand, for draws
z of an encoding, the perplexity and the collision count of the responsibilities, and how far in data space the points
are that share z.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae import line_figures, seeds, tables
from vae.data.pinwheel import pinwheel
from vae.experiments import finished
from vae.line_figures import Line, Plot
from vae.overlap import BallAndPrior, Encoder, Gaussian, Multimodal, Statistics, matched, measure
from vae.run import RunError, RunFolder, RunOptions
from vae.tables import Table


@dataclass(frozen=True)
class Overlap:
    """Encoders of equal mutual information I(x;z), and how many data points share one z under each."""

    model: str = ""
    """Run folder of vae pinwheel, fashion or shapes, whose trained encoder is looked at; else the pinwheel's points
    are their own encodings."""
    num_points: int = 400
    """Data points n."""
    information: tuple[float, ...] = (2.0, 4.0)
    """Values of I(x;z), in nats, at which encoders are compared; with --model it is that of the trained encoder."""
    modes: int = 1000
    """Places M that the multimodal encoder is in at once."""
    radius: float = 0.003
    """Radius of the ball, in standard deviations of the encodings."""
    draws: int = 4
    """Draws from each encoding."""
    run: RunOptions = field(default_factory=lambda: RunOptions(Path("runs/overlap")))

    presets: ClassVar[dict[str, dict[str, Any]]] = {"quick": {"modes": 100, "draws": 2}}

    def __post_init__(self) -> None:
        for name, least in (("num_points", 3), ("modes", 1), ("draws", 2)):
            if getattr(self, name) < least:
                raise RunError(f"--{name.replace('_', '-')} {getattr(self, name)} must be {least} or more")
        if not self.radius > 0:
            raise RunError(f"--radius {self.radius} must be positive")
        highest = math.log(self.num_points)
        if not self.information or not all(0 < value < highest for value in self.information):
            raise RunError(
                f"--information {' '.join(map(str, self.information))} must be between 0 and the logarithm of "
                f"--num-points, {highest:.2f}"
            )


class Setting(NamedTuple):
    """Data points x [n, features], where they are encoded, the prior, and the trained encoder if there is one."""

    x: Tensor
    loc: Tensor
    prior: Distribution
    trained: Gaussian | None

    @property
    def size(self) -> float:
        """The standard deviation of the encodings, over all dimensions."""
        return self.loc.var(0).mean().sqrt().item()


COLUMNS = ("mutual_information", "perplexity_mean", "perplexity_q10", "perplexity_q50", "perplexity_q90",
           "collision_count_mean", "collision_count_q50", "distance", "spread")  # fmt: skip


def main(config: Overlap) -> None:
    seeds.run(config, experiment)
    if not config.run.seeds:
        print((config.run.out / "overlap.md").read_text())
    print(f"{config.run.out.resolve()}: summary.json, overlap.md, figures/")


def experiment(config: Overlap, folder: RunFolder, fabric: Fabric) -> dict[str, float]:
    setting = encoded(config)
    compared = dict(matched_encoders(config, setting))
    statistics = {
        information: {name: measure(encoder, setting.x, config.draws) for name, encoder in encoders.items()}
        for information, encoders in compared.items()
    }
    rows: list[list[str]] = []
    summary: dict[str, float] = {}
    for information, found in statistics.items():
        for name, one in found.items():
            numbers = one.summary()
            rows.append([f"{name}, I = {information:.3g}", *(f"{numbers[column]:.3g}" for column in COLUMNS)])
            summary |= {f"{name}, I = {information:.3g}: {key}": value for key, value in numbers.items()}
    chance = torch.cdist(setting.x, setting.x).mean().item()
    header = ["encoder", *(column.replace("_", " ") for column in COLUMNS)]
    title = f"Encoders of n = {config.num_points} points that share the same mutual information"
    tables.write(folder.path / "overlap.md", {title: Table(header, rows)})
    draw(config, setting, statistics, folder)
    if setting.x.shape[1] == 2:
        line_figures.shares(shared_points(setting, compared[min(compared)]), folder.figures / "shares.png")
    return summary | {"distance_of_any_two": chance}


def encoded(config: Overlap) -> Setting:
    if not config.model:
        points, _ = pinwheel(config.num_points)
        return Setting(points, points, as_wide_as(points), None)
    _, model, data = finished.load(config.model)
    data = data[: config.num_points]
    if len(data) < config.num_points:
        raise RunError(f"--num-points {config.num_points} are more than the {len(data)} of the model's data")
    with torch.no_grad():
        encoding, prior = model.encode(data), model.prior()
    return Setting(data.flatten(1), encoding.loc, prior, Gaussian(encoding.loc, encoding.scale))


def as_wide_as(loc: Tensor) -> Distribution:
    """The prior of encodings that no model has made: N(0, s² I), with their standard deviation s."""
    scale = loc.var(0).mean().sqrt().expand(loc.shape[1])
    return Independent(Normal(torch.zeros_like(scale), scale), 1)


def families(
    config: Overlap, setting: Setting
) -> Mapping[str, tuple[Callable[[float], Encoder], float, float]]:
    """By name: an encoder for each value of its setting, and the range of that."""
    loc, size, dims = setting.loc, setting.size, setting.loc.shape[1]
    offsets = size * torch.randn(config.modes, dims)
    scale = size * loc.new_ones(())
    return {
        "Gaussian": (lambda sigma: Gaussian(loc, sigma * scale), 1e-4, 1e3),
        "ball and prior": (
            lambda share: BallAndPrior(loc, config.radius * size, share, setting.prior),
            1e-4,
            0.9999,
        ),
        "modes mixed": (lambda sigma: Multimodal(loc, offsets, sigma * scale), 1e-5, 1e3),
    }


def matched_encoders(config: Overlap, setting: Setting) -> Iterator[tuple[float, dict[str, Encoder]]]:
    """For each I(x;z), encoders that have it: of every family, and one whose modes are too far apart to meet, so that
    it takes the Gaussian's scale."""
    values = config.information
    if setting.trained:
        values = (measure(setting.trained, setting.x, config.draws).mutual_information,)
    kinds = families(config, setting)
    extent = (setting.loc.amax(0) - setting.loc.amin(0)).norm() + 30 * setting.size
    apart = torch.zeros(config.modes, setting.loc.shape[1])
    apart[:, 0] = extent * torch.arange(config.modes)
    for information in values:
        encoders: dict[str, Any] = {"trained": setting.trained} if setting.trained else {}
        settings = {}
        for name, (make, low, high) in kinds.items():
            settings[name] = matched(make, setting.x, information, low, high)
            encoders[name] = make(settings[name])
        encoders["modes apart"] = Multimodal(
            setting.loc.double(), apart.double(), encoders["Gaussian"].scale.double()
        )
        yield information, encoders


def draw(
    config: Overlap, setting: Setting, statistics: Mapping[float, Mapping[str, Statistics]], folder: RunFolder
) -> None:
    n = config.num_points
    reached, crowds = {}, {}
    for name, (make, _, _) in families(config, setting).items():
        if name == "ball and prior":
            values = torch.linspace(0.01, 0.99, 15).tolist()
        else:
            values = torch.logspace(-3, 1, 15).tolist()
        found = [measure(make(value), setting.x, draws=1) for value in values]
        information = [one.mutual_information for one in found]
        reached[name] = Line(values, information)
        crowds[name] = Line(information, [one.perplexity.mean().item() for one in found])
    shares = reached["ball and prior"].x
    limit = [share * math.log(n) for share in shares]
    balls = {
        "ball and prior": reached.pop("ball and prior"),
        "λ log n": Line(shares, limit, dashed=True, colour="k"),
    }
    grid = torch.linspace(0, math.log(n), 50).tolist()
    crowds["n exp(−I)"] = Line(grid, [n * math.exp(-value) for value in grid], dashed=True, colour="grey")
    axis = "I(x;z), nats"
    panels = [
        Plot("any I by the share of the ball", "λ", axis, balls),
        Plot("any I by the scale", "σ, in that of the encodings", axis, reached, xscale="log"),
        Plot(
            "how many share a z, on average",
            axis,
            "mean perplexity",
            crowds,
            yscale="log",
            ylim=(0.8, 2 * n),
        ),
    ]
    for value, measured in statistics.items():
        lines = {name: line_figures.quantile_line(one.perplexity) for name, one in measured.items()}
        title = f"how many share a z, I = {value:.3g}"
        panels.append(Plot(title, "share of the draws", "perplexity", lines, yscale="log"))
        lines = {name: line_figures.quantile_line(one.distance) for name, one in measured.items()}
        panels.append(
            Plot(
                f"how far apart they are, I = {value:.3g}",
                "share of the draws",
                "distance in data space",
                lines,
            )
        )
    line_figures.plots(panels, folder.figures / "overlap.png")


def shared_points(
    setting: Setting, encoders: Mapping[str, Encoder], own: int = 0
) -> Mapping[str, tuple[Tensor, Tensor, int]]:
    """For one draw z from the encoding of one point, the share of it that each point has: the draw of median
    perplexity among 51, since draws differ."""
    maps = {}
    for name, encoder in encoders.items():
        shares = encoder.log_prob(encoder.sample(torch.full((51,), own))).softmax(1)
        median = shares.square().sum(1).argsort()[25]
        maps[name] = setting.x, shares[median], own
    return maps
