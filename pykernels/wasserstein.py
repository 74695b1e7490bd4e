"""The sliced Wasserstein distance: the public function."""

import torch
from torch import Tensor

from . import _checks
from .reference.wasserstein import sliced_wasserstein as _sliced_wasserstein


def sliced_wasserstein(
    x: Tensor, y: Tensor, num_projections: int = 128, generator: torch.Generator | None = None
) -> Tensor:
    r"""Squared sliced 2-Wasserstein distance of two samples.

    .. math:: \frac1P \sum_p \int_0^1 \bigl(F^{-1}_{\theta_p \cdot x}(t) - F^{-1}_{\theta_p \cdot y}(t)\bigr)^2 dt,
        \qquad \theta_p \text{ uniform on the unit sphere}

    Along each direction the points match in order, so that for equally many this is
    (1/n) sum_i (sort(theta x)_i - sort(theta y)_i)^2: Kolouri et al. 2019, "Sliced Wasserstein Auto-Encoders".

    Args:
        x: [*batch, n, D], the points of one sample.
        y: [*batch, m, D], those of the other; n and m may differ. The leading dimensions broadcast together.
        num_projections: P. The directions are the same for all batch elements.
        generator: draws the directions; None is torch's own for the device of x.

    Returns:
        [*batch], in squared units of x, never negative; float64 for float64 arguments and float32 for all others. A
        shift by c gives |c|^2 / D in the mean over directions. It is unbiased in them, but biased upwards in the
        samples: two of one distribution differ.

    Gradients reach x and y, to any order almost everywhere (the order of points does not change nearby). The result is
    determined by the arguments, the generator's state and, in the last bits, torch's number of threads. The cost is O(P
    (n + m) (D + log(n + m))) time; the memory is O((n + m) D) and a bounded number of projections at a time, recomputed
    in the backward pass; under the transforms of torch.func, which allow no recomputing, gradients take O(P (n + m))
    memory.

    Raises:
        TypeError: an argument is no floating-point tensor, or float64 meets another dtype.
        ValueError: shapes or devices do not match, n, m or D is 0, or `num_projections` is not positive.

    Example:
        >>> x = torch.randn(100, 1)
        >>> sliced_wasserstein(x, x + 2).allclose(torch.tensor(4.0))
        True
    """
    x, y = _checks.sample_inputs(x, y)
    shape = _checks.positive_count("num_projections", num_projections), x.shape[-1]
    directions = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
    return _sliced_wasserstein(x, y, directions / directions.norm(dim=-1, keepdim=True))
