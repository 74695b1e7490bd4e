"""What is asked of a random call: a result as the reference has it, or an error in words. Never anything else."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.cases import Case, case

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-8}
REFUSALS = (TypeError, ValueError)
DENSITIES = (
    "gaussian_mixture_log_prob",
    "gaussian_mixture_marginal_log_prob",
    "gaussian_mixture_joint_and_marginal_log_prob",
    "DiagonalGaussianMixture",
)


def problem_with(number: int) -> tuple[str, str | None]:
    """The kind of outcome, and what is wrong with it."""
    one = case(number)
    return one.name, problem_of(one)


def problem_of(one: Case) -> str | None:
    leaves = {
        name: t.detach().requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() else t
        for name, t in one.tensors.items()
    }
    try:
        outcome = one.call(**leaves, **one.options)
    except REFUSALS as error:
        if len(str(error)) < 20:
            return f"an error without words: {error!r}"
        if one.tame:
            return f"a lawful call was refused: {error!r}"
        return None
    except RuntimeError as error:
        # torch's own, which has no data to look at: its distributions' checks do the same.
        if one.lawful or "meta tensors" not in str(error):
            return repr(error)[:300]
        return None
    results = [outcome] if isinstance(outcome, Tensor) else list(outcome)
    if any(t.device.type == "meta" for t in results):
        return None
    inputs = [t for t in leaves.values() if isinstance(t, Tensor) and t.requires_grad]
    gradients = _gradients(results, inputs)
    if not one.tame:
        return None
    expected, exact = _by_reference(one, torch.float64)
    for what, kind, ours, theirs in (("result", 0, results, expected), ("gradient", 1, gradients, exact)):
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if a.shape != b.shape:
                return f"{what} {number} has shape {list(a.shape)}, not {list(b.shape)}"
            if not torch.equal(a.isnan(), b.isnan()):
                return f"{what} {number}: NaN in {int(a.isnan().sum())} places, not {int(b.isnan().sum())}"
            # A density is as exact as itself, whatever the others are; of the rest, some are differences.
            size = 1 + (b.detach().abs() if kind == 0 and one.name in DENSITIES else _largest(theirs))
            error, allowed = _error(a, b, size), TOLERANCE[a.dtype]
            if kind == 1:  # with weights that are exponentials of rounded densities
                allowed += 16 * torch.finfo(a.dtype).eps * _largest(expected)
            if error > allowed and a.dtype == torch.float32:
                allowed = 8 * _error(_by_reference(one, torch.float32)[kind][number], b, size)
            if error > allowed:
                return f"{what} {number}: an error of {error:.2g}, {allowed:.2g} allowed"
    return None


def _by_reference(one: Case, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients, computed in this dtype."""
    leaves = {name: t.detach().to(dtype).requires_grad_() for name, t in one.tensors.items()}
    options = {name: _wide(option, dtype) for name, option in one.options.items()}
    results = one.oracle(**leaves, **options)
    results = [results] if isinstance(results, Tensor) else list(results)
    return results, _gradients(results, list(leaves.values()))


def _largest(tensors: Sequence[Tensor]) -> float:
    """Of the finite numbers."""
    finite = torch.cat([t.detach().double()[t.isfinite()] for t in tensors])
    return finite.abs().max().item() if finite.numel() else 0.0


def _error(ours: Tensor, exact: Tensor, size: Tensor | float) -> float:
    if ours.numel() == 0:
        return 0.0
    error = (ours.detach().double() - exact.detach()).abs() / size
    return error.nan_to_num(0, 0, 0).max().item()


def _wide(option: Any, dtype: torch.dtype) -> Any:
    """A prior in another dtype."""
    if isinstance(option, torch.distributions.MultivariateNormal):
        return torch.distributions.MultivariateNormal(
            option.loc.to(dtype), option.covariance_matrix.to(dtype)
        )
    if isinstance(option, torch.distributions.Independent):
        base = option.base_dist
        normal = torch.distributions.Normal(base.loc.to(dtype), base.scale.to(dtype))
        return torch.distributions.Independent(normal, 1)
    return option


def _gradients(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Of a fixed combination of the results."""
    generator = torch.Generator().manual_seed(0)
    cotangents = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in results]
    given = [(t, c.to(t.dtype)) for t, c in zip(results, cotangents) if t.requires_grad]
    if not given:
        return [torch.zeros_like(t) for t in inputs]
    outputs, upstream = zip(*given)
    return list(torch.autograd.grad(outputs, inputs, upstream, materialize_grads=True))
