"""Mean discrepancies of two samples whose points are shared out among ranks: panels of which all know the masses at the
nodes, and sums over the pairs of a rank's own points with all."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from . import _checks
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
from ._transforms import differentiable_once
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
from .reference.mmd_panels import Nodes, Rule, panel_rule, shared_nodes


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
    x, y, scales, *rows = _agreed_inputs(x, y, scales, x_weights, y_weights, unbiased, group)
    weights = x_weights, y_weights
    tolerance = tolerance or default_tolerance(x.dtype)
    rule = None if method == "direct" else panel_rule(tuple(scales.tolist()), tolerance)
    panels = rule and _panels(x.detach(), y.detach(), rule, group)
    if panels is None:
        x, y = (gathered(t, of, in_parts=False) for t, of in zip((x, y), rows))
        u, v = (None if w is None else gathered(w, of, in_parts=False) for w, of in zip(weights, rows))
        options = {"unbiased": unbiased, "method": method, "tolerance": tolerance}
        return one_process_cauchy_mmd(x, y, copied(scales, group), x_weights=u, y_weights=v, **options)
    masses = [None if w is None else _normalised(w, group) for w in weights]
    return _PanelMmd.apply(x, y, *masses, copied(scales, group), unbiased, panels, rows, group)


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
    x, y, scales, *rows = _agreed_inputs(x, y, scales, None, None, unbiased, group)
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


class _Panels(NamedTuple):
    """Panels that hold the points of all ranks, in every dimension."""

    nodes: Nodes  # of the rank's points, and of two that hold no mass: the lowest and the highest of all
    undefined: Tensor  # [D]: where some rank has an infinite or NaN point


def _panels(x: Tensor, y: Tensor, rule: Rule, group: ProcessGroup) -> _Panels | None:
    """None if they were too many."""
    points = torch.cat([x, y]).double()
    undefined = ~points.isfinite().all(0)
    reach = points.new_full((3, x.shape[1]), -math.inf)
    if len(points):
        defined = points.masked_fill(undefined, 0)
        reach = torch.stack([-defined.amin(0), defined.amax(0), undefined.double()])
    reach = all_reduce(reach, group, dist.ReduceOp.MAX)
    undefined = reach[2] > 0
    ends = torch.stack([-reach[0], reach[1]])
    columns = torch.cat([points, ends]).masked_fill(undefined, 0).mT
    nodes = shared_nodes(columns, rule)
    return None if nodes is None else _Panels(nodes, undefined)


class _PanelMmd(Function):
    @staticmethod
    def forward(ctx, x, y, x_masses, y_masses, scales, unbiased, panels, rows, group):
        dims, mask = x.shape[1], ctx.needs_input_grad[:5]
        excess, masses, places = [], [], ((0, len(y) + 2), (len(x), 2))
        for mass, of, place in zip((x_masses, y_masses), rows, places):
            if mass is None:
                mass = scales.new_full((of.count,), 1 / of.total, device=x.device)
                squares = mass.new_tensor(1 / of.total)
            else:
                squares = all_reduce(mass.square().sum(), group)
            excess.append((squares / (1 - squares) if unbiased else torch.zeros_like(squares)).expand(dims))
            masses.append(pad(mass, place).expand(dims, -1))
        masses, excess = torch.stack(masses), torch.stack(excess)
        own = Group(slice(0, dims), panels.nodes, masses, excess, len(x))
        problem = Problem(panels.nodes.xi, masses, excess, panels.undefined, (), dims, len(x))
        value, slopes = solved(problem, [(own, all_reduce(own.compressed(), group))], scales, unbiased, mask)
        cut = len(x), len(y), len(x), len(y), None
        slopes = [
            None if s is None else s[:count].to(t.dtype)
            for s, t, count in zip(slopes, (x, y, scales, scales, scales), cut)
        ]
        ctx.save_for_backward(*slopes, x, y, x_masses, y_masses, scales)
        return value.to(x.dtype)

    @differentiable_once
    def backward(ctx, grad):
        slopes = ctx.saved_tensors[:5]
        gradients = [None if s is None else (grad.double() * s).to(s.dtype) for s in slopes]
        return *gradients, None, None, None, None


def _agreed_inputs(
    x: Tensor,
    y: Tensor,
    scales: Sequence[float] | Tensor,
    x_weights: Tensor | None,
    y_weights: Tensor | None,
    unbiased: bool,
    group: ProcessGroup,
) -> tuple[Tensor, Tensor, Tensor, Rows, Rows]:
    def check():
        for name, tensor in (("x", x), ("y", y)):
            if tensor.dim() != 2:
                raise ValueError(
                    f"{name} must have shape [n, D], of which each rank holds some rows, but has shape "
                    f"{list(tensor.shape)}: reshape it, or call once per batch element"
                )
        weights = [w if len(t) else None for t, w in ((x, x_weights), (y, y_weights))]
        some = [t if len(t) else t.new_zeros(1, t.shape[1]) for t in (x, y)]
        *points, checked = _checks.mmd_inputs(*some, scales, *weights, unbiased=False)
        points = [t.to(p.dtype) for t, p in zip((x, y), points)]
        return (*points, checked), (len(x), len(y), x.shape[1])

    inputs, (*counts, dims) = agreed(check, 3, x.device, group)
    equal_on_all("the number of dimensions D", dims)
    rows = [Rows.of(count, group) for count in counts]
    for name, of in zip("xy", rows):
        if of.total < 1 + unbiased:
            raise ValueError(
                f"{name} must hold at least {1 + unbiased} point(s), on all ranks together, but holds {of.total}: pass "
                "more points, or unbiased=False, for which one will do"
            )
    return *inputs, *rows


def _normalised(weights: Tensor, group: ProcessGroup) -> Tensor:
    wide = weights.double()
    return wide / shared(summed(wide.sum(), group), group)
