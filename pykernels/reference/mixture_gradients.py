"""Gradients of the mixture densities in closed form, and the derivatives of those, tile by tile.

With the responsibilities r_ib = exp(l_ib - joint_b), where joint_b = logsumexp_i(l_ib), and likewise r_ibd
for the marginals, and with u = (value - loc) / scale, a pair weighs in each dimension

    q_ibd = grad_joint_b r_ib + grad_marginal_bd r_ibd,    and

    grad_value_bd = -sum_i q_ibd u / scale          grad_log_weights_i = sum_b grad_joint_b r_ib
    grad_loc_id   =  sum_b q_ibd u / scale                               + sum_bd grad_marginal_bd r_ibd
    grad_scale_id =  sum_b q_ibd (u^2 - 1) / scale

Statistics of the responsibilities have gradients of this form, too, with two more terms beside grad_joint_b, both of
the pair: grad_statistics_b0 log r_ib + grad_statistics_b1 r_ib.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .mixture import PairWeights, component_part, part, standardise, tiles

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def mixture_log_prob_backward(
    grad_joint: Tensor | None,
    grad_marginal: Tensor | None,
    grad_statistics: Tensor | None,
    joint: Tensor | None,
    marginal: Tensor | None,
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    output_mask: Sequence[bool],
    pairs: PairWeights | None = None,
) -> Gradients:
    """Gradients of aligned inputs, each summed to its own shape; None where not asked for. `grad_statistics`,
    [*batch, 2, B], comes with `grad_joint` only."""
    totals = [
        torch.zeros(t.shape, dtype=value.dtype, device=value.device) if asked and t is not None else None
        for t, asked in zip((value, loc, scale, log_weights), output_mask)
    ]
    rows, components = tiles(value, loc, scale, log_weights)
    for row in rows:
        row_inputs = _row_part(row, grad_joint, grad_marginal, grad_statistics, joint, marginal, value)
        for column in components:
            of_tile: Any = component_part(loc, scale, log_weights, pairs, row, column)
            gradients = _tile_gradients(*row_inputs, *of_tile)
            _accumulate(_own_parts(totals, row, column), gradients)
    return totals[0], totals[1], totals[2], totals[3]


def mixture_log_prob_double_backward(
    cotangents: Gradients,
    grad_joint: Tensor | None,
    grad_marginal: Tensor | None,
    grad_statistics: Tensor | None,
    joint: Tensor | None,
    marginal: Tensor | None,
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    pairs: PairWeights | None = None,
) -> tuple[Tensor | None, ...]:
    """Derivatives of sum_k <cotangents[k], gradients[k]>, the gradients being those of the function above,
    with respect to its nine tensors; joint and marginal count as inputs of their own."""
    inputs = grad_joint, grad_marginal, grad_statistics, joint, marginal, value, loc, scale, log_weights
    totals = [None if t is None else torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in inputs]
    rows, components = tiles(value, loc, scale, log_weights)
    for row in rows:
        row_inputs = _row_part(row, *inputs[:6])
        row_totals = _row_part(row, *totals[:6])
        for column in components:
            leaves = _leaves(*row_inputs, *component_part(loc, scale, log_weights, pairs, row, column))
            with torch.enable_grad():
                gradients = _tile_gradients(*leaves)
                product: Any = sum(
                    (cotangent * _sum_to(gradient, cotangent.shape)).sum()
                    for cotangent, gradient in zip(_own_parts(cotangents, row, column), gradients)
                    if cotangent is not None
                )
            present = [leaf for leaf in leaves if leaf is not None]
            derivatives = iter(torch.autograd.grad(product, present, materialize_grads=True))
            component_totals = _own_parts((None, *totals[6:]), row, column)[1:]
            by_leaf = [None if leaf is None else next(derivatives) for leaf in leaves]
            by_weight: Any = by_leaf.pop()  # of pairs
            _accumulate((*row_totals, *component_totals), (*by_leaf, by_weight.sum(-2)))
    return tuple(totals)


def _tile_gradients(
    grad_joint: Tensor | None,
    grad_marginal: Tensor | None,
    grad_statistics: Tensor | None,
    joint: Any,
    marginal: Any,
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    u, log_normal, absent, scale = standardise(value, loc, scale, log_weights)
    weights = log_weights.unsqueeze(-1)
    q = grad_weights = weights.new_zeros(())
    if grad_joint is not None:
        log_share = _log_share(log_normal.sum(-1, keepdim=True) + weights, joint[..., None, None], absent)
        share, gradient = log_share.exp(), grad_joint[..., None, None]
        if grad_statistics is not None:
            of_log, of_share = grad_statistics[..., None, None].unbind(-4)
            gradient = gradient + of_log * log_share.masked_fill(share == 0, 0) + of_share * share
        q = _times(gradient, share)
        grad_weights = q
    if grad_marginal is not None:
        by_dim = _times(
            grad_marginal.unsqueeze(-2),
            _log_share(log_normal + weights, marginal.unsqueeze(-2), absent).exp(),
        )
        q, grad_weights = q + by_dim, grad_weights + by_dim.sum(-1, keepdim=True)
    # A row of NaN must not reach an absent component, nor infinitely far ones a component that is not theirs.
    none = absent | (q == 0)
    pull = (q * u / scale).masked_fill(none, 0)
    grad_scale = (q * (u.square() - 1) / scale).masked_fill(none, 0)
    return -pull.sum(-2), pull.sum(-3), grad_scale.sum(-3), grad_weights.squeeze(-1).sum(-2)


def _log_share(log_density: Tensor, total: Tensor, absent: Tensor) -> Tensor:
    """Logarithm of a responsibility, -inf in a row whose total is -inf and for an absent component."""
    out_of_reach = total == -math.inf
    log_share = log_density - total.masked_fill(out_of_reach, 0)
    return log_share.masked_fill(absent | out_of_reach, -math.inf)


def _times(gradient: Tensor, share: Tensor) -> Tensor:
    """Their product, 0 where the share is none, whatever the gradient."""
    return (gradient * share).masked_fill(share == 0, 0)


def _row_part(
    row: slice,
    grad_joint: Tensor | None,
    grad_marginal: Tensor | None,
    grad_statistics: Tensor | None,
    joint: Any,
    marginal: Any,
    value: Any,
) -> tuple[Any, ...]:
    """Joint and marginal densities are of use with their gradients only."""
    return (
        None if grad_joint is None else part(grad_joint, -1, row),
        None if grad_marginal is None else part(grad_marginal, -2, row),
        None if grad_statistics is None else part(grad_statistics, -1, row),
        None if grad_joint is None else part(joint, -1, row),
        None if grad_marginal is None else part(marginal, -2, row),
        part(value, -2, row),
    )


def _own_parts(gradients: Sequence[Tensor | None], row: slice, column: slice) -> list[Tensor | None]:
    """What one tile adds to, of tensors shaped like (value, loc, scale, log_weights)."""
    places = (-2, row), (-2, column), (-2, column), (-1, column)
    return [None if t is None else part(t, *place) for t, place in zip(gradients, places)]


def _leaves(*tensors: Tensor | None) -> list[Any]:
    return [None if t is None else t.detach().requires_grad_() for t in tensors]


def _accumulate(totals: Sequence[Tensor | None], contributions: Sequence[Tensor | None]) -> None:
    for total, contribution in zip(totals, contributions):
        if total is not None and contribution is not None:
            total += _sum_to(contribution, total.shape)


def _sum_to(tensor: Tensor, shape: torch.Size) -> Tensor:
    return tensor if tensor.shape == shape else tensor.sum_to_size(shape)
