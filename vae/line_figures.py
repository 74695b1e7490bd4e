"""Figures of curves: one setting against another, with what was predicted; residuals; quantities over points."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vae.figures import COLOURS, _save


class Line(NamedTuple):
    """y against x, with error bars where given; dashed for what is predicted or known rather than measured."""

    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    dashed: bool = False
    colour: str | None = None


class Plot(NamedTuple):
    """One panel of lines by name; a name that begins with _ is not in its legend."""

    title: str
    xlabel: str
    ylabel: str
    lines: Mapping[str, Line]
    xscale: str = "linear"
    yscale: str = "linear"
    ylim: tuple[float | None, float | None] = (None, None)


def plots(panels: Sequence[Plot], path: Path, columns: int = 3) -> None:
    """The panels side by side, in rows of so many; the legend of one alone stands beside it."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width = 5.2 if len(panels) == 1 else 3.7 * columns
    figure = Figure(figsize=(width, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, ax in zip(panels, grid):
        free = cycle(COLOURS)
        for name, line in panel.lines.items():
            style = {
                "color": line.colour or next(free),
                "linewidth": 1.2,
                "linestyle": "--" if line.dashed else "-",
            }
            marker = "o" if not line.dashed and len(line.x) < 30 else None
            ax.errorbar(line.x, line.y, line.error, marker=marker, markersize=3, label=name, **style)
        ax.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
        ax.set(xscale=panel.xscale, yscale=panel.yscale, ylim=panel.ylim)
        ticks = sorted({x for line in panel.lines.values() for x in line.x})
        if panel.xscale == "log" and len(ticks) < 9:
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.xaxis.minorticks_off()
        ax.grid(linewidth=0.3)
        if len(panels) > 1:
            ax.legend(fontsize=7)
    if len(panels) == 1:
        figure.legend(loc="outside right upper", fontsize=7)
    for ax in grid[len(panels) :]:
        ax.set_visible(False)
    _save(figure, path)


def residuals(values: Mapping[str, Sequence[float]], bound: float, path: Path) -> None:
    """Positive numbers by name on a logarithmic axis, one dot each, and the bound."""
    figure = Figure(figsize=(8, 0.24 * len(values) + 0.9), layout="constrained")
    ax = figure.subplots()
    least = bound * 1e-8
    for row, numbers in enumerate(values.values()):
        shown = [max(number, least) for number in numbers]
        colour = COLOURS[0] if max(numbers) < bound else COLOURS[1]
        ax.plot(shown, [row] * len(shown), "o", color=colour, markersize=3, alpha=0.6)
    ax.axvline(bound, color="black", linewidth=0.8)
    ax.set_yticks(range(len(values)), list(values), fontsize=8)
    ax.set(xscale="log", xlabel="difference between the two sides", ylim=(len(values) - 0.5, -0.5))
    ax.grid(axis="x", linewidth=0.3)
    _save(figure, path)


def shares(maps: Mapping[str, tuple[Tensor, Tensor, int]], path: Path) -> None:
    """Points in the plane [n, 2] by the logarithm of their share [n] of something, one panel for each name; the point
    of the index given is ringed."""
    figure = Figure(figsize=(2.9 * len(maps) + 0.8, 3.1), layout="constrained")
    axes = figure.subplots(1, len(maps), sharex=True, sharey=True, squeeze=False)[0]
    for (name, (points, share, own)), ax in zip(maps.items(), axes, strict=True):
        order = share.argsort()
        colours = share.clamp_min(1e-4).log10()[order].tolist()
        image = ax.scatter(
            *points[order].T.tolist(), c=colours, s=7, vmin=-4, vmax=0, cmap="viridis_r", linewidths=0
        )
        ax.plot(*points[own].tolist(), "o", markersize=11, markerfacecolor="none", color=COLOURS[1])
        ax.set(title=name, xlabel="$x_1$", aspect="equal")
    axes[0].set_ylabel("$x_2$")
    bar = figure.colorbar(image, ax=axes, label="share of one z", shrink=0.9)
    bar.set_ticks(range(-4, 1), labels=["$\\leq 10^{-4}$", *(f"$10^{{{k}}}$" for k in range(-3, 0)), "1"])
    _save(figure, path)


def quantile_line(values: Tensor) -> Line:
    """Sorted values against the share of them that lies below."""
    steps = torch.linspace(0.005, 0.995, 199, dtype=values.dtype)
    return Line(steps.tolist(), values.quantile(steps).tolist())
