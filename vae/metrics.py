"""What a trained model is judged by, and intervals over runs."""

from collections.abc import Sequence

import numpy
import scipy.optimize
import scipy.stats
import torch
from torch import Tensor

from vae.model import VAE
from vae.objectives import kl_to_prior


@torch.no_grad()
def evaluate(model: VAE, x: Tensor, num_samples: int = 1000, chunk_size: int = 100) -> dict[str, float]:
    """Means per data point over x, all from the same `num_samples` posterior draws for each:

    log_likelihood  E_q[log p(x|z)]
    kl              KL(q(z|x)‖p(z))
    iwae            log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), a lower bound of log p(x) (Burda et al. 2016)
    reconstruction  squared distance of x to the decoder's mean at the encoder's mean
    """
    prior = model.prior()
    totals = dict.fromkeys(("log_likelihood", "kl", "iwae", "reconstruction"), 0.0)
    for chunk in x.split(chunk_size):
        encoding = model.encode(chunk)
        posterior = encoding.posterior
        z = posterior.sample((num_samples,))
        repeated = chunk.expand(num_samples, *chunk.shape).flatten(0, 1)
        log_likelihood = model.decode(z.flatten(0, 1)).log_prob(repeated).view(num_samples, -1)
        log_weight = log_likelihood + prior.log_prob(z) - posterior.log_prob(z)
        iwae = log_weight.logsumexp(0) - torch.tensor(num_samples).log()
        error = model.decode(encoding.loc).mean - chunk
        totals["log_likelihood"] += log_likelihood.mean(0).sum().item()
        totals["kl"] += kl_to_prior(posterior, prior, z).expand(num_samples, -1).mean(0).sum().item()
        totals["iwae"] += iwae.sum().item()
        totals["reconstruction"] += error.square().sum().item()
    return {name: total / len(x) for name, total in totals.items()}


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
