"""Estimates of the aggregate posterior from minibatches, measured: encodings with a known answer, and predictions.

A minibatch is B of n data points drawn without replacement, and one draw z from the encoding of each; the divergences
of `nested` and `gradient_to_noise`, which are defined by independent draws, take them with replacement.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pykernels import (
    cauchy_mmd,
    exclusive_kl,
    gaussian_mixture_log_prob,
    minibatch_log_prob,
    mmd,
    sliced_wasserstein,
)

ESTIMATORS = ("hfvae", "mss", "mws", "batch")


class Encodings(NamedTuple):
    """q(z|x_i) = N(loc_i, scale_i²) of n data points, [n, D] both."""

    loc: Tensor
    scale: Tensor

    @property
    def mean_entropy(self) -> float:
        """E_x[H[q(z|x)]]."""
        result: float = Normal(self.loc, self.scale).entropy().sum(1).mean().item()
        return result

    def draw(self, index: Tensor) -> Tensor:
        loc = self.loc[index]
        return loc + self.scale[index] * torch.randn_like(loc)


def standard_normal(dims: int) -> Distribution:
    return Independent(
        Normal(torch.zeros(dims), torch.ones(dims), validate_args=False), 1, validate_args=False
    )


def gaussian_encodings(n: int, dims: int, scale: float) -> Encodings:
    """Means from N(0, (1 − scale²) I): as n grows, q(z) becomes the standard normal."""
    loc = math.sqrt(1 - scale**2) * torch.randn(n, dims)
    return Encodings(loc, torch.full_like(loc, scale))


def clusters(count: int, size: int, dims: int, scale: float = 0.05) -> Encodings:
    """`count` places, none near another, with `size` equal encodings in each: H[q] = log count + H[q(z|x)]."""
    side = math.ceil(count ** (1 / min(dims, 3)))
    grid = torch.cartesian_prod(*[torch.arange(float(side))] * min(dims, 3)).view(side ** min(dims, 3), -1)
    places = torch.zeros(count, dims)
    places[:, : grid.shape[1]] = 20 * scale * (grid[:count] - 0.5 * (side - 1))
    loc = places.repeat_interleave(size, 0)
    return Encodings(loc, torch.full_like(loc, scale))


def expected_excess(estimator: str, count: int, size: int, batch_size: int) -> float:
    """E[Ĥ] − E[H[q(z|x)]] for `clusters`: the others of the own cluster in the batch follow the hypergeometric law."""
    n, m = count * size, batch_size - 1
    met = numpy.arange(0, min(size - 1, m) + 1)
    probability = scipy.stats.hypergeom(n - 1, size - 1, m).pmf(met)
    if estimator == "hfvae":
        weight = 1 / n + met * (n - 1) / (n * m)
    elif estimator == "mws":
        weight = (1 + met) / (n * batch_size)
    elif estimator == "batch":
        weight = (1 + met) / batch_size
    else:
        odd, share = (n - m) / (n * m), met / m  # of being the odd one, for one that is met
        log_with = numpy.log(1 / n + odd + numpy.maximum(met - 1, 0) / m)
        return float(-(probability * (share * log_with + (1 - share) * numpy.log(1 / n + met / m))).sum())
    return float(-(probability * numpy.log(weight)).sum())


def small_batch_limit(estimator: str, n: int, batch_size: int) -> float:
    """What E[Ĥ] exceeds E[H[q(z|x)]] by where the encodings of a batch do not overlap (appendix C)."""
    factors = {"hfvae": n, "mss": n, "mws": n * batch_size, "batch": batch_size}
    return math.log(factors[estimator])


class Estimate(NamedTuple):
    """Of one estimator at one batch size: its mean error and that of the mean, its deviation from batch to batch, the
    root mean square of its error, and the share of estimates of KL(q‖p) below 0.

    One minibatch alone tells no deviation, which then is NaN; nor the error of the mean, unless that is known to be 0.
    """

    bias: float
    bias_error: float
    deviation: float
    rmse: float
    negative: float


@torch.no_grad()
def kl_estimates(
    encodings: Encodings,
    prior: Distribution,
    batch_size: int,
    repeats: int,
    truth: float,
    names: Sequence[str] = ESTIMATORS,
) -> dict[str, Estimate]:
    """Estimates of KL(q‖p) over many minibatches: by each of `names`, and "exact", by all n at the batch's draws.

    The bias is measured against "exact" at the same draws, which has none, so that their noise is not in it.
    """
    n = len(encodings.loc)
    values: dict[str, list[Tensor]] = {name: [] for name in (*names, "exact")}
    at_once = max(1, min(repeats, (1 << 22) // (batch_size * batch_size)))
    for count in [at_once] * (repeats // at_once):
        index = torch.rand(count, n).topk(batch_size, 1).indices  # in random order, which mss depends on
        z = encodings.draw(index)
        cross = prior.log_prob(z).mean(1)
        exact = gaussian_mixture_log_prob(z.flatten(0, 1), *encodings).view(index.shape).mean(1)
        values["exact"].append(exact - cross)
        loc, scale = encodings.loc[index], encodings.scale[index]
        for name in names:
            values[name].append(minibatch_log_prob(z, loc, scale, n, name).joint.mean(1) - cross)
    found = {name: torch.cat(parts).double() for name, parts in values.items()}
    exact = found["exact"]
    # Of everything, these are sums over all encodings with equal weights: they err by a constant.
    constant = ("hfvae", "mws", "batch") if batch_size == n else ()
    return {
        name: _estimate(value, truth if name == "exact" else exact, truth, name in constant)
        for name, value in found.items()
    }


def _estimate(value: Tensor, known: Tensor | float, truth: float, errs_by_constant: bool) -> Estimate:
    several = len(value) > 1
    error = value - known
    of_one = 0.0 if errs_by_constant else math.nan
    return Estimate(
        bias=error.mean().item(),
        bias_error=(error.std() / math.sqrt(len(value))).item() if several else of_one,
        deviation=value.std().item() if several else math.nan,
        rmse=(value - truth).square().mean().sqrt().item(),
        negative=(value < 0).double().mean().item(),
    )


@torch.no_grad()
def exact_kl(encodings: Encodings, prior: Distribution, draws: int = 1) -> float:
    """KL(q‖p), from so many draws of each encoding."""
    index = torch.arange(len(encodings.loc)).repeat(draws)
    return exclusive_kl(encodings.draw(index), *encodings, prior).item()


class Study(NamedTuple):
    """Estimates of KL(q‖p) by batch size and estimator, of encodings whose KL and mutual information are known."""

    estimates: dict[int, dict[str, Estimate]]
    truth: float
    information: float
    n: int

    def limit(self, name: str, batch_size: int) -> float:
        """The bias where the encodings of a batch do not overlap."""
        return self.information - small_batch_limit(name, self.n, batch_size)


def batch_sizes(n: int) -> list[int]:
    """Powers of 2, and n."""
    return [*(2**k for k in range(1, n.bit_length()) if 2**k < n), n]


def study(encodings: Encodings, prior: Distribution, max_repeats: int) -> Study:
    """By each batch size from 2 to n, or to 2048 where n is above 4096: the cost is quadratic."""
    n = len(encodings.loc)
    index = torch.arange(n).repeat(max(1, 16_384 // n))
    z = encodings.draw(index)
    truth = exclusive_kl(z, *encodings, prior).item()
    information = -truth - prior.log_prob(z).mean().item() - encodings.mean_entropy
    sizes = [size for size in batch_sizes(n) if size <= (n if n <= 4096 else 2048)]
    estimates = {}
    for size in sizes:
        repeats = max(1, min(max_repeats, 16_384 // size, (1 << 22) // size**2))
        estimates[size] = kl_estimates(encodings, prior, size, repeats, truth)
    return Study(estimates, truth, information, n)


class Skew(NamedTuple):
    """Of the second term of eq 11b over what it estimates, whose mean is 1: how little of it there usually is."""

    mean: float
    median: float
    skewness: float
    share_of_top_percent: float
    values: Tensor


@torch.no_grad()
def second_term(encodings: Encodings, batch_size: int, repeats: int) -> Skew:
    """((n−1)/(n(B−1)) Σ_{b'≠b} q(z_b|x_b')) / ((1/n) Σ_{i≠own} q(z_b|x_i)), over the points of many minibatches."""
    n = len(encodings.loc)
    index = torch.rand(repeats, n).topk(batch_size, 1).indices
    z = encodings.draw(index)
    absent = torch.full((n,), -math.log(n - 1))
    ratios = []
    for row, points in zip(index, z):
        of_batch = absent.new_full((batch_size,), -math.log(batch_size - 1)).repeat(batch_size, 1)
        of_batch.fill_diagonal_(-math.inf)
        weights = absent.repeat(batch_size, 1)
        weights[torch.arange(batch_size), row] = -math.inf
        others = gaussian_mixture_log_prob(
            points.unsqueeze(1), encodings.loc[row], encodings.scale[row], of_batch
        )
        everyone = gaussian_mixture_log_prob(points.unsqueeze(1), *encodings, weights)
        ratios.append((others - everyone).squeeze(1).exp())
    values = torch.cat(ratios).double().sort().values
    centred = values - values.mean()
    skewness = (centred**3).mean() / centred.square().mean() ** 1.5
    top = values[-max(1, len(values) // 100) :].sum() / values.sum()
    return Skew(values.mean().item(), values.median().item(), skewness.item(), top.item(), values)


@torch.no_grad()
def nested(encodings: Encodings, prior: Distribution, batch_size: int, repeats: int) -> dict[str, Tensor]:
    """Divergences from B draws of q and of p, once for each repeat. Those that take a logarithm, or the order, of what
    a batch estimates are biased; means of kernels are not. Draws are with replacement."""
    n = len(encodings.loc)
    index = torch.randint(n, (repeats, batch_size))
    z, other = encodings.draw(index), prior.sample((repeats, batch_size))
    log_q = gaussian_mixture_log_prob(other, encodings.loc[index], encodings.scale[index])
    return {
        "dimension-wise MMD": cauchy_mmd(z, other),
        "whole-vector MMD": mmd(z, other),
        "sliced Wasserstein": sliced_wasserstein(z, other, 32),
        "minibatch inclusive KL": (prior.log_prob(other) - log_q).mean(1),
    }


@torch.no_grad()
def nested_truth(encodings: Encodings, prior: Distribution, num_samples: int) -> dict[str, float]:
    """Those of q and p themselves: MMDs unbiased from many draws, sliced Wasserstein with little bias, and the
    inclusive KL to all n encodings."""
    index = torch.arange(num_samples) % len(encodings.loc)
    z, other = encodings.draw(index), prior.sample((num_samples,))
    few = slice(0, min(num_samples, 4096))  # quadratic
    return {
        "dimension-wise MMD": cauchy_mmd(z, other).item(),
        "whole-vector MMD": mmd(z[torch.randperm(num_samples)[few]], other[few]).item(),
        "sliced Wasserstein": sliced_wasserstein(z, other).item(),
        "minibatch inclusive KL": (prior.log_prob(other) - gaussian_mixture_log_prob(other, *encodings))
        .mean()
        .item(),
    }


MMDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dimension-wise MMD": cauchy_mmd,
    "whole-vector MMD": mmd,
}


def gradient_to_noise(dims: int, off: int, batch_size: int, repeats: int) -> dict[str, float]:
    """Signal-to-noise ratio ‖E[g]‖ / √E‖g − E[g]‖² of an MMD's gradient g for mean and scale of each dimension of q, of
    which `off` are N(0.3, 0.8²) and the others as those of the prior N(0, I)."""
    loc, scale = torch.zeros(dims), torch.ones(dims)
    loc[:off], scale[:off] = 0.3, 0.8
    found = {}
    for name, divergence in MMDS.items():
        moments = torch.stack([loc, scale]).repeat(repeats, 1, 1).requires_grad_()
        z = moments[:, :1] + moments[:, 1:] * torch.randn(repeats, batch_size, dims)
        (gradient,) = torch.autograd.grad(divergence(z, torch.randn_like(z)).sum(), moments)
        mean = gradient.mean(0)
        noise = (gradient - mean).square().sum((1, 2)).mean() * repeats / (repeats - 1)
        signal = (mean.square().sum() - noise / repeats).clamp_min(0)  # the mean has noise of its own
        found[name] = (signal / noise).sqrt().item()
    return found
