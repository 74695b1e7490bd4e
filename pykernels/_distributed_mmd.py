"""Mean discrepancies of two samples whose points are shared out among ranks: panels of which all know the masses at the
nodes, and sums over the pairs of a rank's own points with all."""

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from . import _checks, _launch
from ._collectives import Group as ProcessGroup
from ._collectives import (
    Rows,
    agreed,
    all_reduce,
    copied,
    equal_on_all,
    gathered,
    shared,
    summed,
)
from ._transforms import applied, differentiable_once
from .mmd import cauchy_mmd as one_process_cauchy_mmd
from .reference.mmd import (
    METHODS,
    Group,
    Problem,
    default_tolerance,
    default_vector_scales,
    sum_of_kernels,
)
from .reference.mmd_gradients import solved
from .reference.mmd_panels import MOST_SHARED_NODES, Nodes, Rule, panel_rule, shared_nodes

_Inputs: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]
_ROWS = 16
_FARTHEST = 2.0**20  # in panels: so far positions in a panel are accurate in float32


def cauchy_mmd(
    x: Tensor,
    y: Tensor,
    scales: Sequence[float] | Tensor,
    x_weights: Tensor | None,
    y_weights: Tensor | None,
    unbiased: bool,
    method: str,
    tolerance: float | None,
    group: ProcessGroup,
) -> Tensor:
    _checks.mmd_options(method, METHODS, tolerance)
    inputs = _agreed_inputs(x, y, scales, x_weights, y_weights, unbiased, group)
    (x, y, scales), rows, kernels = inputs
    weights = x_weights, y_weights
    tolerance = tolerance or default_tolerance(x.dtype)
    rule = None if method == "direct" else panel_rule(tuple(scales.tolist()), tolerance)
    if rule is not None:
        reach = _Reach.of((x, y), group)
        kernels = kernels and reach.fits_kernel(rule)
        nodes = None if kernels else reach.nodes((x, y), rule)
    if rule is None or (nodes is None and not kernels):
        x, y = (gathered(t, of, in_parts=False) for t, of in zip((x, y), rows))
        u, v = (None if w is None else gathered(w, of, in_parts=False) for w, of in zip(weights, rows))
        return one_process_cauchy_mmd(
            x,
            y,
            copied(scales, group),
            x_weights=u,
            y_weights=v,
            unbiased=unbiased,
            method=method,
            tolerance=tolerance,
        )
    masses = [None if w is None else _normalised(w, group) for w in weights]
    panels = _Panels(unbiased, tolerance, reach, nodes, rows, group)
    return applied(_PanelMmd, x, y, *masses, copied(scales, group), panels)


def mmd(
    x: Tensor,
    y: Tensor,
    kernel: str,
    scales: Sequence[float] | Tensor | None,
    unbiased: bool,
    group: ProcessGroup,
) -> Tensor:
    _checks.mmd_kernel(kernel)
    if scales is None:
        scales = default_vector_scales(x.shape[-1])
    (x, y, scales), rows, _ = _agreed_inputs(x, y, scales, None, None, unbiased, group)
    everything = [gathered(t, of, in_parts=True).double() for t, of in zip((x, y), rows)]
    # As in one process, so that float64 products tell float32 distances.
    center = everything[1].detach().median(0).values if x.dtype != torch.float64 else 0
    (all_x, all_y), (own_x, own_y) = (
        [t - center for t in pair] for pair in (everything, (x.double(), y.double()))
    )
    n, m = (of.total for of in rows)
    kernels = partial(sum_of_kernels, kernel=kernel, scales=scales.to(x), dtype=x.dtype)
    by_pair = [1 / (count * (count - 1 if unbiased else count)) for count in (n, m)]
    part = by_pair[0] * kernels(own_x, all_x) + by_pair[1] * kernels(own_y, all_y)
    total = summed(part - 2 / (n * m) * kernels(own_x, all_y), group)
    diagonal = len(scales) * (n * by_pair[0] + m * by_pair[1]) if unbiased else 0
    return (total - diagonal).to(x.dtype)


