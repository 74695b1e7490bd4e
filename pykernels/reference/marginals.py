"""Marginal densities of a prior, dimension by dimension: what a decomposition by dimensions is measured against."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)


def prior_marginal_log_prob(prior: Distribution, value: Tensor) -> Tensor | None:
    """log p(value_d) of every dimension, [*batch, D] for `value` [*batch, D]; None where torch does not tell."""
    log_prob: Tensor | None = None
    if factorises(prior):
        log_prob = prior.base_dist.log_prob(value)
    elif isinstance(prior, MultivariateNormal | LowRankMultivariateNormal):
        log_prob = Normal(prior.mean, prior.variance.sqrt(), validate_args=False).log_prob(value)
    elif isinstance(prior, MixtureSameFamily):
        by_component = prior_marginal_log_prob(prior.component_distribution, value.unsqueeze(-2))
        weights = prior.mixture_distribution.logits.unsqueeze(-1)
        log_prob = None if by_component is None else (by_component + weights).logsumexp(-2)
    return log_prob


def factorises(prior: Distribution) -> TypeGuard[Independent[Distribution]]:
    """Whether the prior says by its type that its dimensions are independent."""
    return (
        isinstance(prior, Independent)
        and prior.reinterpreted_batch_ndims == 1
        and prior.base_dist.event_shape == ()
    )
