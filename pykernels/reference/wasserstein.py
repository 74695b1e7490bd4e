"""The squared sliced 2-Wasserstein distance (the specification's section 4): on a line, points match in order."""

import torch
from torch import Tensor

from .precision import as_given
from .recomputing import recomputed

CHUNK_ELEMENTS = 1 << 22  # of one [*batch, projections, n] temporary


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """[*batch], over the rows of `directions` [P, D]: the mean squared distance of quantiles along each."""
    per_direction = max(1, x[..., 0].numel(), y[..., 0].numel())
    parts = directions.split(max(1, CHUNK_ELEMENTS // per_direction))
    if len(parts) == 1:
        return _along(x, y, directions) / len(directions)
    total: Tensor = sum(recomputed(_along, x, y, part) for part in parts)
    return total / len(directions)


def _along(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """The sum over directions of the squared distance along each."""
    with as_given(x.device):
        x, y = ((t @ directions.mT).mT.sort(-1).values for t in (x, y))
    n, m = x.shape[-1], y.shape[-1]
    if n == m:
        return (x - y).square().mean(-1).sum(-1)
    # The quantile functions are steps, which end at multiples of 1 / n and of 1 / m: counted in 1 / (n m).
    counted = [torch.arange(1, count + 1, device=x.device) * other for count, other in ((n, m), (m, n))]
    ends = torch.cat(counted).sort().values
    widths = ends.diff(prepend=ends.new_zeros(1)).to(x) / (n * m)
    x, y = x[..., (ends - 1) // m], y[..., (ends - 1) // n]
    return ((x - y).square() * widths).sum((-2, -1))