class _Reach(NamedTuple):
    """How far the points of all ranks reach."""

    ends: Tensor  # [2, D], in float64: the lowest and the highest
    undefined: Tensor  # [D]: where some point is infinite or NaN; the ends are 0 there

    @classmethod
    def of(cls, samples: Sequence[Tensor], group: ProcessGroup) -> "_Reach":
        some = [t.detach() for t in samples if len(t)]
        reach = samples[0].new_full((3, samples[0].shape[1]), -math.inf, dtype=torch.float64)
        if some:
            lowest, highest = (torch.cat([_folded(t, end) for t in some]) for end in (torch.amin, torch.amax))
            lowest, highest = lowest.amin(0).double(), highest.amax(0).double()
            undefined = ~(lowest.isfinite() & highest.isfinite())
            reach = torch.stack([-lowest, highest, undefined.double()])
            reach[:2, undefined] = 0
        reach = all_reduce(reach, group, largest=True)
        undefined = reach[2] > 0
        return cls(torch.stack([-reach[0], reach[1]]).masked_fill(undefined, 0), undefined)

    def fits_kernel(self, rule: Rule) -> bool:
        """Whether the compiled kernels surely hold it in panels that all dimensions share."""
        first, last = (self.ends / rule.width).round()
        near = first.abs().max() < _FARTHEST
        return bool(near and ((last - first).max() + 2) * rule.order <= MOST_SHARED_NODES)

    def nodes(self, samples: Sequence[Tensor], rule: Rule) -> Nodes | None:
        """The nodes of a rank's points, and of two that hold no mass, the ends; None if there were too many."""
        columns = torch.cat([*(t.detach().double() for t in samples), self.ends])
        return shared_nodes(columns.masked_fill(self.undefined, 0).mT, rule)


def _folded(points: Tensor, end: Callable[..., Tensor]) -> Tensor:
    """A few rows with the ends of all: torch is several times as fast along long rows."""
    folded = len(points) // _ROWS
    rest = points[folded * _ROWS :]
    if folded == 0:
        return rest
    ends = end(points[: folded * _ROWS].reshape(folded, -1), 0)
    return torch.cat([ends.view(_ROWS, -1), rest])


class _Panels(NamedTuple):
    """What all panels have in common, and whether the compiled kernels sum over them."""

    unbiased: bool
    tolerance: float
    reach: _Reach
    nodes: Nodes | None
    rows: Sequence[Rows]
    group: ProcessGroup


class _PanelMmd(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        x_masses: Tensor | None,
        y_masses: Tensor | None,
        scales: Tensor,
        panels: _Panels,
    ) -> Tensor:
        inputs, mask = (x, y, x_masses, y_masses, scales), ctx.needs_input_grad[:5]
        excess = [0.0, 0.0]
        for s, (mass, of) in enumerate(zip((x_masses, y_masses), panels.rows)):
            if panels.unbiased:
                squares = (
                    1 / of.total if mass is None else all_reduce(mass.square().sum(), panels.group).item()
                )
                excess[s] = squares / (1 - squares)
        solve = _by_kernel if panels.nodes is None else _by_reference
        value, slopes = solve(inputs, excess, panels, mask)
        ctx.save_for_backward(*slopes, *inputs)
        return value.to(x.dtype)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slopes = ctx.saved_tensors[:5]
        return *(None if s is None else (grad.double() * s).to(s.dtype) for s in slopes), None


