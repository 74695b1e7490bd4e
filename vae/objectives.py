"""The decomposition objective (eq 7): pure functions but for draws from torch's global generators.

    E_q[log p(x|z)] − β KL(q(z|x)‖p(z)) − α D(q(z), p(z))

Published objectives are settings of it:

function             α       β    D                                 objective
beta_vae             0       β                                      β-VAE (eq 2)
entropy_regularised  β − 1   1    −½ log|S(x)|                      L_{H,β} (eq 5)
beta_tcvae           β − 1   1    total correlation, by mws         β-TCVAE (Chen et al. 2018)
hfvae                1       c    (a − c)·MI + (b − c)·TC, by 11b   HFVAE-style: a·MI + b·TC + c·dimension-wise KL
factor_vae           γ       1    total correlation, by a network   FactorVAE (Kim & Mnih 2018)
wae_mmd              λ       0    MMD of whole vectors              WAE-MMD (Tolstikhin et al. 2018)
wae_gan              λ       0    a network's loss                  WAE-GAN (Tolstikhin et al. 2018)

MI + TC + dimension-wise KL is the KL of the data points on average, which the objective takes in closed form where
there is one; the published β-TCVAE and HFVAE take the one-sample estimate of the same.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from vae import divergences, ranks
from vae.density_ratio import DensityRatio
from vae.model import VAE, Encoding

Divergence = Callable[[Distribution, Encoding], Tensor]
"""D(q(z), p(z)), a scalar, from the prior and the encodings whose equal mixture is q(z): see `vae.divergences`."""


Objective = Callable[[VAE, Tensor], "Terms"]
"""What training maximises, of a model and a batch."""


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
    batch's encodings, or of those of all of `data` where given, which then is encoded anew in every call. Where x and
    `data` are parts that ranks hold, all terms are those of the whole.
    A term whose weight is 0 is still measured, but without a gradient.
    """
    encoding, log_likelihood = model(x)
    prior = model.prior()
    with _gradient_if(beta):
        kl = ranks.mean(kl_to_prior(encoding.posterior, prior, encoding.z))
    with _gradient_if(alpha):
        if data is None:
            discrepancy = divergence(prior, Encoding(*map(ranks.counted, encoding)))
        else:
            with ranks.holding_shards(data):
                discrepancy = divergence(prior, model.encode(data))
    objective = log_likelihood = ranks.mean(log_likelihood)
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


def beta_vae(beta: float) -> Objective:
    return partial(decomposition, alpha=0.0, beta=beta, divergence=divergences.nothing)


def entropy_regularised(beta: float) -> Objective:
    """ELBO + (β−1)/2 · log|S(x)|: the β-VAE of the rescaled networks of Corollary 1, but for a constant."""
    return partial(decomposition, alpha=beta - 1, beta=1.0, divergence=divergences.negative_log_volume)


def beta_tcvae(beta: float, dataset_size: int, estimator: str = "mws") -> Objective:
    """With mws the measured total correlation is (D−1) log N too high, which no gradient sees."""
    total_correlation = partial(
        divergences.decomposed_kl, total_correlation=1.0, estimator=estimator, dataset_size=dataset_size
    )
    return partial(decomposition, alpha=beta - 1, beta=1.0, divergence=total_correlation)


def hfvae(
    *,
    mutual_information: float = 1.0,
    total_correlation: float = 1.0,
    dimensionwise_kl: float = 1.0,
    dataset_size: int,
    estimator: str = "hfvae",
) -> Objective:
    """E_q[log p(x|z)] − a·MI − b·TC − c·dimension-wise KL, every dimension being a group of its own."""
    excess = partial(
        divergences.decomposed_kl,
        mutual_information=mutual_information - dimensionwise_kl,
        total_correlation=total_correlation - dimensionwise_kl,
        estimator=estimator,
        dataset_size=dataset_size,
    )
    return partial(decomposition, alpha=1.0, beta=dimensionwise_kl, divergence=excess)


def factor_vae(gamma: float, ratio: DensityRatio) -> Objective:
    """With `DensityRatio(latent_dim, against="shuffled")`, a part of the model."""
    return partial(decomposition, alpha=gamma, beta=1.0, divergence=ratio)


def wae_mmd(
    weight: float, kernel: str = "cauchy", scales: Sequence[float] | Tensor | None = None
) -> Objective:
    """`scales` are squared lengths of the kernel, which by default go with the prior's variance."""
    mmd = partial(divergences.whole_vector_mmd, kernel=kernel, scales=scales)
    return partial(decomposition, alpha=weight, beta=0.0, divergence=mmd)


def wae_gan(weight: float, ratio: DensityRatio) -> Objective:
    """With `DensityRatio(latent_dim, measure="gan")`, a part of the model."""
    return partial(decomposition, alpha=weight, beta=0.0, divergence=ratio)


def _gradient_if(weight: float) -> AbstractContextManager[None]:
    return nullcontext() if weight else torch.no_grad()
