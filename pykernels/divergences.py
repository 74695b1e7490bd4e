"""Divergences between a mixture of encodings, the aggregate posterior, and a prior."""

from torch import Tensor
from torch.distributions import Distribution

from . import _aggregate_checks, _checks, _priors
from .minibatch import minibatch_log_prob
from .mixture import (
    gaussian_mixture_joint_and_marginal_log_prob,
    gaussian_mixture_log_prob,
)
from .reference.divergences import KLDecomposition, decomposed, own_log_prob, reduced
from .reference.marginals import factorises


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
    r"""Inclusive divergence KL(p || q) from a prior p to the mixture q of all n encodings.

    .. math:: \operatorname{KL}(p \,\|\, q) \approx \frac1B \sum_j \bigl[\log p(z_j) - \log q(z_j)\bigr],
        \qquad z_j \sim p

    This is the regulariser of Mathieu et al. 2019, "Disentangling Disentanglement in Variational
    Autoencoders" (objective 7 with the pinwheel data), against the full data set; with a minibatch of
    encodings in place of all of them it is biased upwards.

    Args:
        prior: a torch distribution with event shape (D,) and no batch shape. One that factorises is wrapped
            as such: `torch.distributions.Independent(Normal(zeros, ones), 1)`.
        loc: [n, D], the means of the encodings.
        scale: standard deviations, positive, in the units of `loc`; anything that broadcasts to `loc`.
        log_weights: anything that broadcasts to [n], used as given; None is -log n for each.
        num_samples: how many points to draw from the prior, with `rsample` where it has that, else `sample`.
        samples: [B, D], points already drawn from the prior. Exactly one of the two is given.
        reduction: "mean", or "none" for the value of each point by itself.

    Returns:
        A scalar in nats, or [B], unbiased for the full mixture. Being a sample mean, it can be negative.

    Gradients reach `loc`, `scale`, `log_weights`, the given `samples`, and the prior's parameters where points carry
    theirs: drawn by `rsample`, here or by the caller. From fixed points the parameters would get but the gradient of
    log p there, noise of mean 0, so that this is refused while gradients are recorded. Given samples determine the
    result, to the bit as `aggregate_entropy` says; drawn ones follow torch's generator. The cost is O(B n D) time and
    O((B + n) D) memory.

    Raises:
        TypeError: `prior` is no distribution, or dtypes do not mix.
        ValueError: not exactly one of `num_samples` and `samples`, a prior of the wrong shape, a prior with a
            parameter that requires a gradient which the points do not carry, or what `gaussian_mixture_log_prob`
            refuses.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> inclusive_kl(prior, torch.zeros(3, 2), torch.tensor(2.0), samples=torch.zeros(1, 2))
        tensor(1.3863)
    """
    _priors.check_inclusive_kl(prior, loc, num_samples, samples, reduction)
    _aggregate_checks.one_mixture(scale, log_weights)
    points = _priors.points(prior, loc, num_samples, samples)
    prior_log_prob = _priors.log_prob(prior, points)
    _priors.check_no_lost_gradient(prior_log_prob, points, given=samples is not None)
    return reduced(prior_log_prob - gaussian_mixture_log_prob(points, loc, scale, log_weights), reduction)


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
    r"""Entropy H[q(z)] of the aggregate posterior, from draws of it.

    .. math:: \hat H = -\frac1B \sum_b \log \hat q(z_b), \qquad z_b \sim q(z|x_b)

    This is equation 11a of Mathieu et al. 2019, "Disentangling Disentanglement in Variational Autoencoders". With
    the estimator "exact", q is the mixture of all n encodings, and the mean has no bias where the x_b are drawn
    uniformly. The others know the encodings of a minibatch of B of `dataset_size` points, drawn without replacement,
    and weigh them as `minibatch_log_prob` says; E[log q̂] lies below log E[q̂], so that with "hfvae" and "mss" the
    entropy is overestimated, by up to log n - I(x;z) where the encodings of a minibatch overlap little. "mws" and
    "batch" are off by constants besides: their weights sum to 1 / dataset_size, and to 1 over the minibatch alone.

    Args:
        z: [B, D], a draw from each of B encodings.
        loc: [n, D], the means of all encodings; for a minibatch estimator [B, D], encoding b being that of z_b.
        scale: standard deviations, positive, in the units of `loc`; anything that broadcasts to it.
        estimator: "exact", or "mws", "mss", "hfvae", "batch" for those of `minibatch_log_prob`.
        dataset_size: how many points the data set has; needed for a minibatch, but for "batch", and n otherwise.
        index: [B], int64, the row of `loc` that each z was drawn from. No entropy depends on it; it is taken so that
            all three functions of this kind take the same arguments.
        log_weights: anything that broadcasts to [n], used as given; None is -log n for each. For "exact" only.
        reduction: "mean", or "none" for the value of each z by itself.

    Returns:
        A scalar in nats, or [B]. It can be negative, as any differential entropy.

    Gradients reach z, `loc`, `scale` and `log_weights`. Where z = loc + scale * noise, the gradient through z alone is
    unbiased for "exact": the rest, through the `loc` and `scale` inside q, averages to 0 over q, so that all n of them
    may be detached. (Attached for the batch's own and not for the others, they would bias it.)

    Equal arguments give equal bits, with "none" for any number of threads; torch's mean over very many points may
    differ in the last ones where that does. The cost is O(B n D) time and O((B + n) D) memory; of a minibatch, O(B^2 D)
    time and O(B D) memory.

    Raises:
        TypeError: an argument is of the wrong kind, or dtypes do not mix.
        ValueError: an unknown name; shapes that do not match; a minibatch estimator without `dataset_size`, or with
            arguments that only "exact" has; what `gaussian_mixture_log_prob` or `minibatch_log_prob` refuse.

    Example:
        >>> z = torch.zeros(2, 1)
        >>> aggregate_entropy(z, torch.zeros(2, 1), torch.ones(()))
        tensor(0.9189)
        >>> aggregate_entropy(z, torch.zeros(2, 1), torch.ones(()), estimator="hfvae", dataset_size=100)
        tensor(0.9189)
    """
    _aggregate_checks.aggregate_arguments(
        z, loc, scale, estimator, dataset_size, index, log_weights, reduction
    )
    return reduced(-_log_density(z, loc, scale, estimator, dataset_size, log_weights), reduction)


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
    r"""Exclusive divergence KL(q || p) from the aggregate posterior to a prior, from draws of the former.

    .. math:: \operatorname{KL}(q \,\|\, p) = -H[q] - \mathbb E_q[\log p]
        \approx \frac1B \sum_b \bigl[\log \hat q(z_b) - \log p(z_b)\bigr], \qquad z_b \sim q(z|x_b)

    The bias is that of `aggregate_entropy` with the other sign: "exact" has none, "hfvae" and "mss" are too low. They
    fall towards E[KL(q(z|x) || p)] - log n as the batch shrinks, so that negative values are to be expected from a
    minibatch wherever E[KL(q(z|x) || p)] < log n (Mathieu et al. 2019, appendix C).

    Args:
        z: [B, D], a draw from each of B encodings.
        loc: [n, D], the means of all encodings; for a minibatch estimator [B, D], encoding b being that of z_b.
        scale: standard deviations, positive, in the units of `loc`; anything that broadcasts to it.
        prior: a torch distribution with event shape (D,) and no batch shape.
        estimator, dataset_size, index, log_weights, reduction: as for `aggregate_entropy`.

    Returns:
        A scalar in nats, or [B]. Being a sample mean, it can be negative whatever the estimator.

    Gradients reach z, `loc`, `scale`, `log_weights` and the prior's parameters. Determinism, cost and errors are those
    of `aggregate_entropy`.

    Example:
        >>> prior = Independent(Normal(torch.zeros(1), torch.ones(1)), 1)
        >>> z, loc = torch.ones(2, 1), torch.ones(2, 1)
        >>> exclusive_kl(z, loc, torch.ones(()), prior)
        tensor(0.5000)
        >>> exclusive_kl(z, loc, torch.ones(()), prior, estimator="mws", dataset_size=1000)  # off by log 1000
        tensor(-6.4078)
    """
    _aggregate_checks.aggregate_arguments(
        z, loc, scale, estimator, dataset_size, index, log_weights, reduction
    )
    _priors.check(prior, loc)
    log_density = _log_density(z, loc, scale, estimator, dataset_size, log_weights)
    return reduced(log_density - _priors.log_prob(prior, z), reduction)


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
    r"""The mean of KL(q(z|x) || p(z)) in its parts: what z tells of x, and how q(z) differs from p(z).

    .. math::
        \mathbb E \log \frac{q(z|x)}{p(z)}
        = \underbrace{\mathbb E \log \frac{q(z|x)}{q(z)}}_{\text{mutual information}}
        + \underbrace{\mathbb E \log \frac{q(z)}{\prod_d q(z_d)}}_{\text{total correlation}}
        + \underbrace{\mathbb E \log \frac{\prod_d q(z_d)}{\prod_d p(z_d)}}_{\text{dimension-wise KL}}
        + \underbrace{\mathbb E \log \frac{\prod_d p(z_d)}{p(z)}}_{\text{remainder}}

    Equation 2 of Chen et al. 2018, "Isolating Sources of Disentanglement in VAEs", with a fourth term for priors that
    do not factorise. Whatever the estimator, the four add up to the mean of log q(z_b|x_b) - log p(z_b), the one-sample
    estimate of the KL and not its closed form. With "hfvae" and "mss" the joint density suffers from a small batch more
    than the marginals do: mutual information is overestimated and total correlation underestimated, often below 0. With
    "mws", whose weights sum to 1/N, constants are added: log N to the mutual information, (D - 1) log N to the total
    correlation, -D log N to the dimension-wise KL. Gradients do not see them, and exact values are not affected.

    Args:
        z: [B, D], a draw from each of B encodings.
        loc: [n, D], the means of all encodings; for a minibatch estimator [B, D], encoding b being that of z_b.
        scale: standard deviations, positive, in the units of `loc`; anything that broadcasts to it.
        prior: `Independent(..., 1)`, `MultivariateNormal`, a `MixtureSameFamily` of either, or a
            `DiagonalGaussianMixture`: its marginals have to be known. All but the last two take O(B D) memory, a
            `MixtureSameFamily` of C components that are no independent normals O(B C D).
        index: [B], int64, the row of `loc` that each z was drawn from; None is b itself, where B = n.
        estimator, dataset_size, log_weights, reduction: as for `aggregate_entropy`.

    Returns:
        A named tuple (mutual_information, total_correlation, dimensionwise_kl, remainder) of scalars in nats, or [B].
        The remainder is 0 for a prior that factorises.

    Gradients, determinism, cost and errors are those of `aggregate_entropy`, joint and marginals taking one pass; a
    prior of unknown marginals is a TypeError, and B != n without `index` a ValueError.

    Example:
        >>> prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> loc = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        >>> terms = kl_decomposition(loc, loc, torch.tensor(0.1), prior)
        >>> [round(term.item(), 4) for term in terms]
        [0.6931, 0.6931, 4.2189, 0.0]
    """
    _aggregate_checks.aggregate_arguments(
        z, loc, scale, estimator, dataset_size, index, log_weights, reduction
    )
    _aggregate_checks.own_encodings(z, loc, index)
    _priors.check(prior, loc)
    z, loc, scale, log_weights = _checks.mixture_inputs(z, loc, scale, log_weights)
    prior_marginal = _priors.marginal_log_prob(prior, z)
    if estimator == "exact":
        joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(z, loc, scale, log_weights)
    else:
        joint, marginal = minibatch_log_prob(z, loc, scale, _known_size(dataset_size, loc), estimator)
    own = own_log_prob(z, loc, scale, index)
    prior_log_prob = None if factorises(prior) else _priors.log_prob(prior, z)
    return decomposed(own, joint, marginal, prior_marginal, prior_log_prob, reduction)


def _log_density(
    z: Tensor,
    loc: Tensor,
    scale: Tensor,
    estimator: str,
    dataset_size: int | None,
    log_weights: Tensor | None,
) -> Tensor:
    if estimator == "exact":
        return gaussian_mixture_log_prob(z, loc, scale, log_weights)
    return minibatch_log_prob(z, loc, scale, _known_size(dataset_size, loc), estimator).joint


def _known_size(dataset_size: int | None, loc: Tensor) -> int:
    """Of the data set; where none is given the callers have checked that the estimator needs none."""
    return len(loc) if dataset_size is None else dataset_size
