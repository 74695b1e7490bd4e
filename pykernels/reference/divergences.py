"""Divergences as Monte-Carlo means over the mixture density (the specification's section 4)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from .marginals import factorises, prior_marginal_log_prob
from .minibatch import minibatch_log_prob
from .mixture import HALF_LOG_2PI, gaussian_mixture_joint_and_marginal_log_prob, gaussian_mixture_log_prob


class KLDecomposition(NamedTuple):
    mutual_information: Tensor
    total_correlation: Tensor
    dimensionwise_kl: Tensor
    remainder: Tensor


def inclusive_kl(
    prior: Distribution,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None = None,
    *,
    num_samples: int | None = None,
    samples: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """KL(p || q) = (1/B) sum_j [log p(z_j) - log q(z_j)], z_j ~ p, with q the mixture of all n components."""
    if samples is None:
        draw: Any = prior.rsample if prior.has_rsample else prior.sample
        samples = draw((num_samples,))
    log_density = gaussian_mixture_log_prob(samples, loc, scale, log_weights)
    return reduced(prior.log_prob(samples) - log_density, reduction)


def aggregate_entropy(
    z: Tensor,
    loc: Tensor,
    scale: Tensor,
    *,
    estimator: str = "exact",
    dataset_size: int | None = None,
    index: Tensor | None = None,
    log_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Equation 11a, -(1/B) sum_b log q(z_b), with q exact or any of the minibatch estimates."""
    if estimator == "exact":
        log_prob = gaussian_mixture_log_prob(z, loc, scale, log_weights)
    else:
        log_prob = minibatch_log_prob(z, loc, scale, dataset_size or len(loc), estimator).joint
    return reduced(-log_prob, reduction)


def exclusive_kl(
    z: Tensor,
    loc: Tensor,
    scale: Tensor,
    prior: Distribution,
    *,
    estimator: str = "exact",
    dataset_size: int | None = None,
    index: Tensor | None = None,
    log_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """KL(q || p) = -H[q] - E_q[log p] = (1/B) sum_b [log q(z_b) - log p(z_b)], z_b ~ q."""
    options: dict[str, Any] = {
        "estimator": estimator,
        "dataset_size": dataset_size,
        "log_weights": log_weights,
    }
    entropy = aggregate_entropy(z, loc, scale, **options, reduction="none")
    return reduced(-entropy - prior.log_prob(z), reduction)


def kl_decomposition(
    z: Tensor,
    loc: Tensor,
    scale: Tensor,
    prior: Distribution,
    *,
    estimator: str = "exact",
    dataset_size: int | None = None,
    index: Tensor | None = None,
    log_weights: Tensor | None = None,
    reduction: str = "mean",
) -> KLDecomposition:
    """The terms of Chen et al. 2018, equation 2, which add up to the mean of log q(z_b|x_b) - log p(z_b)."""
    if estimator == "exact":
        joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(z, loc, scale, log_weights)
    else:
        joint, marginal = minibatch_log_prob(z, loc, scale, dataset_size or len(loc), estimator)
    own = own_log_prob(z, loc, scale, index)
    prior_log_prob = None if factorises(prior) else prior.log_prob(z)
    prior_marginal: Any = prior_marginal_log_prob(prior, z)
    return decomposed(own, joint, marginal, prior_marginal, prior_log_prob, reduction)


def own_log_prob(z: Tensor, loc: Tensor, scale: Tensor, index: Tensor | None) -> Tensor:
    """log q(z_b|x_b), [B], each z_b by the encoding that it was drawn from."""
    scale = scale.expand(loc.shape)
    if index is not None:
        loc, scale = loc[index], scale[index]
    return (-0.5 * ((z - loc) / scale).square() - scale.log() - HALF_LOG_2PI).sum(-1)


def decomposed(
    own: Tensor,
    joint: Tensor,
    marginal: Tensor,
    prior_marginal: Tensor,
    prior_log_prob: Tensor | None,
    reduction: str,
) -> KLDecomposition:
    """The four differences between neighbours of log q(z|x), log q(z), sum log q(z_d), sum log p(z_d), log p(z); the
    last is None for a prior that factorises."""
    marginals, prior_marginals = marginal.sum(-1), prior_marginal.sum(-1)
    remainder = torch.zeros_like(joint) if prior_log_prob is None else prior_marginals - prior_log_prob
    terms = own - joint, joint - marginals, marginals - prior_marginals, remainder
    return KLDecomposition(*(reduced(term, reduction) for term in terms))


def reduced(by_point: Tensor, reduction: str) -> Tensor:
    return by_point.mean() if reduction == "mean" else by_point
