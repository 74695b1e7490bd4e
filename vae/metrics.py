"""What a trained model is judged by, and intervals over runs."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy
import scipy.optimize
import scipy.stats
import torch
from torch import Tensor

from vae.model import VAE, evaluating
from vae.objectives import kl_to_prior


def evaluate(model: VAE, batches: Iterable[Tensor], num_samples: int = 1000) -> dict[str, float]:
    """Means per data point over all batches, from the same K = `num_samples` posterior draws for each:

    log_likelihood  E_q[log p(x|z)]
    kl              KL(q(z|x)‖p(z))
    iwae            log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), a lower bound of log p(x) (Burda et al. 2016)
    reconstruction  squared distance of x to the decoder's mean at the encoder's mean

    Decodes one draw for each point of a batch at a time, so K costs time, but no memory.
    """
    with evaluating(model):
        by_batch = [_evaluate_batch(model, x, num_samples) for x in batches]
    means = torch.cat(by_batch, dim=1).double().mean(1).tolist()
    return dict(zip(("log_likelihood", "kl", "iwae", "reconstruction"), means, strict=True))


def _evaluate_batch(model: VAE, x: Tensor, num_samples: int) -> Tensor:
    """The four quantities of each point, [4, B]."""
    prior = model.prior()
    encoding = model.encode(x)
    posterior = encoding.posterior
    log_likelihoods, kls, log_weights = [], [], []
    for _ in range(num_samples):
        z = posterior.sample()
        log_likelihoods.append(model.decode(z).log_prob(x))
        kls.append(kl_to_prior(posterior, prior, z))
        log_weights.append(log_likelihoods[-1] + prior.log_prob(z) - posterior.log_prob(z))
    iwae = torch.stack(log_weights).logsumexp(0) - math.log(num_samples)
    error = (model.decode(encoding.loc).mean - x).square().flatten(1).sum(1)
    return torch.stack([torch.stack(log_likelihoods).mean(0), torch.stack(kls).mean(0), iwae, error])


class Sparsity(NamedTuple):
    """Normalised Hoyer sparsity, between 0 and 1, and what it does not see."""

    hoyer: float
    constant_dimensions: int
    zero_vectors: int


def hoyer(encodings: Tensor) -> Sparsity:
    """The mean over n points of (√d − ‖y‖₁/‖y‖₂) / (√d − 1), where y is a point of `encodings` [n, D] with each
    dimension divided by its standard deviation over the n points, and not centred.

    1 where a single dimension of a point is not 0, 0 where all are equal. Dimensions that are constant over the
    points are left out of the d; a point of nothing but zeros counts as 0. At D = 50 the standard normal has
    0.231, and the sparse prior of γ = 0.8 has 0.420.
    """
    encodings = encodings.double()
    varying = encodings.amax(0) != encodings.amin(0)
    d = int(varying.sum())
    if d < 2:
        raise ValueError(
            f"Hoyer sparsity needs 2 or more dimensions that vary over the points, "
            f"encodings {tuple(encodings.shape)} have {d}"
        )
    y = encodings[:, varying]
    y = y / y.std(0)
    norm = y.norm(dim=1)
    zero = norm == 0
    ratio = y.abs().sum(1) / norm.masked_fill(zero, 1)
    sparsity = ((d**0.5 - ratio) / (d**0.5 - 1)).masked_fill(zero, 0)
    return Sparsity(sparsity.mean().item(), encodings.shape[1] - d, int(zero.sum()))


def assignment_accuracy(labels: Tensor, clusters: Tensor) -> float:
    """The share of points in the cluster of their label, under the best one-to-one matching of both."""
    counts = numpy.zeros((int(labels.max()) + 1, int(clusters.max()) + 1))
    numpy.add.at(counts, (labels.cpu().numpy(), clusters.cpu().numpy()), 1)
    matched = scipy.optimize.linear_sum_assignment(counts, maximize=True)
    return float(counts[matched].sum() / len(labels))


def student_t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of the confidence interval of the mean of normal values with unknown variance."""
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, got {len(values)}")
    quantile = scipy.stats.t.ppf((1 + level) / 2, df=len(values) - 1)
    return float(numpy.mean(values)), float(quantile * scipy.stats.sem(values))
