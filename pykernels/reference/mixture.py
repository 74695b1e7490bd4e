"""Density of a mixture of n diagonal Gaussians: the aggregate log-density of the specification's section 4,

    joint[b]       = logsumexp_i( log_weights[i] + sum_d log N(value[b, d]; loc[i, d], scale[i, d]^2) )
    marginal[b, d] = logsumexp_i( log_weights[i] +       log N(value[b, d]; loc[i, d], scale[i, d]^2) ),

with log_weights[i] = -log n where none are given, or weights that depend on the pair in their place. Every temporary
is a tile of rows and components, so memory stays O((n + B) D): forward, backward and twice backward.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .recomputing import recomputed

TILE_ELEMENTS = 1 << 18  # of one [*batch, rows, components, D] temporary: small enough to stay in cache
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class JointAndMarginal(NamedTuple):
    joint: Tensor
    marginal: Tensor


class PairWeights(NamedTuple):
    """What components weigh in row b, where there are as many components as rows: component b, component b + 1 (after
    the last one comes the first), and every other."""

    own: float
    next: float
    other: float


def gaussian_mixture_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> Tensor:
    """The joint log-density of the module's first equation, [*batch, B]."""
    return _recomputed(value, loc, scale, log_weights, True, False)[0]


def gaussian_mixture_marginal_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> Tensor:
    """The log-density of every dimension by itself, the module's second equation, [*batch, B, D]."""
    return _recomputed(value, loc, scale, log_weights, False, True)[1]


def gaussian_mixture_joint_and_marginal_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> JointAndMarginal:
    """Both equations of the module in one pass."""
    return JointAndMarginal(*_recomputed(value, loc, scale, log_weights, True, True))


def align(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Views with equally many batch dimensions, before [B, D], [n, D], [1 or n, 1 or D] and [1 or n]."""
    weights_rank = 1 if log_weights is None else log_weights.dim()
    rank = max(value.dim() - 2, loc.dim() - 2, scale.dim() - 2, weights_rank - 1)
    value, loc, scale = (_pad(tensor, rank + 2) for tensor in (value, loc, scale))
    return value, loc, scale, None if log_weights is None else _pad(log_weights, rank + 1)


def batch_shape(value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None) -> tuple[int, ...]:
    """The broadcast batch dimensions of aligned inputs."""
    if value.dim() == 2:
        return ()
    weights_batch = () if log_weights is None else log_weights.shape[:-1]
    return tuple(torch.broadcast_shapes(value.shape[:-2], loc.shape[:-2], scale.shape[:-2], weights_batch))


def mixture_log_prob(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    joint: bool,
    marginal: bool,
    pairs: PairWeights | None = None,
    *,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Both densities of aligned inputs; one not asked for has shape [0].

    With `recompute`, autograd keeps nothing of a tile but its inputs.
    """
    tile = recomputed_tile(_tile_log_prob) if recompute else _tile_log_prob
    rows, components = tiles(value, loc, scale, log_weights)
    joints: list[Tensor] = []
    marginals: list[Tensor] = []
    for row in rows:
        parts: list[Any] = [
            tile(
                part(value, -2, row),
                *component_part(loc, scale, log_weights, pairs, row, column),
                joint,
                marginal,
            )
            for column in components
        ]
        if joint:
            joints.append(torch.logsumexp(torch.stack([j for j, _ in parts]), 0))
        if marginal:
            marginals.append(torch.logsumexp(torch.stack([m for _, m in parts]), 0))
    empty = value.new_empty(0)
    return torch.cat(joints, -1) if joint else empty, torch.cat(marginals, -2) if marginal else empty


def tiles(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None
) -> tuple[list[slice], list[slice]]:
    """Ranges of rows and of components, so that a tile holds TILE_ELEMENTS at most, or one pair."""
    num_rows, (num_components, dims) = value.shape[-2], loc.shape[-2:]
    pairs = max(1, TILE_ELEMENTS // max(1, math.prod(batch_shape(value, loc, scale, log_weights)) * dims))
    width = min(num_components, pairs)
    return _ranges(num_rows, pairs // width), _ranges(num_components, width)


def part(tensor: Tensor, dim: int, rows: slice) -> Tensor:
    """The rows of one tile; a broadcast dimension serves every tile."""
    return tensor if tensor.shape[dim] == 1 else tensor.narrow(dim, rows.start, rows.stop - rows.start)


def recomputed_tile(tile: Callable[..., Any]) -> Callable[..., Any]:
    return partial(recomputed, tile)


def component_part(
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    pairs: PairWeights | None,
    row: slice,
    column: slice,
) -> tuple[Tensor, Tensor, Tensor]:
    """One tile's components, and their log-weights [*batch, 1 or rows, 1 or components]."""
    if pairs is not None:
        weights = _pair_log_weights(loc, pairs, row, column)
    elif log_weights is None:
        weights = loc.new_full((1, 1), -math.log(loc.shape[-2]))
    else:
        weights = part(log_weights, -1, column).unsqueeze(-2)
    return part(loc, -2, column), part(scale, -2, column), weights


def _pair_log_weights(loc: Tensor, pairs: PairWeights, row: slice, column: slice) -> Tensor:
    rows = torch.arange(row.start, row.stop, device=loc.device).unsqueeze(-1)
    columns = torch.arange(column.start, column.stop, device=loc.device)
    own, following, other = (math.log(weight) for weight in pairs)
    weights = loc.new_full((len(rows), len(columns)), other)
    weights = weights.masked_fill(columns == (rows + 1) % loc.shape[-2], following)
    return weights.masked_fill(columns == rows, own)


def standardise(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u = (value - loc) / scale and log N, both [*batch, rows, components, D], which components are absent
    [*batch, 1 or rows, 1 or components, 1], and the scale that takes part.

    Components of zero weight, and differences whose square overflows, are replaced before the arithmetic: a
    weight of zero times their infinite or undefined derivative would be NaN.
    """
    absent = (log_weights == -math.inf).unsqueeze(-1)
    loc, scale = loc.unsqueeze(-3), scale.unsqueeze(-3)
    scale = torch.where(absent, torch.ones_like(scale), scale)
    difference = value.unsqueeze(-2) - torch.where(absent, torch.zeros_like(loc), loc)
    far = (difference / scale).square().isinf()
    u = difference.masked_fill(far, 0) / scale
    log_normal = (-0.5 * u.square()).masked_fill(far, -math.inf) - scale.log() - HALF_LOG_2PI
    return u, log_normal, absent, scale


def _tile_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor, joint: bool, marginal: bool
) -> tuple[Tensor | None, Tensor | None]:
    _, log_normal, _, _ = standardise(value, loc, scale, log_weights)
    return (
        torch.logsumexp(log_normal.sum(-1) + log_weights, -1) if joint else None,
        torch.logsumexp(log_normal + log_weights.unsqueeze(-1), -2) if marginal else None,
    )


def _recomputed(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None, joint: bool, marginal: bool
) -> tuple[Tensor, Tensor]:
    return mixture_log_prob(*align(value, loc, scale, log_weights), joint, marginal, recompute=True)


def _pad(tensor: Tensor, rank: int) -> Tensor:
    return tensor if tensor.dim() == rank else tensor[(None,) * (rank - tensor.dim())]


def _ranges(total: int, size: int) -> list[slice]:
    # No rows still make one (empty) tile, so that an empty result has its shape.
    return [slice(start, min(start + size, total)) for start in range(0, max(total, 1), size)]
