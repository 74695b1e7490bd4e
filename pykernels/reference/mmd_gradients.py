"""The dimension-wise MMD with its derivatives in closed form, and the derivatives of those.

With c = c_u, the fields F = K(w + c u) and G = K'(w + c u) at the points x, and a mass that counts as a variable of its
own (see `mmd`), kernels and their sums being those of the nodes,

    d / d x_i = 2 u_i G(x_i)        d / d u_i = 2 F(x_i) + 2 u_i (1 + c)^2 (u'Ku - kappa(0)), the last if unbiased,

likewise for y with -w and c_v, and d / d s_l as the value itself, of the kernel d kappa / d s_l. The derivative field
is interpolated, not the interpolated field differentiated: that is twenty times as accurate.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .mmd import Group, Problem, cauchy
from .mmd_panels import kernel_sums

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
_DOUBLE_BACKWARD_TOLERANCE = 2e-14


def value_and_slopes(
    x: Tensor,
    y: Tensor,
    x_masses: Tensor | None,
    y_masses: Tensor | None,
    scales: Tensor,
    unbiased: bool,
    method: str,
    tolerance: float,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Gradients]:
    """The result, [*batch], and its derivative with respect to each aligned input, [*batch, ...]; None where not
    asked for."""
    problem = Problem.of(x, y, x_masses, y_masses, unbiased)
    groups = ((group, group.compressed()) for group in problem.groups(scales, method, tolerance))
    value, slopes = solved(problem, groups, scales, unbiased, output_mask)
    of_x, of_y = (None if slope is None else slope.to(x.dtype) for slope in slopes[:2])
    return value.to(x.dtype), (of_x, of_y, *slopes[2:])


def solved(
    problem: Problem,
    groups: Iterable[tuple[Group, Tensor]],
    scales: Tensor,
    unbiased: bool,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Gradients]:
    """The same in float64, of a problem in groups of columns, each with its w and u at the nodes."""
    points, masses, of_scales = any(output_mask[:2]), any(output_mask[2:4]), output_mask[4]
    values, by_point, by_mass, by_scale = [], [], [], []
    for group, w_and_u in groups:
        kernels = [partial(cauchy, scales=scales, derivative=derivative) for derivative in range(1 + points)]
        sums = kernel_sums(group.nodes, kernels, w_and_u)
        values.append(group.value_of(w_and_u, sums[0], len(scales)))
        if points:
            by_point.append(2 * _at_points(group, sums[1]).mul_(group.masses).sum(0))
        if masses:
            by_mass.append(_mass_slopes(group, w_and_u, sums[0], len(scales), unbiased))
        if of_scales:
            by_scale.append(_scale_slopes(group, w_and_u, scales))
    slopes: list[Tensor | None] = [None] * 5
    if points:
        slopes[:2] = problem.by_point(_joined(by_point, problem))
    if masses:
        slopes[2:4] = [part.sum(-1) for part in problem.by_point(_joined(by_mass, problem))]
    if of_scales:
        columns = torch.cat(by_scale) if by_scale else scales.new_zeros(0, len(scales))
        columns = columns.masked_fill(problem.undefined[:, None], torch.nan)
        slopes[4] = columns.view(*problem.batch, problem.dims, len(scales)).sum(-2)
    result = problem.total(values)
    if not unbiased:
        result = result.clamp(min=0)
    on_x, on_y, on_u, on_v, on_scales = (
        slope if asked else None for slope, asked in zip(slopes, output_mask)
    )
    return result, (on_x, on_y, on_u, on_v, on_scales)


def double_backward(
    cotangents: Gradients,
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    x_masses: Tensor | None,
    y_masses: Tensor | None,
    scales: Tensor,
    unbiased: bool,
    method: str,
) -> tuple[Tensor | None, ...]:
    """Derivatives of sum_k <cotangents[k], gradients[k]>, the gradients being grad times the slopes above, with
    respect to grad and the five inputs."""
    leaves: list[Any] = [
        None if t is None else t.detach().requires_grad_() for t in (grad, x, y, x_masses, y_masses, scales)
    ]
    with torch.enable_grad():
        problem = Problem.of(leaves[1], leaves[2], leaves[3], leaves[4], unbiased)
        groups = problem.groups(leaves[5], method, _DOUBLE_BACKWARD_TOLERANCE)
        result = problem.total([group.value(leaves[5]) for group in groups])
        inputs = [leaf for leaf in leaves[1:] if leaf is not None]
        upstream = leaves[0].to(result.dtype)
        first = torch.autograd.grad(result, inputs, upstream, create_graph=True, materialize_grads=True)
        pairs = zip(first, [t for t, leaf in zip(cotangents, leaves[1:]) if leaf is not None])
        product: Any = sum((gradient * t).sum() for gradient, t in pairs if t is not None)
        present = [leaf for leaf in leaves if leaf is not None]
        derivatives = iter(torch.autograd.grad(product, present, materialize_grads=True))
    return tuple(None if leaf is None else next(derivatives) for leaf in leaves)


def _at_points(group: Group, sums: Tensor) -> Tensor:
    """(K or K')(w + c_u u) and -(K or K')(w - c_v v) at every point, [2, C, n + m], from its sums with w and u."""
    of_w, of_u = sums.unbind(1)
    of_x = of_w + group.excess[0] * of_u
    of_y = group.excess[1] * (of_u - of_w) - of_w
    return group.nodes.evaluate(torch.stack([of_x, of_y], 1))


def _mass_slopes(group: Group, w_and_u: Tensor, sums: Tensor, kappa_0: float, unbiased: bool) -> Tensor:
    _, *within = group.quadratic_forms(w_and_u, sums)
    points = group.nodes.start.shape[1]
    slopes = 2 * _at_points(group, sums)
    if unbiased:
        own = (torch.stack(within) - kappa_0) * (1 + group.excess).square()
        slopes += 2 * group.masses * own[..., None]
    return torch.where(torch.arange(points, device=slopes.device) < group.n, slopes[0], slopes[1])


def _scale_slopes(group: Group, w_and_u: Tensor, scales: Tensor) -> Tensor:
    kernels = [partial(_cauchy_by_scale, scale=scale) for scale in scales]
    by_scale = kernel_sums(group.nodes, kernels, w_and_u)
    return torch.stack([group.value_of(w_and_u, sums, 0) for sums in by_scale], -1)


def _cauchy_by_scale(t: Tensor, scale: Tensor) -> Tensor:
    """d/ds of s / (s + t^2)."""
    q = t.square()
    r = 1 / (scale + q)
    return (q * r) * r


def _joined(parts: Sequence[Tensor], problem: Problem) -> Tensor:
    return torch.cat(list(parts)) if parts else problem.points
