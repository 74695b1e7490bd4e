"""Figures of densities and points in the plane, of images and encodings, training curves, and comparisons."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's: told apart with any colour vision."""


class Panel(NamedTuple):
    """One map of a density, with points on it where given, coloured by label."""

    title: str
    log_prob: Callable[[Tensor], Tensor]
    points: Tensor | None = None
    labels: Tensor | None = None


def densities(
    panels: Sequence[Panel],
    path: Path,
    extent: float = 2.5,
    resolution: int = 300,
    top: float | None = None,
) -> None:
    """The panels side by side over [−extent, extent]², on a colour scale to `top`, else to the first one's maximum."""
    figure = Figure(figsize=(3.1 * len(panels) + 0.7, 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    ticks = torch.linspace(-extent, extent, resolution)
    grid = torch.cartesian_prod(ticks, ticks)
    for panel, ax in zip(panels, axes, strict=True):
        with torch.no_grad():
            density = panel.log_prob(grid).exp().view(resolution, resolution).T
        top = top or density.max().item()
        image = ax.imshow(
            density.numpy(), origin="lower", extent=(-extent, extent) * 2, vmin=0, vmax=top, cmap="Greys"
        )
        if panel.points is not None and panel.labels is not None:
            _scatter(ax, panel.points, panel.labels)
        ax.set(title=panel.title, xlabel="$z_1$", xlim=(-extent, extent), ylim=(-extent, extent))
    axes[0].set_ylabel("$z_2$")
    figure.colorbar(image, ax=axes, label="density", extend="max", shrink=0.9)
    _save(figure, path)


def scatters(panels: Mapping[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """Labelled points in the plane, by title, side by side in the first one's limits."""
    figure = Figure(figsize=(3.1 * len(panels), 3.7), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    limit = 1.1 * next(iter(panels.values()))[0].abs().max().item()
    for (title, (points, labels)), ax in zip(panels.items(), axes, strict=True):
        _scatter(ax, points, labels)
        ax.set(title=title, xlabel="$x_1$", xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes[0].set_ylabel("$x_2$")
    _save(figure, path)


def images(
    mosaic: Tensor, path: Path, row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()
) -> None:
    """Grey images in [0, 1], [rows, columns, height, width], as a table."""
    rows, columns, height, width = mosaic.shape
    figure = Figure(figsize=(0.55 * columns + 1.0, 0.55 * rows + 0.3), layout="constrained")
    ax = figure.subplots()
    padded = torch.nn.functional.pad(mosaic, (1, 1, 1, 1), value=1.0)
    picture = padded.permute(0, 2, 1, 3).reshape(rows * (height + 2), columns * (width + 2))
    ax.imshow(picture.numpy(), cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    ax.set_yticks([(row + 0.5) * (height + 2) for row in range(len(row_labels))], row_labels)
    ax.set_xticks([(column + 0.5) * (width + 2) for column in range(len(column_labels))], column_labels)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=8)
    ax.spines[:].set_visible(False)
    _save(figure, path)


def magnitudes(means: Tensor, names: Sequence[str], path: Path) -> None:
    """Bars of [classes, D], one row for each class: Figure 7 of the paper."""
    figure = Figure(figsize=(7.5, 0.75 * len(names) + 0.6), layout="constrained")
    for values, name, colour, ax in zip(
        means, names, cycle(COLOURS), figure.subplots(len(names), 1, sharex=True, sharey=True)
    ):
        ax.bar(range(len(values)), values.tolist(), color=colour)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
        ax.margins(x=0.01)
    ax.set(xlabel="dimension", ylim=(0, 1.05 * means.max().item()))
    _save(figure, path)


def against(
    series: Mapping[str, Mapping[float, Mapping[str, Any]]],
    metrics: Mapping[str, str | None],
    xlabel: str,
    path: Path,
) -> None:
    """Means with intervals over seeds against a setting, one panel for each metric and one line for each series.

    A metric may name another of the summary that is drawn beside it, dashed, as its reference.
    """
    figure = Figure(figsize=(3.6 * len(metrics), 3.2), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    values = [f"{value:g}" for value in next(iter(series.values()))]
    for (metric, reference), ax in zip(metrics.items(), axes, strict=True):
        for (name, summaries), colour in zip(series.items(), cycle(COLOURS)):
            found = [summary[metric] for summary in summaries.values()]
            means, half_widths = ([one[part] for one in found] for part in ("mean", "half_width"))
            ax.errorbar(
                range(len(values)), means, half_widths, label=name, color=colour, marker="o", capsize=3
            )
            if reference:
                beside = [summary[reference]["mean"] for summary in summaries.values()]
                ax.plot(range(len(values)), beside, "--", color=colour, linewidth=1)
        ax.set(title=_words(metric), xlabel=xlabel)
        ax.set_xticks(range(len(values)), values)  # equally spaced: 0 has no place on a logarithmic axis
        ax.grid(axis="y", linewidth=0.4)
    axes[0].legend()
    _save(figure, path)


def tradeoff(
    series: Mapping[str, Mapping[float, tuple[Mapping[str, Any], Mapping[str, Any]]]],
    labels: tuple[str, str],
    point: str,
    path: Path,
) -> None:
    """Two metrics against each other, means with intervals over seeds of both: Figure 2 of the paper.

    series: name -> setting -> (metric on the x axis, on the y axis, a share of 1). A line joins the points of a
    series, each of which tells its setting, which `point` is the name of. Intervals wider than the axes are cut off.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax = figure.subplots()
    for (name, points), colour, marker in zip(series.items(), cycle(COLOURS), cycle("osD^vP")):
        points = dict(sorted(points.items()))
        x, y = ([both[axis]["mean"] for both in points.values()] for axis in (0, 1))
        dx, dy = ([both[axis]["half_width"] for both in points.values()] for axis in (0, 1))
        style: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": 4,
            "capsize": 2,
            "linewidth": 1,
        }
        ax.errorbar(x, y, dy, dx, label=name, **style)
        for setting, place in zip(points, zip(x, y)):
            text = f"{setting:g}"
            ax.annotate(text, place, (4, 4), textcoords="offset points", fontsize=7, color=colour)
    found = [both[0]["mean"] for points in series.values() for both in points.values()]
    margin = 0.25 * (max(found) - min(found)) + 1e-9
    ax.set(xlabel=labels[0], ylabel=labels[1], xlim=(min(found) - margin, max(found) + margin), ylim=(0, 1))
    ax.grid(linewidth=0.4)
    ax.legend(fontsize=8, title=f"numbers: {point}", title_fontsize=8)
    _save(figure, path)


def training_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Every column of the metrics against the epoch, but a term that an objective lacks, which is always 0."""
    names = [name for name in rows[0] if name != "epoch" and any(row[name] != 0 for row in rows)]
    figure = Figure(figsize=(2.6 * len(names), 2.4), layout="constrained")
    for name, ax in zip(names, figure.subplots(1, len(names)), strict=True):
        ax.plot([row["epoch"] for row in rows], [row[name] for row in rows], color=COLOURS[0], linewidth=1)
        ax.set(title=_words(name), xlabel="epoch")
    _save(figure, path)


def by_setting(summaries: Mapping[str, Mapping[str, Any]], scales: Mapping[str, str], path: Path) -> None:
    """One dot per seed, one column per setting, for each metric of `scales` on its "linear" or "log" axis."""
    figure = Figure(figsize=(3.4 * len(scales), 3.2), layout="constrained")
    axes = figure.subplots(1, len(scales), squeeze=False)[0]
    for (metric, scale), ax in zip(scales.items(), axes, strict=True):
        for column, (summary, colour) in enumerate(zip(summaries.values(), cycle(COLOURS))):
            values = summary[metric]["values"]
            offsets = torch.linspace(-0.15, 0.15, len(values))
            ax.plot(column + offsets, values, "o", color=colour, markersize=4, alpha=0.8)
        ax.set(title=_words(metric), yscale=scale, xlim=(-0.5, len(summaries) - 0.5))
        ax.set_xticks(range(len(summaries)), [name.replace(" ", "\n") for name in summaries])
        ax.grid(axis="y", linewidth=0.4)
    _save(figure, path)


def _scatter(ax: Axes, points: Tensor, labels: Tensor) -> None:
    for label, colour in zip(labels.unique().tolist(), cycle(COLOURS)):
        x, y = points[labels == label].T.tolist()
        ax.scatter(x, y, s=4, color=colour, linewidths=0, alpha=0.8)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("kl", "KL").replace("hoyer", "Hoyer")


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=200)
