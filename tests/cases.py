"""Inputs, and the dense transcription of the formulas that results are compared with."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

EDGES = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 127, 128, 129, 513)


class Inputs(NamedTuple):
    value: Tensor
    loc: Tensor
    scale: Tensor
    log_weights: Tensor | None

    def to(self, dtype: torch.dtype) -> "Inputs":
        return Inputs(
            *(None if t is None else t.detach().to(dtype).requires_grad_(t.requires_grad) for t in self)
        )

    def tensors(self) -> list[Tensor]:
        return [t for t in self if t is not None]


def mixture_inputs(
    rows: int = 5,
    components: int = 7,
    dims: int = 3,
    *,
    value_batch: tuple[int, ...] = (),
    loc_batch: tuple[int, ...] = (),
    scale_shape: tuple[int, ...] | None = None,
    weights_shape: tuple[int, ...] | None = None,
    weighted: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Inputs:
    """Random inputs that require gradients; overlapping components, so that many weigh in every sum."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape):
        return _normal(shape, generator)

    value = normal((*value_batch, rows, dims))
    loc = normal((*loc_batch, components, dims))
    scale = 0.3 + normal(loc.shape if scale_shape is None else scale_shape).abs()
    weights = normal((components,) if weights_shape is None else weights_shape) if weighted else None
    inputs = Inputs(
        *(None if t is None else t.to(dtype).requires_grad_() for t in (value, loc, scale, weights))
    )
    return inputs


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The same numbers on every device."""
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return numbers.to(torch.get_default_device())


def dense(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Joint and marginal log-density by torch broadcasting, [*batch, B, n, D] and all: in float64 the oracle,
    in float32 the formulation whose error is the yardstick."""
    value, loc, scale, log_weights = inputs
    n = loc.shape[-2]
    scale = scale.expand(torch.broadcast_shapes(scale.shape, loc.shape))
    z, m, s = value.unsqueeze(-2), loc.unsqueeze(-3), scale.unsqueeze(-3)
    log_normal = -0.5 * ((z - m) / s) ** 2 - s.log() - 0.5 * math.log(2 * math.pi)
    weights = loc.new_full((n,), -math.log(n)) if log_weights is None else log_weights
    weights = weights.expand(*weights.shape[:-1], n).unsqueeze(-2)
    joint = torch.logsumexp(log_normal.sum(-1) + weights, -1)
    return joint, torch.logsumexp(log_normal + weights.unsqueeze(-1), -2)


def gradients(outputs: tuple[Tensor, ...], inputs: Inputs, seed: int = 1) -> list[Tensor]:
    """Gradients of a fixed random combination of the outputs."""
    generator = torch.Generator().manual_seed(seed)
    cotangents = [_normal(o.shape, generator).to(o.dtype) for o in outputs]
    return list(torch.autograd.grad(outputs, inputs.tensors(), cotangents))
