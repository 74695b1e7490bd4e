r"""Maximum mean discrepancy, dimension by dimension and of whole vectors (the specification's section 4).

Per dimension, with masses u of the points x and v of y (each summing to one), kappa(t) = sum_l s_l / (s_l + t^2),
and w = u - v, all sums over pairs of points being quadratic forms of the matrix K of kernels,

    biased   = w'Kw
    unbiased = w'Kw + c_u (u'Ku - kappa(0)) + c_v (v'Kv - kappa(0)),    c_u = sum u^2 / (1 - sum u^2),

which is 1 / (n - 1) for equal masses. This equals the usual three sums over pairs i != j, x and y, without their
cancellation: the result may be a millionth of kappa(0). By x_i the derivative is 2 u_i ((1 + c_u) K'u - K'v)(x_i).
Everything is computed in float64.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .mmd_panels import Nodes, Rule, kernel_sums, occupied_nodes, panel_rule, shared_nodes
from .recomputing import recomputed

DEFAULT_SCALES = (0.2, 0.4, 1.0, 2.0, 4.0, 10.0)
METHODS = ("auto", "direct", "panels")
TILE_ELEMENTS = 1 << 18  # of one [*batch, rows, columns, D] temporary
_TOLERANCE = {torch.float32: 1e-7, torch.float64: 2e-14}
_FEW_POINTS = 128  # for which the direct sums are as fast


def cauchy_mmd(
    x: Tensor,
    y: Tensor,
    scales: Sequence[float] | Tensor = DEFAULT_SCALES,
    *,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    unbiased: bool = True,
    method: str = "auto",
    tolerance: float | None = None,
) -> Tensor:
    """Equation 10, [*batch], differentiable by torch as often as one likes; by panels that is the derivative of
    the interpolated kernel."""
    scales = torch.as_tensor(scales, dtype=torch.float64)
    masses = normalise(x_weights), normalise(y_weights)
    problem = Problem.of(*align(x, y, *masses), unbiased)
    tolerance = tolerance or default_tolerance(x.dtype)
    values = [group.value(scales) for group in problem.groups(scales, method, tolerance)]
    return problem.total(values).to(x.dtype)


def mmd(
    x: Tensor,
    y: Tensor,
    kernel: str = "cauchy",
    scales: Sequence[float] | Tensor | None = None,
    unbiased: bool = True,
) -> Tensor:
    """MMD^2 of whole vectors, [*batch]: kernel sum_l s_l / (s_l + |x - y|^2) or sum_l exp(-|x - y|^2 / (2 s_l))."""
    if not isinstance(scales, Tensor):
        scales = torch.tensor(
            scales or default_vector_scales(x.shape[-1]), dtype=torch.float64, device=x.device
        )
    if unbiased:
        weights = [1 / (t.shape[-2] * (t.shape[-2] - 1)) for t in (x, y)]
        diagonals = [weight * t.shape[-2] * len(scales) for weight, t in zip(weights, (x, y))]
    else:
        weights, diagonals = [1 / t.shape[-2] ** 2 for t in (x, y)], [0, 0]
    points = [t.double() for t in (x, y)]
    if x.dtype != torch.float64:
        # Distances do not change when all points move: from where most are, float64 products tell float32 distances.
        center = points[1].detach().median(-2, keepdim=True).values
        points = [t - center for t in points]
    kernels = partial(sum_of_kernels, kernel=kernel, scales=scales, dtype=x.dtype)
    within = [weight * kernels(t) - diagonal for weight, diagonal, t in zip(weights, diagonals, points)]
    between = kernels(*points) / (x.shape[-2] * y.shape[-2])
    return (within[0] + within[1] - 2 * between).to(x.dtype)


def default_vector_scales(dims: int) -> list[float]:
    """Squared lengths that suit whole vectors of unit variance (Tolstikhin et al. 2018)."""
    return [2 * dims * factor for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)]


def default_tolerance(dtype: torch.dtype) -> float:
    return _TOLERANCE.get(dtype, _TOLERANCE[torch.float32])


def normalise(weights: Tensor | None) -> Tensor | None:
    """Masses that sum to one; in float64, because an excess of one over the other would count as a difference."""
    if weights is None:
        return None
    wide = weights.double()
    return wide / wide.sum(-1, keepdim=True)


def align(
    x: Tensor, y: Tensor, x_masses: Tensor | None, y_masses: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Views with equally many batch dimensions, before [n, D], [m, D], [n] and [m]."""
    masses = [t for t in (x_masses, y_masses) if t is not None]
    rank = max(x.dim() - 2, y.dim() - 2, *(t.dim() - 1 for t in masses), 0)

    def padded(t: Tensor, kept: int) -> Tensor:
        return t[(None,) * (rank + kept - t.dim())]

    u, v = (None if t is None else padded(t, 1) for t in (x_masses, y_masses))
    return padded(x, 2), padded(y, 2), u, v


