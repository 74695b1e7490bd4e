r"""The divergences over encodings that are shared out among the ranks of a process group: one process's value on all.

Names and arguments are those of `pykernels`, and `group`, None for the default one. Rank r holds n_r of the n encodings
and B_r of the B points, any numbers, 0 included; results and gradients are, up to rounding, those of one process that
holds all of them, rank after rank. Of a mixture only points, and a few numbers for each, cross between ranks, never an
encoding; of a minibatch, both: docs/scale.md counts them. Where no process group is initialised these *are* the
functions of `pykernels`.

Gradients. From a result that all ranks have, each computes the same loss, and calls `backward` once. Then

- what one rank alone holds, its encodings and points, gets there the gradient that it has in one process;
- of what all hold copies of, networks and priors, each rank gets a part, and the parts add up.

`DistributedDataParallel` divides that sum by the number of ranks W. So give it W times the loss,

    loss = distributed.mean(negative_log_likelihood) + distributed.exclusive_kl(z, loc, scale, prior)
    (torch.distributed.get_world_size() * loss).backward()

or, if the rest of the loss is a mean over the rank's own rows, W times the divergence alone.

All ranks call the same functions in the same order; on all or on none a given argument requires a gradient. Wrong
arguments on one rank raise on all. The first derivative is all there is: for a second one, and under `torch.compile`
and `torch.func`, use one process. Each call waits for the numbers of rows of the others, a GPU too.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributions import Distribution

import pykernels

from . import _aggregate_checks, _distributed_mmd, _priors
from ._collectives import Group, summed, world_size
from ._distributed_mixture import SharedMinibatch, SharedMixture, shared
from ._distributed_mixture import logsumexp as _logsumexp
from .reference.divergences import KLDecomposition, decomposed
from .reference.marginals import factorises
from .reference.mixture import JointAndMarginal
from .reference.mmd import DEFAULT_SCALES
from .reference.responsibilities import ResponsibilityStatistics

__all__ = [
    "aggregate_entropy",
    "cauchy_mmd",
    "exclusive_kl",
    "gaussian_mixture_joint_and_marginal_log_prob",
    "gaussian_mixture_log_prob",
    "gaussian_mixture_marginal_log_prob",
    "inclusive_kl",
    "kl_decomposition",
    "logsumexp",
    "mean",
    "minibatch_log_prob",
    "mmd",
    "responsibility_statistics",
]


def mean(by_row: Tensor, *, group: Group = None) -> Tensor:
    """Mean over the rows, dimension 0, of all ranks: of log-likelihoods, say. Ranks without rows take part.

    Sends 8 bytes for each column, and 8 more.

    Example:
        >>> mean(torch.tensor([1.0, 3.0]))
        tensor(2.)
    """
    if world_size(group) == 1:
        return by_row.mean(0)
    sums = by_row.sum(0, dtype=torch.float64)
    total = summed(torch.cat([sums.view(-1), sums.new_tensor([len(by_row)])]), group)
    return (total[:-1] / total[-1]).view(sums.shape).to(by_row.dtype)


def logsumexp(log_prob: Tensor, *, group: Group = None) -> Tensor:
    """log sum_r exp(log_prob_r), elementwise over the ranks r: what merges log-densities of parts of a mixture, each
    with weights of the whole. `pykernels.streaming` gives such parts where a rank's encodings do not fit its memory.

    Sends the tensor twice.

    Example:
        >>> logsumexp(torch.tensor([-1.0]))
        tensor([-1.])
    """
    if world_size(group) == 1:
        return log_prob
    return _logsumexp(log_prob, group)


def gaussian_mixture_log_prob(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None = None,
    *,
    same_points: bool = False,
    group: Group = None,
) -> Tensor:
    r"""Log-density of a mixture of n diagonal Gaussians, of which each rank holds some, at B points.

    .. math:: \log q(z_b) = \operatorname{logsumexp}_r \operatorname{logsumexp}_{i \in r} \Bigl(\log w_i
        + \sum_d \log \mathcal N(z_{bd}; \mu_{id}, \sigma_{id}^2)\Bigr)

    Args:
        value: [B_r, D], the rank's own points, or with `same_points` [B, D], the same on all ranks.
        loc: [n_r, D], the means that the rank holds.
        scale: standard deviations, positive; anything that broadcasts to `loc`.
        log_weights: anything that broadcasts to [n_r], used as given; None is -log n for each.
        same_points: all ranks pass the same points, and the gradient with respect to them comes in parts that add up.
        group: the process group; None is the default one.

    Returns:
        [B_r] in nats, or [B], the same on all ranks.

    A rank computes all B points against its n_r encodings: O(B n_r D) time. It sends the points and two numbers for
    each, and backwards their gradients and one number for each; with `same_points`, two numbers for each and nothing
    backwards. Gradients: see the module. Errors are those of `pykernels.gaussian_mixture_log_prob`, and D or, with
    `same_points`, B that differ from rank to rank.

    Example:
        >>> value, loc = torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> gaussian_mixture_log_prob(value, loc, torch.tensor(1.0))
        tensor([-2.3379])
    """
    if world_size(group) == 1:
        return pykernels.gaussian_mixture_log_prob(value, loc, scale, log_weights)
    return SharedMixture(value, loc, scale, log_weights, same_points, group).densities(True, False)[0]


def gaussian_mixture_marginal_log_prob(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None = None,
    *,
    same_points: bool = False,
    group: Group = None,
) -> Tensor:
    """The same for each dimension by itself, [B_r, D] or [B, D]; D numbers stand for one in what is sent."""
    if world_size(group) == 1:
        return pykernels.gaussian_mixture_marginal_log_prob(value, loc, scale, log_weights)
    return SharedMixture(value, loc, scale, log_weights, same_points, group).densities(False, True)[0]


def gaussian_mixture_joint_and_marginal_log_prob(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None = None,
    *,
    same_points: bool = False,
    group: Group = None,
) -> JointAndMarginal:
    """Both in one pass, and in one message."""
    if world_size(group) == 1:
        return pykernels.gaussian_mixture_joint_and_marginal_log_prob(value, loc, scale, log_weights)
    mixture = SharedMixture(value, loc, scale, log_weights, same_points, group)
    return JointAndMarginal(*mixture.densities(True, True))


def responsibility_statistics(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None = None,
    *,
    same_points: bool = False,
    group: Group = None,
) -> ResponsibilityStatistics:
    """`pykernels.responsibility_statistics` against the encodings of all ranks; arguments, shapes and gradients are
    those of `gaussian_mixture_log_prob` here. Five numbers are sent for each point, and backwards three.
    """
    if world_size(group) == 1:
        return pykernels.responsibility_statistics(value, loc, scale, log_weights)
    return SharedMixture(value, loc, scale, log_weights, same_points, group).statistics()


def minibatch_log_prob(
    z: Tensor, loc: Tensor, scale: Tensor, dataset_size: int, estimator: str, *, group: Group = None
) -> JointAndMarginal:
    """`pykernels.minibatch_log_prob` of the minibatch that the ranks hold together: z and loc [B_r, D].

    Returns:
        A named tuple (joint [B_r], marginal [B_r, D]) in nats.

    All draws and encodings are sent to all ranks, 3 D numbers for each, and D + 1 backwards; all compute the same, in
    O(B^2 D) time. With "mss" the next row of a rank's last one is the first of the next rank's.
    """
    if world_size(group) == 1:
        return pykernels.minibatch_log_prob(z, loc, scale, dataset_size, estimator)
    minibatch = SharedMinibatch(z, loc, scale, dataset_size, estimator, group)
    return JointAndMarginal(*minibatch.densities(True, True))


def inclusive_kl(
    prior: Distribution,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None = None,
    *,
    num_samples: int | None = None,
    samples: Tensor | None = None,
    reduction: str = "mean",
    group: Group = None,
) -> Tensor:
    """KL(p || q) against the encodings of all ranks, as `pykernels.inclusive_kl`.

    `num_samples` is how many points are drawn in all. Every rank draws so many and uses its share of them, so that the
    estimate is sound whether the generators of the ranks are alike, and then it is one process's, or not. `samples`,
    [B_r, D], are the rank's own. A scalar, the same on all ranks, or with `reduction="none"` [B_r].

    The rest is as in `gaussian_mixture_log_prob` here.
    """
    options: Any = {"num_samples": num_samples, "samples": samples}
    if world_size(group) == 1:
        return pykernels.inclusive_kl(prior, loc, scale, log_weights, **options, reduction=reduction)
    if samples is None or num_samples is not None:
        _priors.check_inclusive_kl(prior, loc, **options, reduction=reduction)
    else:
        _aggregate_checks.reduction_name(reduction)
        _priors.check(prior, loc)
    points = _priors.points(prior, loc, **options)
    if samples is None:
        points = points.tensor_split(world_size(group))[dist.get_rank(group)]
    mixture = SharedMixture(points, loc, scale, log_weights, False, group, "samples")
    (log_density,) = mixture.densities(True, False)
    prior_log_prob = mixture.of_own_points(partial(_priors.log_prob, prior))
    _priors.check_no_lost_gradient(prior_log_prob, points, given=samples is not None)
    divergence = prior_log_prob - log_density
    return mean(divergence, group=group) if reduction == "mean" else divergence


def aggregate_entropy(
    z: Tensor,
    loc: Tensor,
    scale: Tensor,
    *,
    estimator: str = "exact",
    dataset_size: int | None = None,
    log_weights: Tensor | None = None,
    reduction: str = "mean",
    group: Group = None,
) -> Tensor:
    """H[q(z)] of the mixture of all ranks' encodings, from the draws z [B_r, D] of each, as
    `pykernels.aggregate_entropy`. A scalar, the same on all ranks, or with `reduction="none"` [B_r].

    The rest is as in `gaussian_mixture_log_prob` or, for the estimators of a minibatch, `minibatch_log_prob` here.
    """
    options: Any = {"estimator": estimator, "dataset_size": dataset_size, "log_weights": log_weights}
    if world_size(group) == 1:
        return pykernels.aggregate_entropy(z, loc, scale, **options, reduction=reduction)
    _aggregate_checks.reduction_name(reduction)
    draws = shared(z, loc, scale, group, **options)
    entropy = -draws.densities(True, False)[0]
    return mean(entropy, group=group) if reduction == "mean" else entropy


def exclusive_kl(
    z: Tensor,
    loc: Tensor,
    scale: Tensor,
    prior: Distribution,
    *,
    estimator: str = "exact",
    dataset_size: int | None = None,
    log_weights: Tensor | None = None,
    reduction: str = "mean",
    group: Group = None,
) -> Tensor:
    """KL(q || p) of the mixture of all ranks' encodings, from the draws z [B_r, D] of each, as
    `pykernels.exclusive_kl`. A scalar, the same on all ranks, or with `reduction="none"` [B_r].

    The rest is as in `gaussian_mixture_log_prob` or, for the estimators of a minibatch, `minibatch_log_prob` here.
    """
    options: Any = {"estimator": estimator, "dataset_size": dataset_size, "log_weights": log_weights}
    if world_size(group) == 1:
        return pykernels.exclusive_kl(z, loc, scale, prior, **options, reduction=reduction)
    _aggregate_checks.reduction_name(reduction)
    _priors.check(prior, loc)
    draws = shared(z, loc, scale, group, **options)
    divergence = draws.densities(True, False)[0] - draws.of_own_points(partial(_priors.log_prob, prior))
    return mean(divergence, group=group) if reduction == "mean" else divergence


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
    group: Group = None,
) -> KLDecomposition:
    """Mutual information, total correlation, dimension-wise KL and remainder over all ranks' encodings and draws, as
    `pykernels.kl_decomposition`.

    `index`, [B_r], counts the encodings of all ranks, rank after rank: a draw may stem from an encoding elsewhere. None
    is the rank's own b, where B_r = n_r. Each term is a scalar, the same on all ranks, or with `reduction="none"`
    [B_r]. D + 1 numbers stand for one in what `gaussian_mixture_log_prob` sends; with `index`, three more.
    """
    options: Any = {"estimator": estimator, "dataset_size": dataset_size, "log_weights": log_weights}
    options["index"] = index
    if world_size(group) == 1:
        return pykernels.kl_decomposition(z, loc, scale, prior, **options, reduction=reduction)
    _aggregate_checks.reduction_name(reduction)
    _priors.check(prior, loc)

    def know_own_encodings() -> None:
        _aggregate_checks.own_encodings(z, loc, index)
        if index is not None:
            _aggregate_checks.rows_of_draws(z, index)

    draws = shared(z, loc, scale, group, know_own_encodings, **options)
    joint, marginal = draws.densities(True, True)
    own = draws.own_log_prob(index)
    prior_marginal = draws.of_own_points(partial(_priors.marginal_log_prob, prior))
    prior_log_prob = None if factorises(prior) else draws.of_own_points(partial(_priors.log_prob, prior))
    terms = decomposed(own, joint, marginal, prior_marginal, prior_log_prob, "none")
    if reduction == "mean":
        terms = KLDecomposition(*mean(torch.stack(terms, -1), group=group).unbind())
    return terms


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
    group: Group = None,
) -> Tensor:
    """`pykernels.cauchy_mmd` of two samples whose points are shared out: x [n_r, D] and y [m_r, D], any numbers each.

    Returns:
        A scalar, the same on all ranks.

    Every rank moves its points to the nodes of panels that all share, and what they hold is summed: that, 16 D N bytes
    for N nodes, is what a call sends, whatever n and m are, and nothing backwards (with weights, 8 bytes each). With
    the default scales N is 32 for each unit that the points reach over, and 64 in float64. Points that need more than
    2048 nodes, and those of the method "direct", are sent to all ranks, which all compute the same. On a GPU, and where
    a weight or scale requires a gradient, all but the sums is plain torch, which takes many times as long as the
    kernels.

    Gradients: see the module. Errors are those of `pykernels.cauchy_mmd`, n and m being those of all ranks.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
        >>> cauchy_mmd(x, y, scales=(1.0,), unbiased=False)
        tensor(0.2500)
    """
    if world_size(group) == 1:
        weights: Any = {"x_weights": x_weights, "y_weights": y_weights}
        return pykernels.cauchy_mmd(
            x, y, scales, **weights, unbiased=unbiased, method=method, tolerance=tolerance
        )
    return _distributed_mmd.cauchy_mmd(x, y, scales, x_weights, y_weights, unbiased, method, tolerance, group)


def mmd(
    x: Tensor,
    y: Tensor,
    kernel: str = "cauchy",
    scales: Sequence[float] | Tensor | None = None,
    unbiased: bool = True,
    *,
    group: Group = None,
) -> Tensor:
    """`pykernels.mmd` of two samples whose points are shared out: x [n_r, D] and y [m_r, D], any numbers of each.

    Returns:
        A scalar, the same on all ranks.

    All points are sent to all ranks, and backwards all gradients; a rank sums over the pairs of its own points with
    all: O((n_r + m_r) (n + m) D) time. Gradients: see the module. Errors are those of `pykernels.mmd`.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
        >>> mmd(x, y, scales=(1.0,), unbiased=False)
        tensor(0.4167)
    """
    if world_size(group) == 1:
        return pykernels.mmd(x, y, kernel, scales, unbiased)
    return _distributed_mmd.mmd(x, y, kernel, scales, unbiased, group)
