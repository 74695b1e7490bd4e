"""What is asked of a random call: a result as the reference has it, or an error in words. Never anything else."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.cases import Case, case

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-8}
REFUSALS = (TypeError, ValueError)


def problem_with(number: int) -> tuple[str, str | None]:
    """The kind of outcome, and what is wrong with it."""
    one = case(number)
    return one.name, _problem(one)


def _problem(one: Case) -> str | None:
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
    except NotImplementedError as error:
        return None if not one.lawful else f"{error!r}"
    results = [outcome] if isinstance(outcome, Tensor) else list(outcome)
    if any(t.device.type == "meta" for t in results):
        return None
    inputs = [t for t in leaves.values() if isinstance(t, Tensor) and t.requires_grad]
    gradients = _gradients(results, inputs)
    if not one.tame:
        return None
    doubles = {name: t.detach().double().requires_grad_() for name, t in one.tensors.items()}
    options = {k: _wide(v) for k, v in one.options.items()}
    expected = one.oracle(**doubles, **options)
    expected = [expected] if isinstance(expected, Tensor) else list(expected)
    exact = _gradients(expected, list(doubles.values()))
    for what, ours, theirs in (("result", results, expected), ("gradient", gradients, exact)):
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if a.shape != b.shape:
                return f"{what} {number} has shape {list(a.shape)}, not {list(b.shape)}"
            if found := _difference(a, b):
                return f"{what} {number}: {found}"
    return None


def _wide(option: Any) -> Any:
    """A prior in float64."""
    if isinstance(option, torch.distributions.MultivariateNormal):
        return torch.distributions.MultivariateNormal(option.loc.double(), option.covariance_matrix.double())
    if isinstance(option, torch.distributions.Independent):
        base = option.base_dist
        normal = torch.distributions.Normal(base.loc.double(), base.scale.double())
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


def _difference(ours: Tensor, exact: Tensor) -> str | None:
    if ours.numel() == 0:
        return None
    tolerance = TOLERANCE[torch.float64 if ours.dtype == torch.float64 else torch.float32]
    wide = ours.detach().double()
    if not torch.equal(wide.isnan(), exact.isnan()):
        return f"NaN in {int(wide.isnan().sum())} places, not {int(exact.isnan().sum())}"
    error = (wide - exact.detach()).abs() / (1 + exact.detach().abs().max())
    worst = error.nan_to_num(0, 0, 0).max().item()
    return f"an error of {worst:.2g}, {tolerance:.2g} allowed" if worst > tolerance else None
