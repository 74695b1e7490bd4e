"""MIG, SAP and DCI: what other papers measure the alignment of dimensions with factors by.

All take encodings [n, D], the encoders' means for all n points of `factors`, in their order; factors of one value are
left out. Each lies in [0, 1]; dimensions may be permuted, scaled and negated (DCI: but for its forests' draws).
"""

import math
from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from vae.data.factors import Factors


def mutual_information_gap(encodings: Tensor, factors: Factors, bins: int = 20) -> float:
    """MIG (Chen et al. 2018): the mean over factors of (I₁ − I₂) / H, where I₁ and I₂ are the largest two mutual
    informations of the factor with a dimension, and H is the factor's entropy, the log of its number of values.

    Dimensions are sorted into `bins` of equal width, as is usual with means for encodings.
    """
    low, high = encodings.amin(0), encodings.amax(0)
    width = (high - low).masked_fill(high == low, 1)
    binned = ((encodings - low) / width * bins).long().clamp(max=bins - 1)
    gaps = []
    for levels, size in _factors(factors, encodings.device):
        information = torch.stack(
            [_mutual_information(column, levels, bins, size) for column in binned.unbind(1)]
        )
        gaps.append(_gap(information) / math.log(size))
    return sum(gaps) / len(gaps)


def _mutual_information(a: Tensor, b: Tensor, size_a: int, size_b: int) -> Tensor:
    joint = _counts(a, b, size_a, size_b) / len(a)
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    result: Tensor = torch.special.xlogy(joint, joint / independent.masked_fill(joint == 0, 1)).sum()
    return result


def separated_predictability(
    encodings: Tensor, factors: Factors, unordered: tuple[str, ...] = ("shape",)
) -> float:
    """SAP (Kumar et al. 2018): the mean over factors of how much better the best dimension predicts it than the
    second best. For ordered factors by the square of the correlation; for those named `unordered` by the share of
    points that are on the right side of thresholds that are best for them, one interval for each value.
    """
    gaps = []
    for name, (levels, size) in zip(_varying(factors), _factors(factors, encodings.device), strict=True):
        if name in unordered:
            scores = torch.stack([_threshold_accuracy(z, levels, size) for z in encodings.unbind(1)])
        else:
            scores = _squared_correlations(encodings.double(), levels.double())
        gaps.append(_gap(scores))
    return sum(gaps) / len(gaps)


def _squared_correlations(encodings: Tensor, levels: Tensor) -> Tensor:
    constant = encodings.amax(0) == encodings.amin(0)
    z, v = encodings - encodings.mean(0), levels - levels.mean()
    squares = (z.square().sum(0) * v.square().sum()).masked_fill(constant, 1)
    return ((v @ z).square() / squares).masked_fill(constant, 0)


def _threshold_accuracy(z: Tensor, levels: Tensor, size: int, candidates: int = 200) -> Tensor:
    """Of all ways to cut the line at up to size − 1 of some quantiles, and to give each value one interval."""
    z = z.double()
    thresholds = z[:: len(z) // 100_000 + 1].quantile(torch.linspace(0, 1, candidates).to(z))
    bucket = torch.searchsorted(thresholds, z, right=True)
    below = _counts(bucket, levels, candidates + 1, size).cumsum(0)  # of each value, by threshold
    best = z.new_zeros((), dtype=torch.float64)
    for order in permutations(range(size)):
        # right[i]: at most so many are right at or below threshold i, where the latest interval reaches it.
        right = below[:, order[0]]
        for value in order[1:]:
            right = (right - below[:, value]).cummax(0).values + below[:, value]
        best = torch.maximum(best, right[-1])
    return best / len(z)


class Dci(NamedTuple):
    disentanglement: float
    completeness: float
    informativeness: float


def dci(encodings: Tensor, factors: Factors, points: int = 10_000) -> Dci:
    """DCI (Eastwood and Williams 2018), from random forests that predict each factor from all dimensions.

    A dimension is disentangled as far as it is important for one factor only, a factor complete as far as one
    dimension only is important for it: 1 − entropy, in units of the uniform's. Dimensions count by their importance.
    Informativeness is the forests' accuracy on points they have not seen, half as many as the `points` that they
    have. Seconds; the same from run to run.
    """
    from sklearn.ensemble import RandomForestClassifier

    shuffled = torch.randperm(factors.count, generator=torch.Generator().manual_seed(0)).to(encodings.device)
    points = min(points, 2 * factors.count // 3)
    train, test = shuffled[:points], shuffled[points : points + points // 2]
    importances, accuracies = [], []
    for levels, _ in _factors(factors, encodings.device):
        # Every split is chosen from all dimensions, or those that know nothing would gain importance.
        forest = RandomForestClassifier(n_estimators=10, max_features=None, max_depth=12, random_state=0)
        forest.fit(encodings[train].cpu().numpy(), levels[train].cpu().numpy())
        importances.append(torch.from_numpy(forest.feature_importances_))
        accuracies.append(forest.score(encodings[test].cpu().numpy(), levels[test].cpu().numpy()))
    importance = torch.stack(importances, dim=1)  # [D, factors]
    of_dimension = _concentration(importance)
    weight = importance.sum(1) / importance.sum()
    disentanglement = (weight * of_dimension).sum().item()
    return Dci(disentanglement, _concentration(importance.T).mean().item(), sum(accuracies) / len(accuracies))


def _concentration(importance: Tensor) -> Tensor:
    """1 − the entropy of each row relative to the largest: 1 where one entry has everything."""
    total = importance.sum(1, keepdim=True)
    shares = importance / total.masked_fill(total == 0, 1)
    entropy = torch.special.entr(shares).sum(1)
    result: Tensor = 1 - entropy / math.log(max(2, importance.shape[1]))
    return result


def _varying(factors: Factors) -> list[str]:
    return [name for name, size in zip(factors.names, factors.sizes) if size > 1]


def _factors(factors: Factors, device: torch.device) -> Iterator[tuple[Tensor, int]]:
    """The level of every point, and their number, for each factor that varies."""
    rows = torch.arange(factors.count, device=device)
    for factor, size in enumerate(factors.sizes):
        if size > 1:
            yield rows // factors.step(factor) % size, size


def _counts(a: Tensor, b: Tensor, size_a: int, size_b: int) -> Tensor:
    """How often each pair occurs, float64 [size_a, size_b]."""
    return (a * size_b + b).bincount(minlength=size_a * size_b).view(size_a, size_b).double()


def _gap(scores: Tensor) -> float:
    """Between the largest and the second largest."""
    best = scores.topk(min(2, len(scores))).values.tolist()
    result: float = best[0] - (best[1] if len(best) > 1 else 0.0)
    return result
