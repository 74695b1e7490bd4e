"""From tensors to pointers: chooses the compiled kernel or the reference, allocates outputs and workspace,
and keeps every tensor alive whose address it hands out. The only file that knows `_C`."""

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .reference.mixture import batch_shape
from .reference.mixture import mixture_log_prob as _reference_log_prob
from .reference.mixture_gradients import mixture_log_prob_backward as _reference_backward

try:
    import pykernels._C as _C  # after torch, so that both share one OpenMP runtime
except ImportError as error:
    _C = None
    warnings.warn(
        f"pykernels runs on its pure-Python reference, which is much slower: the compiled kernels did not "
        f"load ({error}). Install them with `pip install .` and a C++ compiler. If that was done, Python may "
        f"have found a source tree before the installed package: leave the directory that holds pykernels/.",
        RuntimeWarning,
        stacklevel=2,
    )

REFERENCE = "reference"
_LOG2_E = math.log2(math.e)
_DTYPES = {torch.float32: 0, torch.float64: 1}


def variants() -> list[str]:
    """Names that `use_variant` takes: the kernels this CPU runs, best first, then the reference."""
    return [*(_C.variants() if _C else ()), REFERENCE]


def _chosen_variant() -> str:
    name = os.environ.get("PYKERNELS_ISA")
    if name is None:
        return variants()[0]
    if name not in variants():
        raise RuntimeError(
            f"PYKERNELS_ISA must name a kernel that is built and that this CPU runs, one of {variants()}, "
            f"but is {name!r}: unset it to take the best"
        )
    return name


_variant = _chosen_variant()


def current_variant() -> str:
    return _variant


def built() -> dict[str, str | list[str]]:
    """What the compiled module says of itself; empty without one."""
    return _C.built() if _C else {}


@contextmanager
def use_variant(name: str) -> Iterator[None]:
    """Runs CPU calls on one kernel by name, for tests."""
    global _variant
    previous, _variant = _variant, name
    try:
        yield
    finally:
        _variant = previous


def mixture_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None, joint: bool, marginal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if _variant == REFERENCE or not value.is_cpu:
        results = _reference_log_prob(value, loc, scale, log_weights, joint, marginal)
        return *results, *(result * _LOG2_E for result in results)
    batch, shape = _sizes(value, loc, scale, log_weights)
    rows_shape = (*batch, *value.shape[-2:])
    joint_shape, marginal_shape = rows_shape[:-1] if joint else 0, rows_shape if marginal else 0
    outputs = tuple(value.new_empty(size) for size in (joint_shape, marginal_shape) * 2)
    if 0 in rows_shape:
        return outputs
    dtype = _DTYPES[value.dtype]
    workspace = _Workspace()
    _C.mixture_log_prob(
        dtype,
        shape,
        *_addresses(value, loc, scale, log_weights, shape),
        *(output.data_ptr() for output in outputs),
        workspace.allocate,
        _variant,
        torch.get_num_threads(),
    )
    return outputs


def mixture_log_prob_backward(
    grad_joint: Tensor | None,
    grad_marginal: Tensor | None,
    joint: Tensor,
    marginal: Tensor,
    joint_log2: Tensor,
    marginal_log2: Tensor,
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = value, loc, scale, log_weights
    if _variant == REFERENCE or not value.is_cpu:
        gradients = _reference_backward(grad_joint, grad_marginal, joint, marginal, *inputs, output_mask)
        return tuple(value.new_empty(0) if gradient is None else gradient for gradient in gradients)
    batch, shape = _sizes(*inputs)
    if 0 in batch or shape[-3] == 0:
        return tuple(value.new_zeros(t.shape if asked else 0) for t, asked in zip(inputs, output_mask))
    outputs = [value.new_empty(t.shape if asked else 0) for t, asked in zip(inputs, output_mask)]
    # Held by name until the call returns: a temporary's memory would be handed to the next tensor.
    grad_joint = grad_joint if grad_joint is None else grad_joint.contiguous()
    grad_marginal = grad_marginal if grad_marginal is None else grad_marginal.contiguous()
    joint_log2, marginal_log2 = joint_log2.contiguous(), marginal_log2.contiguous()
    dtype = _DTYPES[value.dtype]
    workspace = _Workspace()
    _C.mixture_log_prob_backward(
        dtype,
        shape,
        *_addresses(*inputs, shape),
        joint_log2.data_ptr(),
        marginal_log2.data_ptr(),
        0 if grad_joint is None else grad_joint.data_ptr(),
        0 if grad_marginal is None else grad_marginal.data_ptr(),
        *_addresses(*(out if asked else None for out, asked in zip(outputs, output_mask)), shape),
        workspace.allocate,
        _variant,
        torch.get_num_threads(),
    )
    return tuple(outputs)


def _sizes(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The batch, and the (*batch, B, n, D) of the calls into `_C`."""
    batch = batch_shape(value, loc, scale, log_weights)
    return batch, (*batch, value.shape[-2], *loc.shape[-2:])


class _Workspace:
    """Memory that a kernel asks for once it has read its arguments, kept until the call is over."""

    def allocate(self, size: int) -> int:
        self._memory = torch.empty(size, dtype=torch.uint8, device="cpu")
        return self._memory.data_ptr()


def _addresses(
    value: Tensor | None,
    loc: Tensor | None,
    scale: Tensor | None,
    log_weights: Tensor | None,
    shape: tuple[int, ...],
) -> tuple[tuple[int, tuple[int, ...]] | None, ...]:
    """(address, strides) of each tensor, broadcast to the shape: views of memory that the caller holds."""
    *batch, rows, components, dims = shape
    return (
        _address(value, (*batch, rows, dims)),
        _address(loc, (*batch, components, dims)),
        _address(scale, (*batch, components, dims)),
        _address(log_weights, (*batch, components)),
    )


def _address(tensor: Tensor | None, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
    if tensor is None:
        return None
    view = tensor if tensor.shape == shape else tensor.expand(shape)
    return view.data_ptr(), view.stride()
