"""How close is close enough: what the contract promises, and the rounding that no formula escapes."""

import torch
from torch import Tensor

FLOAT64_ERROR = 1e-10
FLOAT32_RATIO = 4


def assert_accurate(actual: Tensor, expected: Tensor, broadcast: Tensor, magnitude: float) -> None:
    """Checks `actual` against `expected`, a float64 oracle.

    float64 keeps the promised 1e-10. float32 keeps four times the error of `broadcast`, torch's own float32
    result; `magnitude` is the size of the largest intermediate result, whose rounding can by luck spare the
    few numbers of a small case in one formulation and not in the other.
    """
    assert actual.shape == expected.shape
    assert actual.dtype == broadcast.dtype
    if actual.numel() == 0:
        return
    error = (actual.double() - expected).abs()
    if actual.dtype == torch.float64:
        worst = (error / (1 + expected.abs())).max().item()
        assert worst <= FLOAT64_ERROR, f"error {worst:.2e} of 1 + |reference|"
        return
    theirs = (broadcast.double() - expected).abs().max().item()
    allowed = FLOAT32_RATIO * max(theirs, torch.finfo(torch.float32).eps * magnitude)
    assert error.max().item() <= allowed, f"error {error.max().item():.2e}, allowed {allowed:.2e}"
