"""What is asked of a prior: points, densities of them and of their dimensions, and that it fits the encodings."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from ._aggregate_checks import reduction_name
from ._checks import _computing_dtype, _shape, positive_count
from .distributions import DiagonalGaussianMixture
from .mixture import gaussian_mixture_marginal_log_prob
from .reference.marginals import prior_marginal_log_prob
from .reference.precision import as_given


def points(prior: Distribution, loc: Tensor, num_samples: int | None, samples: Tensor | None) -> Tensor:
    """[B, D], those given, or new ones, with a gradient where the prior can give them one."""
    if num_samples is None:
        assert samples is not None  # checked by the callers
        return samples
    draw: Any = prior.rsample if prior.has_rsample else prior.sample
    with as_given(loc.device):
        drawn: Tensor = draw(torch.Size((positive_count("num_samples", num_samples),)))
    return drawn


def log_prob(prior: Distribution, points: Tensor) -> Tensor:
    """[B] for points [B, D], computed as all else is, whatever half types and autocast are about."""
    with as_given(points.device):
        result: Tensor = prior.log_prob(_wide(points))
    return result


def marginal_log_prob(prior: Distribution, points: Tensor) -> Tensor:
    """[B, D], of each dimension by itself."""
    if isinstance(prior, MixtureSameFamily) and _is_diagonal_gaussian(prior.component_distribution):
        prior = DiagonalGaussianMixture.from_mixture(prior)
    if isinstance(prior, DiagonalGaussianMixture):
        return gaussian_mixture_marginal_log_prob(points, prior.loc, prior.scale, prior.log_weights)
    with as_given(points.device):
        result = prior_marginal_log_prob(prior, _wide(points))
    if result is None:
        raise TypeError(
            f"prior must be one whose marginals are known, Independent(..., 1), MultivariateNormal, "
            f"DiagonalGaussianMixture or a MixtureSameFamily of the first two, but is {type(prior).__name__}: "
            "exclusive_kl takes any prior"
        )
    return result


def check_inclusive_kl(
    prior: Distribution, loc: Tensor, num_samples: int | None, samples: Tensor | None, reduction: str
) -> None:
    if (num_samples is None) == (samples is None):
        came = "neither" if samples is None else "both"
        raise ValueError(
            f"exactly one of num_samples and samples must be given, but {came} came: num_samples draws from "
            "the prior, samples are points already drawn"
        )
    reduction_name(reduction)
    _computing_dtype({"loc": loc})
    if loc.dim() != 2:
        raise ValueError(
            f"loc must have shape [n, D], all encodings in one list, but has shape {_shape(loc)}: "
            "reshape it, or call once per batch element"
        )
    check(prior, loc)
    dims = loc.shape[-1:]
    if samples is not None:
        _computing_dtype({"samples": samples, "loc": loc})
        if samples.dim() != 2 or samples.shape[0] == 0 or samples.shape[1:] != dims:
            raise ValueError(
                f"samples must have shape [B, {dims[0]}] with B >= 1, but has shape {_shape(samples)}: "
                "draw them with prior.sample((B,))"
            )


def check(prior: Distribution, loc: Tensor) -> None:
    """Checks that `prior` is a distribution of points in the space of `loc` [n, D], and of its dtype."""
    if not isinstance(prior, Distribution):
        raise TypeError(
            f"prior must be a torch.distributions.Distribution, but came as {type(prior).__name__}: "
            "pass the distribution itself, not its samples or its log-density"
        )
    dims = loc.shape[-1:]
    if prior.event_shape == () and prior.batch_shape == dims:
        raise ValueError(
            f"prior must have event_shape {tuple(dims)}, but that is its batch_shape: wrap it with "
            "torch.distributions.Independent(prior, 1) so that its dimensions make one point"
        )
    if prior.event_shape != dims or prior.batch_shape != ():
        raise ValueError(
            f"prior must have event_shape {tuple(dims)}, as loc has shape {_shape(loc)}, and no batch_shape, "
            f"but has event_shape {tuple(prior.event_shape)} and batch_shape {tuple(prior.batch_shape)}: "
            "build it for the space that the encodings live in"
        )
    if torch.compiler.is_compiling():
        return  # which does not follow a look at all that an object holds
    kinds = {tensor.dtype for tensor in _tensors(prior) if tensor.is_floating_point()}
    double = torch.float64 in kinds
    if kinds and double != (loc.dtype == torch.float64):
        came = (
            "float64" if double else " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        )
        raise TypeError(
            f"prior must be of float64 where the encodings are, and there alone, but its parameters are {came} and "
            f"loc is {str(loc.dtype).removeprefix('torch.')}: build it from tensors of loc's dtype, or convert "
            "the encodings with .to()"
        )


def check_no_lost_gradient(prior_log_prob: Tensor, points: Tensor, given: bool) -> None:
    """Where the points carry no gradient but their density does, one of the prior's parameters requires it, and what
    moving the points would add is lost. What is left has the mean 0."""
    if points.requires_grad or not prior_log_prob.requires_grad:
        return
    if given:
        raise ValueError(
            "samples must carry a gradient where a parameter of the prior requires one, but came without: the prior "
            "would get the gradient of log p at fixed points, which is noise around 0 and not that of KL(p || q). Draw "
            "them with prior.rsample(); if only the encodings are to learn from this, build the prior from detached "
            "parameters; if only the value matters, call under torch.no_grad()"
        )
    raise ValueError(
        "prior must have rsample where one of its parameters requires a gradient, because the gradient "
        "through the drawn points would be lost: pass samples that carry it, or detach the parameters"
    )


def _wide(points: Tensor) -> Tensor:
    return points if points.dtype == torch.float64 else points.float()


def _tensors(distribution: Distribution) -> Iterator[Tensor]:
    """Those that it holds, and those of the distributions that it is made of."""
    for part in vars(distribution).values():
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, Distribution):
            yield from _tensors(part)


def _is_diagonal_gaussian(components: Distribution) -> bool:
    return (
        isinstance(components, Independent)
        and isinstance(components.base_dist, Normal)
        and components.reinterpreted_batch_ndims == 1
    )
