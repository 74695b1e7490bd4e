"""The decomposition objective (eq 7): pure functions but for draws from torch's global generators."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from vae.model import VAE, Encoding

Divergence = Callable[[Distribution, Encoding], Tensor]
"""D(q(z), p(z)), a scalar, from the prior and the encodings whose equal mixture is q(z)."""


class Terms(NamedTuple):
    """Scalars, each a mean per data point."""

    objective: Tensor
    log_likelihood: Tensor
    kl: Tensor
    divergence: Tensor


def decomposition(
    model: VAE, x: Tensor, *, alpha: float, beta: float, divergence: Divergence, data: Tensor | None = None
) -> Terms:
    """E_q[log p(x|z)] − β KL(q(z|x)‖p(z)) − α D(q(z), p(z)), averaged over the batch x: to be maximised.

    α multiplies D per data point, so its meaning does not change with the batch size. q(z) is made of the
    batch's encodings, or of those of all of `data` where given, which then is encoded anew in every call.
    A term whose weight is 0 is still measured, but without a gradient.
    """
    encoding, log_likelihood = model(x)
    prior = model.prior()
    with _gradient_if(beta):
        kl = kl_to_prior(encoding.posterior, prior, encoding.z).mean()
    with _gradient_if(alpha):
        discrepancy = divergence(prior, encoding if data is None else model.encode(data))
    objective = log_likelihood = log_likelihood.mean()
    # A term that is left out must not poison the sum: 0 · inf is NaN.
    if beta:
        objective = objective - beta * kl
    if alpha:
        objective = objective - alpha * discrepancy
    return Terms(objective, log_likelihood, kl, discrepancy)


def kl_to_prior(posterior: Distribution, prior: Distribution, z: Tensor) -> Tensor:
    """KL(q(z|x)‖p(z)) [B]: in closed form where torch has one, else log q(z|x) − log p(z) at the draws z."""
    try:
        return kl_divergence(posterior, prior)
    except NotImplementedError:
        return posterior.log_prob(z) - prior.log_prob(z)


def _gradient_if(weight: float) -> AbstractContextManager:
    return nullcontext() if weight else torch.no_grad()
