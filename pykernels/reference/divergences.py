"""Divergences as Monte-Carlo means over the mixture density (the specification's section 4)."""

from torch import Tensor
from torch.distributions import Distribution

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
    """KL(p || q) = (1/B) sum_j [log p(z_j) - log q(z_j)], z_j ~ p, with q the mixture of all n components."""
    if samples is None:
        draw = prior.rsample if prior.has_rsample else prior.sample
        samples = draw((num_samples,))
    return (prior.log_prob(samples) - gaussian_mixture_log_prob(samples, loc, scale, log_weights)).mean()
