"""Divergences D(q(z), p(z)) as the objective takes them: functions of the prior and of encodings.

Each returns a scalar that is 0 where q and p agree, but for noise, and, where its docstring says so, for bias and
constants. What one of them needs besides, it takes by name, for `functools.partial` to fill in. Divergences that
remember something, a bank of encodings or a discriminator, are classes with files of their own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

import pykernels
from vae import ranks
from vae.model import Encoding


def nothing(prior: Distribution, encoding: Encoding) -> Tensor:
    """0: the β-VAE, which has no such term."""
    return encoding.loc.new_zeros(())


def negative_log_volume(prior: Distribution, encoding: Encoding) -> Tensor:
    """−½ log|S(x)|, the mean over the batch: minus the encoder's entropy, but for a constant (eq 5)."""
    return -ranks.mean(encoding.scale.log().sum(-1))


def exclusive_kl(
    prior: Distribution, encoding: Encoding, *, estimator: str = "exact", dataset_size: int | None = None
) -> Tensor:
    """KL(q(z)‖p(z)) from the draws of the encodings; exact where they are those of the whole data set.

    The estimators for a minibatch have large biases: see `pykernels.exclusive_kl`.
    """
    loc, scale, z = encoding
    result: Tensor = ranks.kernels().exclusive_kl(
        z, loc, scale, prior, estimator=estimator, dataset_size=dataset_size
    )
    return result


def decomposed_kl(
    prior: Distribution,
    encoding: Encoding,
    *,
    mutual_information: float = 0.0,
    total_correlation: float = 0.0,
    dimensionwise_kl: float = 0.0,
    estimator: str = "exact",
    dataset_size: int | None = None,
) -> Tensor:
    """The terms of `pykernels.kl_decomposition`, each times its weight."""
    loc, scale, z = encoding
    terms = ranks.kernels().kl_decomposition(
        z, loc, scale, prior, estimator=estimator, dataset_size=dataset_size
    )
    weights = mutual_information, total_correlation, dimensionwise_kl
    parts: list[Tensor] = [weight * term for weight, term in zip(weights, terms)]
    return parts[0] + parts[1] + parts[2]


def inclusive_kl(prior: Distribution, encoding: Encoding, *, num_samples: int) -> Tensor:
    """KL(p(z)‖q(z)) from fresh draws of the prior to the mixture of the encodings: too high where they are not those of
    the whole data set."""
    loc, scale, _ = encoding
    result: Tensor = ranks.kernels().inclusive_kl(prior, loc, scale, num_samples=num_samples)
    return result


def dimensionwise_mmd(prior: Distribution, encoding: Encoding) -> Tensor:
    """Eq 10 between the encodings' draws and as many of the prior: unbiased, so it may be below 0. It compares
    marginals only."""
    result: Tensor = ranks.kernels().cauchy_mmd(encoding.z, ranks.sample(prior, encoding.z))
    return result


def sliced_wasserstein(prior: Distribution, encoding: Encoding, *, num_projections: int = 128) -> Tensor:
    """The squared sliced 2-Wasserstein distance between the encodings' draws and as many of the prior, in one process
    only. It is biased upwards: above 0 where q and p agree."""
    ranks.parts_are_known("the sliced Wasserstein distance")
    return pykernels.sliced_wasserstein(encoding.z, ranks.sample(prior, encoding.z), num_projections)


def whole_vector_mmd(
    prior: Distribution,
    encoding: Encoding,
    *,
    kernel: str = "cauchy",
    scales: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """MMD² between the draws of the encodings and as many of the prior: unbiased, so it may be below 0.

    `scales` are squared lengths; by default `vector_scales`, which go with the prior's variance.
    """
    z, drawn = encoding.z, ranks.sample(prior, encoding.z)
    scales = vector_scales(prior, z) if scales is None else scales
    result: Tensor = ranks.kernels().mmd(z, drawn, kernel, scales)
    return result


def vector_scales(prior: Distribution, z: Tensor) -> Tensor | None:
    """2 D σ_z² (0.1, 0.2, 0.5, 1, 2, 5), [6], for draws z [B, D], with the prior's mean variance for σ_z². That is 1
    where it is infinite or not positive; None, the kernel's own default of 1, where the prior does not know it."""
    try:
        variance = prior.variance.detach().mean()
    except NotImplementedError:
        return None
    # By no `if`: on a GPU nothing should wait for a number. No gradient either: a learned prior is not to widen it.
    variance = torch.where(variance.isfinite() & (variance > 0), variance, 1.0)
    variance = variance.to(torch.float64 if z.dtype == torch.float64 else torch.float32)
    return torch.stack([2 * z.shape[-1] * factor * variance for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)])


def shuffled_dimensions(z: Tensor) -> Tensor:
    """Each column in an order of its own: draws, all but exactly, of the product of the marginals of z [B, D]."""
    order = torch.rand(z.shape, device=z.device).argsort(0)
    return z.gather(0, order)
