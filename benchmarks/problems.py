"""What the mixture benchmarks compute on: points drawn from mixtures of various overlap, in float32."""

from typing import NamedTuple

import torch
from torch import Tensor


class Problem(NamedTuple):
    value: Tensor
    loc: Tensor
    scale: Tensor

    def leaves(self) -> "Problem":
        return Problem(*(tensor.detach().requires_grad_() for tensor in self))

    def to(self, target: torch.device | torch.dtype) -> "Problem":
        return Problem(*(tensor.to(target) for tensor in self))


def spread_scales(n: int, rows: int, dims: int) -> Problem:
    """Locations from N(0, 1) and log-variances from U(-2, 0): what is timed where nothing else is said."""
    return drawn(rows, torch.randn(n, dims), (torch.rand(n, dims) - 1).exp())


def equal_scales(n: int, rows: int, dims: int, scale: float, spread: float = 1.0) -> Problem:
    """Locations from N(0, spread²). At scale 1 all overlap; at 0.05 in 10 dimensions almost none do."""
    return drawn(rows, spread * torch.randn(n, dims), torch.full((n, dims), scale))


def half_active(n: int, rows: int, dims: int) -> Problem:
    """Encodings as auto-encoders make them: half of the dimensions used, narrowly, the others left at the prior."""
    active = torch.arange(dims) < dims // 2
    loc = torch.randn(n, dims) * torch.where(active, 1.0, 0.05)
    return drawn(rows, loc, torch.where(active, 0.1, 1.0).repeat(n, 1))


def drawn(rows: int, loc: Tensor, scale: Tensor) -> Problem:
    """Points drawn from the mixture itself."""
    component = torch.randint(len(loc), (rows,))
    return Problem(loc[component] + scale[component] * torch.randn(rows, loc.shape[1]), loc, scale)