def _by_kernel(
    inputs: _Inputs, excess: Sequence[float], panels: _Panels, mask: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    def add_up(address: int, count: int) -> None:
        numbers = (ctypes.c_double * count).from_address(address)
        dist.all_reduce(torch.frombuffer(numbers, dtype=torch.float64), group=panels.group)

    ranges = panels.reach.ends.masked_fill(panels.reach.undefined, math.nan).mT.flatten().tolist()
    share = ranges, [float(of.total) for of in panels.rows], list(excess), add_up
    options = panels.unbiased, "panels", panels.tolerance, list(mask)
    value, *slopes = _launch.cauchy_mmd(*inputs, *options, share)
    given = iter(slopes)
    return value, [next(given) if asked else None for asked in mask]


def _by_reference(
    inputs: _Inputs, excess: Sequence[float], panels: _Panels, mask: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    x, y, *given, scales = inputs
    assert panels.nodes is not None
    dims, padded = x.shape[1], []
    for mass, of, place in zip(given, panels.rows, ((0, len(y) + 2), (len(x), 2))):
        if mass is None:
            mass = x.new_full((of.count,), 1 / of.total, dtype=torch.float64)
        padded.append(pad(mass, place).expand(dims, -1))
    masses = torch.stack(padded)
    excesses = masses.new_tensor(excess)[:, None].expand(2, dims)
    own = Group(slice(0, dims), panels.nodes, masses, excesses, len(x))
    problem = Problem(panels.nodes.xi, masses, excesses, panels.reach.undefined, (), dims, len(x))
    parts = [(own, all_reduce(own.compressed(), panels.group))]
    value, slopes = solved(problem, parts, scales, panels.unbiased, mask)
    kept = [None if s is None else s[:count] for s, count in zip(slopes, 2 * (len(x), len(y)))]
    points = [None if s is None else s.to(x.dtype) for s in kept[:2]]
    return value, [*points, *kept[2:], slopes[4]]


def _agreed_inputs(
    x: Tensor,
    y: Tensor,
    scales: Sequence[float] | Tensor,
    x_weights: Tensor | None,
    y_weights: Tensor | None,
    unbiased: bool,
    group: ProcessGroup,
) -> tuple[tuple[Tensor, Tensor, Tensor], list[Rows], bool]:
    """Points and scales, whose points are where, and whether compiled kernels take them on all ranks."""

    def check() -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int, int]]:
        for name, tensor in (("x", x), ("y", y)):
            if tensor.dim() != 2:
                raise ValueError(
                    f"{name} must have shape [n, D], of which each rank holds some rows, but has shape "
                    f"{list(tensor.shape)}: reshape it, or call once per batch element"
                )
        u, v = (w if len(t) else None for t, w in ((x, x_weights), (y, y_weights)))
        for name, weights in (("x_weights", u), ("y_weights", v)):
            _checks.mmd_weights(name, weights, 0)
        some_x, some_y = (t if len(t) else t.new_zeros(1, t.shape[1]) for t in (x, y))
        some_x, some_y, checked = _checks.mmd_inputs(some_x, some_y, scales, u, v, unbiased=False)
        points = x.to(some_x.dtype), y.to(some_y.dtype)
        others = any(t is not None and t.requires_grad for t in (x_weights, y_weights, checked))
        kernels = not others and _kernel_takes_shares(points[0], checked)
        return (*points, checked), (len(x), len(y), x.shape[1], int(kernels))

    inputs, (*counts, dims, kernels) = agreed(check, 4, x.device, group)
    equal_on_all("the number of dimensions D", dims)
    rows = [Rows.of(count, group) for count in counts]
    for name, of in zip("xy", rows):
        if of.total < 1 + unbiased:
            raise ValueError(
                f"{name} must hold at least {1 + unbiased} point(s), on all ranks together, but holds {of.total}: pass "
                "more points, or unbiased=False, for which one will do"
            )
    return inputs, rows, all(kernels)


def _kernel_takes_shares(x: Tensor, scales: Tensor) -> bool:
    """Those of a CPU do; none gives slopes of masses and scales."""
    by_kernel, _ = _launch._kernel_gives(x, scales, "panels", [False] * 5)
    return by_kernel and x.is_cpu and not _launch.gives_slopes(x)


def _normalised(weights: Tensor, group: ProcessGroup) -> Tensor:
    wide = weights.double()
    return wide / shared(summed(wide.sum(), group), group)