def batch_shape(x: Tensor, y: Tensor, x_masses: Tensor | None, y_masses: Tensor | None) -> tuple[int, ...]:
    """The broadcast batch dimensions of aligned inputs."""
    masses = [t.shape[:-1] for t in (x_masses, y_masses) if t is not None]
    return tuple(torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], *masses))


def cauchy(t: Tensor, scales: Tensor, derivative: int) -> Tensor:
    """kappa(t) or its first or second derivative."""
    q, result = t.square(), t.new_zeros(())
    for scale in scales:
        r = 1 / (scale + q)
        if derivative == 0:
            result = result + scale * r
        elif derivative == 1:
            result = result - 2 * scale * (t * r) * r
        else:
            result = result + 2 * scale * r * r * (4 * (q * r) - 1)
    return result


class Group(NamedTuple):
    """Dimensions that share nodes: C columns of n + m points, with signed masses at the nodes."""

    columns: slice
    nodes: Nodes
    masses: Tensor  # [2, C, n + m]: u on the points x, v on the points y
    excess: Tensor  # [2, C]: c_u and c_v, or 0 for the biased estimate
    n: int

    def compressed(self) -> Tensor:
        """w and u at the nodes, [N, 2, C]."""
        u, v = self.masses
        return self.nodes.spread(torch.stack([u - v, u]))

    def value(self, scales: Tensor) -> Tensor:
        w_and_u = self.compressed()
        (sums,) = kernel_sums(self.nodes, [partial(cauchy, scales=scales, derivative=0)], w_and_u)
        return self.value_of(w_and_u, sums, len(scales))

    def quadratic_forms(self, w_and_u: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """w'Kw, u'Ku and v'Kv, [C] each."""
        (w, u), (of_w, of_u) = w_and_u.unbind(1), sums.unbind(1)
        difference, within = (w * of_w).sum(0), (u * of_u).sum(0)
        return difference, within, within - 2 * (u * of_w).sum(0) + difference

    def value_of(self, w_and_u: Tensor, sums: Tensor, kappa_0: float) -> Tensor:
        difference, of_x, of_y = self.quadratic_forms(w_and_u, sums)
        return difference + self.excess[0] * (of_x - kappa_0) + self.excess[1] * (of_y - kappa_0)


class Problem(NamedTuple):
    """All batch elements and dimensions as columns, each a problem on the line."""

    points: Tensor  # [columns, n + m]
    masses: Tensor  # [2, columns, n + m]
    excess: Tensor  # [2, columns]
    undefined: Tensor  # [columns]: where a point is infinite or NaN
    batch: tuple[int, ...]
    dims: int
    n: int

    @classmethod
    def of(cls, x: Tensor, y: Tensor, u: Tensor | None, v: Tensor | None, unbiased: bool) -> "Problem":
        batch, dims = batch_shape(x, y, u, v), x.shape[-1]
        sizes, total = (x.shape[-2], y.shape[-2]), math.prod(batch)
        points = torch.cat([_columns(t, batch) for t in (x, y)], 1)
        undefined = ~points.isfinite().all(1)
        points = torch.where(undefined[:, None], 0, points)
        of_sample, excess = [], []
        for mass, size in ((u, sizes[0]), (v, sizes[1])):
            if mass is None:
                mass = points.new_full((1,), 1 / size).expand(total, size)
                ratio = points.new_full((1,), 1 / (size - 1) if unbiased else 0).expand(total)
            else:
                mass = mass.expand(*batch, size).reshape(total, size)
                squares = mass.square().sum(1)
                ratio = squares / (1 - squares) if unbiased else torch.zeros_like(squares)
            of_sample.append(mass.repeat_interleave(dims, 0))
            excess.append(ratio.repeat_interleave(dims, 0))
        pad = torch.nn.functional.pad
        masses = torch.stack([pad(of_sample[0], (0, sizes[1])), pad(of_sample[1], (sizes[0], 0))])
        return cls(points, masses, torch.stack(excess), undefined, batch, dims, sizes[0])

    def groups(self, scales: Tensor, method: str, tolerance: float) -> Iterator[Group]:
        """All columns at once on shared panels, or each on its own nodes."""
        columns, size = self.points.shape
        rule = panel_rule(tuple(scales.tolist()), tolerance)
        direct = method == "direct" or (method == "auto" and size <= _FEW_POINTS)
        shared = None if direct or rule is None or not columns else shared_nodes(self.points, rule)
        if shared is not None:
            yield Group(slice(0, columns), shared, self.masses, self.excess, self.n)
            return
        least = math.inf if direct or rule is None else rule.order
        rule = rule or Rule(1.0, 1)  # of no consequence where every point is a node
        for column in range(columns):
            own = slice(column, column + 1)
            nodes = occupied_nodes(self.points[column], rule, least)
            yield Group(own, nodes, self.masses[:, own], self.excess[:, own], self.n)

    def total(self, values: Sequence[Tensor]) -> Tensor:
        """The sum over dimensions of the columns' values, [*batch]."""
        by_column = torch.cat(list(values)) if values else self.points.new_zeros(0)
        return by_column.masked_fill(self.undefined, math.nan).view(*self.batch, self.dims).sum(-1)

    def by_point(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """[columns, n + m] as [*batch, n, D] and [*batch, m, D]."""
        columns = columns.masked_fill(self.undefined[:, None], math.nan)
        rows = columns.view(*self.batch, self.dims, columns.shape[1]).mT
        return rows[..., : self.n, :], rows[..., self.n :, :]


def _columns(tensor: Tensor, batch: tuple[int, ...]) -> Tensor:
    rows = tensor.expand(*batch, *tensor.shape[-2:]).mT
    return rows.reshape(-1, tensor.shape[-2]).double()


def sum_of_kernels(
    x: Tensor, y: Tensor | None = None, *, kernel: str, scales: Tensor, dtype: torch.dtype
) -> Tensor:
    """sum_ij kernel(x_i, y_j), y being x if it is None; autograd keeps nothing of a tile but its inputs."""
    other = x if y is None else y
    elements = math.prod(torch.broadcast_shapes(x.shape[:-2], other.shape[:-2]))
    if dtype == torch.float64:
        distances, elements = _from_differences, elements * x.shape[-1]
    else:
        distances = _from_products
        squares = [t.square().sum(-1, keepdim=True) for t in (x, other)]
        ones = [torch.ones_like(t) for t in squares]
        x, other = torch.cat([x, squares[0], ones[0]], -1), torch.cat([-2 * other, ones[1], squares[1]], -1)
    side = max(1, math.isqrt(TILE_ELEMENTS // max(1, elements)))
    columns = other.split(side, -2)
    total = x.new_zeros((), dtype=torch.float64)
    for i, row in enumerate(x.split(side, -2)):
        for k, column in enumerate(columns):
            if y is None and k < i:
                continue  # its mirror image counts twice
            arguments = row, column, distances, kernel, scales, y is None and k == i
            tile = recomputed(_tile, *arguments)
            total = total + (2 * tile if y is None and k > i else tile)
    return total


def _tile(
    x: Tensor,
    y: Tensor,
    distances: Callable[[Tensor, Tensor], Tensor],
    kernel: str,
    scales: Tensor,
    on_diagonal: bool,
) -> Tensor:
    squared = distances(x, y)
    if on_diagonal:
        squared = squared.masked_fill(torch.eye(x.shape[-2], dtype=torch.bool, device=x.device), 0)
    values: Any
    if kernel == "cauchy":
        values = sum(s / (s + squared) for s in scales.unbind())
    else:
        values = sum((squared / (-2 * s)).exp() for s in scales.unbind())
    total: Tensor = values.sum((-2, -1), dtype=torch.float64)
    return total


def _from_differences(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


def _from_products(x: Tensor, y: Tensor) -> Tensor:
    """Of rows (x, |x|^2, 1) and (-2 y, 1, |y|^2): one matrix product in float64, which leaves enough for float32."""
    return (x @ y.mT).float().clamp_min(0)
