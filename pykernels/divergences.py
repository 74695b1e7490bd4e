"""Divergences between a mixture of encodings, the aggregate posterior, and a prior."""

from torch import Tensor
from torch.distributions import Distribution

from . import _checks
from .mixture import gaussian_mixture_log_prob


def inclusive_kl(
    prior: Distribution,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None = None,
    *,
    num_samples: int | None = None,
    samples: Tensor | None = None,
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

    Returns:
        A scalar in nats, unbiased for the full mixture. Being a sample mean, it can be negative.

    Gradients reach `loc`, `scale`, `log_weights`, the given `samples`, and the prior's parameters where it
    has `rsample`. Given samples determine the result to the bit; drawn ones follow torch's generator. The
    cost is O(B n D) time and O((B + n) D) memory.

    Raises:
        TypeError: `prior` is no distribution, or dtypes do not mix.
        ValueError: not exactly one of `num_samples` and `samples`, a prior of the wrong shape, a prior with a
            parameter that requires a gradient which its `sample` cannot carry, or what
            `gaussian_mixture_log_prob` refuses.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> inclusive_kl(prior, torch.zeros(3, 2), torch.tensor(2.0), samples=torch.zeros(1, 2))
        tensor(1.3863)
    """
    _checks.inclusive_kl_arguments(prior, loc, num_samples, samples)
    if samples is not None:
        points = samples
    elif prior.has_rsample:
        points = prior.rsample((num_samples,))
    else:
        points = prior.sample((num_samples,))
    prior_log_prob = prior.log_prob(points)
    if samples is None and not prior.has_rsample:
        _checks.no_lost_gradient(prior_log_prob)
    return (prior_log_prob - gaussian_mixture_log_prob(points, loc, scale, log_weights)).mean()
