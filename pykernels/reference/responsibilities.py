"""How many encodings share a point, by the specification's section 6. With the responsibilities

    r[b, i] = exp( log_weights[i] + log_prob[b, i] - log_prob[b] ),
    log_prob[b] = logsumexp_i( log_weights[i] + log_prob[b, i] ),    log_weights[i] = -log n where none are given,

these are their perplexity and their collision count:

    perplexity[b] = exp( -sum_i r[b, i] log r[b, i] ),    collision_count[b] = 1 / sum_i r[b, i]^2.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .mixture import align, component_part, part, recomputed_tile, standardise, tiles


class ResponsibilityStatistics(NamedTuple):
    log_prob: Tensor
    perplexity: Tensor
    collision_count: Tensor


def responsibility_statistics(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> ResponsibilityStatistics:
    """The module's three equations for diagonal Gaussian encodings, in O((n + B) D) memory."""
    return mixture_statistics(*align(value, loc, scale, log_weights), recompute=True)


def responsibility_statistics_from_log_prob(
    log_prob: Tensor, log_weights: Tensor | None = None
) -> ResponsibilityStatistics:
    """The module's three equations for any encodings, `log_prob` [*batch, B, n]."""
    n = log_prob.shape[-1]
    if log_weights is None:
        weighted = log_prob - math.log(n)
    else:
        weighted = log_prob + log_weights.expand(*log_weights.shape[:-1], n).unsqueeze(-2)
    # A point where no encoding has density gives no gradient.
    none = (weighted == -math.inf).all(-1)
    total, entropy, log_collision = _summary(weighted.masked_fill(none.unsqueeze(-1), 0))
    undefined = ((t.exp().masked_fill(none, math.nan)) for t in (entropy, -log_collision))
    return ResponsibilityStatistics(total.masked_fill(none, -math.inf), *undefined)


def mixture_statistics(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None, *, recompute: bool = False
) -> ResponsibilityStatistics:
    """The statistics of aligned inputs; with `recompute`, autograd keeps nothing of a tile but its inputs."""
    tile = recomputed_tile(_tile_summary) if recompute else _tile_summary
    rows, components = tiles(value, loc, scale, log_weights)
    merged = []
    for row in rows:
        parts = [
            tile(part(value, -2, row), *component_part(loc, scale, log_weights, None, row, column))
            for column in components
        ]
        merged.append(_merge(*(torch.stack(kind, -1) for kind in zip(*parts))))
    total, entropy, log_collision = (torch.cat(kind, -1) for kind in zip(*merged))
    return ResponsibilityStatistics(total, entropy.exp(), (-log_collision).exp())


def _tile_summary(value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor) -> tuple[Tensor, ...]:
    _, log_normal, _, _ = standardise(value, loc, scale, log_weights)
    return _summary(log_normal.sum(-1) + log_weights)


def _summary(weighted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of log-densities [*batch, B, n]: their log-sum-exp, the entropy of the shares, and log sum share^2."""
    total = torch.logsumexp(weighted, -1)
    log_share = weighted - total.unsqueeze(-1)
    return total, _entropy(log_share), torch.logsumexp(2 * log_share, -1)


def _merge(total: Tensor, entropy: Tensor, log_collision: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The summary of parts side by side, from those of the parts, [*batch, B, parts]. A part in which no component has
    density weighs nothing; its own entropy is undefined."""
    merged = torch.logsumexp(total, -1)
    log_share = total - merged.unsqueeze(-1)
    none = log_share == -math.inf
    within = (log_share.exp() * entropy.masked_fill(none, 0)).sum(-1)
    collisions = (2 * log_share + log_collision).masked_fill(none, -math.inf)
    return merged, _entropy(log_share) + within, torch.logsumexp(collisions, -1)


def _entropy(log_share: Tensor) -> Tensor:
    # A share of 0 adds nothing, where 0 times its logarithm would be NaN.
    return -(log_share.exp() * log_share.masked_fill(log_share == -math.inf, 0)).sum(-1)
