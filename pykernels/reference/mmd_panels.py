"""Measures on the line, compressed to few nodes, and sums of Cauchy kernels over the nodes.

A panel [j h, (j + 1) h) that holds many points is replaced by its p Chebyshev nodes: interpolating the kernel
there in both arguments is the same as moving every point's mass to the nodes, by the Lagrange polynomials' values.
The error of that follows from the kernel's poles at +-i sqrt(s): for every distance, and in exact arithmetic,

    |error of kappa| / kappa(0) <= (2 / L) sum_l 1 / sinh(p asinh(2 sqrt(s_l) / h)).

It is sharp, so width and order are chosen by it with no margin. A panel of few points keeps them as they are.
Positions are pairs (j, offset in the panel), so that differences are accurate however far from the origin.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .recomputing import recomputed

TILE_ELEMENTS = 1 << 18  # of one temporary: small enough to stay in cache
ORDERS = (8, 16)  # nodes per panel, for which there are kernels
MOST_SHARED_NODES = 2048
_FARTHEST = 2.0**52  # in panels: beyond, positions in a panel mean nothing
_LARGEST = 1e150  # whose square is finite
_SUMMED_AT_ONCE = 64


class Rule(NamedTuple):
    """Width of the panels, a power of two, and nodes in each."""

    width: float
    order: int


def panel_bound(scales: Sequence[float], rule: Rule) -> float:
    """The module's bound on the kernel's error over kappa(0)."""
    exponents = (rule.order * math.asinh(2 * math.sqrt(scale) / rule.width) for scale in scales)
    return sum(0.0 if e > 700 else 1 / math.sinh(e) for e in exponents) * 2 / len(scales)


@functools.lru_cache(64)
def panel_rule(scales: tuple[float, ...], tolerance: float) -> Rule | None:
    """The rule of fewest nodes that keeps the tolerance; None where no width is a normal number."""
    if not all(0 < scale < math.inf for scale in scales):
        return None
    rules = []
    for order in ORDERS:
        exponent = math.frexp(math.sqrt(min(scales)))[1] + 4
        while panel_bound(scales, Rule(math.ldexp(1.0, exponent), order)) > tolerance:
            exponent -= 1
        rules.append(Rule(math.ldexp(1.0, exponent), order))
    return min(rules, key=lambda rule: (rule.order / rule.width, rule.order))


class Nodes(NamedTuple):
    """N nodes, shared by C columns of M points."""

    panel: Tensor  # [N], whole numbers
    offset: Tensor  # [N], from the panel's left edge
    start: Tensor  # [C, M]: the first node of each point
    xi: Tensor  # [C, M]: the place of each point in its panel, from -1 to 1
    raw: Tensor | None  # [C, M]: which points are nodes themselves; None: none are
    rule: Rule

    def spread(self, masses: Tensor) -> Tensor:
        """Masses of points, [R, C, M], moved to the nodes: [N, R, C]."""
        sets, columns, points = masses.shape
        result = masses.new_zeros(sets, columns, len(self.panel))
        for part in self._parts(points):
            slots, basis = self._basis(part)
            moved = (masses[..., part, None] * basis).flatten(2)
            result = result.scatter_add(2, slots.flatten(1).expand(sets, -1, -1), moved)
        return result.permute(2, 0, 1)

    def evaluate(self, fields: Tensor) -> Tensor:
        """Fields at the nodes, [N, R, C], interpolated at the points: [R, C, M]."""
        sets, points = fields.shape[1], self.start.shape[1]
        fields, results = fields.permute(1, 2, 0), []
        for part in self._parts(points):
            slots, basis = self._basis(part)
            values = fields.gather(2, slots.flatten(1).expand(sets, -1, -1)).view(sets, *slots.shape)
            results.append((values * basis).sum(-1))
        return torch.cat(results, -1)

    def _basis(self, part: slice) -> tuple[Tensor, Tensor]:
        """The nodes of each point, and the Lagrange polynomials' values there: [C, points, order] each."""
        xi, order = self.xi[:, part], self.rule.order
        polynomials = [torch.ones_like(xi), xi]
        while len(polynomials) < order:
            polynomials.append(2 * xi * polynomials[-1] - polynomials[-2])
        basis = torch.stack(polynomials, -1) @ _lagrange(order, xi)
        if self.raw is not None:
            alone = torch.eye(1, order, dtype=xi.dtype, device=xi.device)
            basis = torch.where(self.raw[:, part, None], alone, basis)
        return self.start[:, part, None] + torch.arange(order, device=xi.device), basis

    def _parts(self, points: int) -> list[slice]:
        size = max(1, TILE_ELEMENTS // (self.rule.order * max(1, len(self.start))))
        return [slice(first, min(first + size, points)) for first in range(0, points, size)]


def shared_nodes(points: Tensor, rule: Rule, most: int = MOST_SHARED_NODES) -> Nodes | None:
    """All columns, [C, M], on the same panels, counted from each column's first; None if they were more than
    `most` nodes."""
    scaled = points.detach() / rule.width
    panel = scaled.floor()
    first = panel.amin(1, keepdim=True)
    span = (panel - first).max().item()
    if not (span + 1) * rule.order <= most or not first.abs().max() <= _FARTHEST:
        return None
    index = torch.arange(int(span) + 1, dtype=points.dtype, device=points.device)
    edges = _chebyshev(rule, points)
    return Nodes(
        panel=index.repeat_interleave(rule.order),
        offset=edges.repeat(len(index)),
        start=(panel - first).long() * rule.order,
        xi=2 * (points / rule.width - panel) - 1,
        raw=None,
        rule=rule,
    )


def occupied_nodes(points: Tensor, rule: Rule, least: float) -> Nodes:
    """One column, [M]: panels of at least `least` points by their Chebyshev nodes, all other points as they are."""
    order, width = rule.order, rule.width
    scaled = points.detach() / width
    near = scaled.abs() <= _FARTHEST
    key = torch.where(near, scaled.floor(), math.inf)
    ascending, permutation = key.sort(stable=True)
    is_first = torch.ones_like(near)
    is_first[1:] = ascending[1:] != ascending[:-1]
    run = is_first.cumsum(0) - 1
    count = torch.zeros_like(run).scatter_add(0, run, torch.ones_like(run))[run]
    dense = (count >= least) & ascending.isfinite()
    # The nodes come in the order of the points: `order` at the first point of a dense panel, else one each.
    room = torch.where(dense, is_first * order, 1)
    end = room.cumsum(0)
    own = torch.where(room > 0, end - room, 0).cummax(0).values
    start = torch.empty_like(own).scatter(0, permutation, own)
    raw = torch.empty_like(dense).scatter(0, permutation, ~dense)
    panel = torch.where(near, key, 0)
    total = int(end[-1]) + order - 1  # a last node that is a point has as many slots as any
    node_panel, node_offset = points.new_zeros(total), points.new_zeros(total)
    head = permutation[dense & is_first]
    slots = start[head, None] + torch.arange(order, device=points.device)
    node_panel[slots] = panel[head, None].expand(slots.shape)
    node_offset[slots] = _chebyshev(rule, points).expand(slots.shape)
    node_panel[start[raw]] = panel[raw]
    node_offset[start[raw]] = points[raw] - panel[raw] * width
    xi = torch.where(raw, 0, 2 * (points / width - panel) - 1)
    return Nodes(node_panel, node_offset, start[None], xi[None], raw[None], rule)


def kernel_sums(nodes: Nodes, kernels: Sequence[Callable[[Tensor], Tensor]], masses: Tensor) -> list[Tensor]:
    """For each kernel the sums over all nodes, sum_b kernel(z_a - z_b) masses[b], [N, R, C], in tiles of rows."""
    flat = masses.flatten(1)
    rows = max(1, TILE_ELEMENTS // len(nodes.panel))
    parts = [
        recomputed(
            _tile, nodes.panel, nodes.offset, nodes.rule.width, slice(first, first + rows), kernels, flat
        )
        for first in range(0, len(nodes.panel), rows)
    ]
    return [torch.cat(part).view(masses.shape) for part in zip(*parts)]


def _tile(
    panel: Tensor,
    offset: Tensor,
    width: float,
    rows: slice,
    kernels: Sequence[Callable[[Tensor], Tensor]],
    masses: Tensor,
) -> list[Tensor]:
    between = (panel[rows, None] - panel) * width + (offset[rows, None] - offset)
    between = between.clamp(-_LARGEST, _LARGEST)
    return [_product(kernel(between), masses) for kernel in kernels]


def _product(kernel: Tensor, masses: Tensor) -> Tensor:
    """kernel @ masses. BLAS splits long sums among its threads, so that bits would tell how many there are."""
    parts = zip(kernel.split(_SUMMED_AT_ONCE, 1), masses.split(_SUMMED_AT_ONCE))
    products: Tensor = sum(part @ mass for part, mass in parts)
    return products


def _chebyshev(rule: Rule, like: Tensor) -> Tensor:
    """The nodes of a panel, from its left edge."""
    return rule.width / 2 * (1 + like.new_tensor(_places(rule.order)))


def _places(order: int) -> list[float]:
    # As sines, so that they are symmetric to the last bit.
    return [math.sin(math.pi * (order - 1 - 2 * a) / (2 * order)) for a in range(order)]


def _lagrange(order: int, like: Tensor) -> Tensor:
    """From the Chebyshev polynomials at a point to the Lagrange polynomials of the nodes, [k, a]."""
    rows = [
        [(2 - (k == 0)) / order * math.cos(math.pi * k * (2 * a + 1) / (2 * order)) for a in range(order)]
        for k in range(order)
    ]
    return like.new_tensor(rows)
