"""From tensors to pointers: chooses the compiled kernel or the reference, allocates outputs and workspace,
and keeps every tensor alive whose address it hands out. The only file that knows `_C`."""

import functools
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .reference.minibatch import pair_weights
from .reference.mixture import PairWeights, batch_shape
from .reference.mixture import mixture_log_prob as _reference_log_prob
from .reference.mixture_gradients import mixture_log_prob_backward as _reference_backward
from .reference.mmd import METHODS
from .reference.mmd import batch_shape as _mmd_batch_shape
from .reference.mmd_gradients import value_and_slopes as _reference_mmd
from .reference.mmd_panels import panel_rule as _panel_rule
from .reference.responsibilities import mixture_statistics as _reference_statistics

try:
    import pykernels._C as _C  # after torch, so that both share one OpenMP runtime
except ImportError as error:
    _C = None
    warnings.warn(
        f"pykernels runs on its pure-Python reference, which is much slower: the compiled kernels did not "
        f"load ({error}). Install them with `pip install .`, for which it takes a C++ compiler and Python's headers "
        f"(Debian's python3-dev). If that was done, Python may have found a source tree before the installed package: "
        f"leave the directory that holds pykernels/.",
        RuntimeWarning,
        stacklevel=2,
    )

REFERENCE = "reference"
CUDA = "cuda"
EMULATED = "emulated"  # the CUDA kernels on the CPU, in a build for tests
# Half inputs come converted, on GPUs too: that moves ten bytes for each of (n + B) D numbers, against more than two
# instructions for each of n B D.
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


def compiled() -> Any:
    """The compiled module; None without one. Asked at each call, since tests put another one in."""
    return _C


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


def gives_slopes(value: Tensor) -> bool:
    """Whether the forward pass gives the gradients of the densities with respect to `value`, and the backward pass
    needs them: on a GPU one pass for both is cheaper, on a CPU the backward pass skips most of the work."""
    return variant_for(value) in (CUDA, EMULATED)


def mixture_log_prob(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    joint: bool,
    marginal: bool,
    slopes: bool,
    estimator: str = "",
    dataset_size: int = 0,
) -> list[Tensor]:
    variant = variant_for(value)
    pairs = _pairs(loc, estimator, dataset_size)
    if variant == REFERENCE:
        results = _reference_log_prob(value, loc, scale, log_weights, joint, marginal, pairs)
        asked = [result for result, wanted in zip(results, (joint, marginal)) if wanted]
        return [tensor for result in asked for tensor in (result, result.clone())]
    batch, shape = _sizes(value, loc, scale, log_weights)
    outputs = new_outputs(value, batch, joint, marginal, slopes)
    if 0 in batch or value.shape[-2] == 0:
        return outputs
    addresses = [output.data_ptr() for output in outputs]
    size = len(addresses) // (joint + marginal)
    none = (0, 0, 0)
    _C.mixture_log_prob(
        _DTYPES[value.dtype],
        shape,
        *_addresses(value, loc, scale, log_weights, shape),
        pairs,
        *(*addresses[:size], *none)[:3] if joint else none,
        *(*addresses[-size:], *none)[:3] if marginal else none,
        *(0, 0),
        variant,
        *_place(value),
    )
    return outputs


def new_outputs(
    value: Tensor, batch: tuple[int, ...], joint: bool, marginal: bool, slopes: bool
) -> list[Tensor]:
    """For each density asked for: itself, once more in base 2, and its slopes if they are asked for and given."""
    by_dim = (*batch, *value.shape[-2:])
    slope_shapes = [by_dim] if slopes and gives_slopes(value) else []
    densities = [shape for shape, asked in ((by_dim[:-1], joint), (by_dim, marginal)) if asked]
    return [value.new_empty(size) for shape in densities for size in (shape, shape, *slope_shapes)]


def responsibility_statistics(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None
) -> list[Tensor]:
    variant = variant_for(value)
    if variant == REFERENCE:
        log_prob, *others = _reference_statistics(value, loc, scale, log_weights)
        return [log_prob, log_prob.clone(), *others]
    batch, shape = _sizes(value, loc, scale, log_weights)
    outputs = new_statistics(value, batch)
    if 0 in batch or value.shape[-2] == 0:
        return outputs
    addresses = [output.data_ptr() for output in outputs]
    _C.mixture_log_prob(
        _DTYPES[value.dtype],
        shape,
        *_addresses(value, loc, scale, log_weights, shape),
        None,
        *(*addresses[:2], 0),
        *(0, 0, 0),
        *addresses[2:],
        variant,
        *_place(value),
    )
    return outputs


def new_statistics(value: Tensor, batch: tuple[int, ...]) -> list[Tensor]:
    """The joint density, the same in base 2, perplexity and collision count."""
    return [value.new_empty((*batch, value.shape[-2])) for _ in range(4)]


def _pairs(loc: Tensor, estimator: str, dataset_size: int) -> PairWeights | None:
    return pair_weights(estimator, loc.shape[-2], dataset_size) if estimator else None


def mixture_log_prob_backward(
    grad_joint: Tensor | None,
    grad_marginal: Tensor | None,
    joint_log2: Tensor | None,
    marginal_log2: Tensor | None,
    joint_slope: Tensor | None,
    marginal_slope: Tensor | None,
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    output_mask: list[bool],
    grad_statistics: Tensor | None = None,
    estimator: str = "",
    dataset_size: int = 0,
) -> tuple[Tensor, ...]:
    inputs: Any = value, loc, scale, log_weights
    variant = variant_for(value)
    pairs = _pairs(loc, estimator, dataset_size)
    grads = grad_joint, grad_marginal, grad_statistics
    densities = joint_log2, marginal_log2  # in nats, where the reference left them
    if variant == REFERENCE:
        found = _reference_backward(*grads, *densities, value, loc, scale, log_weights, output_mask, pairs)
        return tuple(value.new_empty(0) if gradient is None else gradient for gradient in found)
    batch, shape = _sizes(*inputs)
    nothing_to_do = 0 in batch or shape[-3] == 0
    allocate = value.new_zeros if nothing_to_do else value.new_empty
    outputs = tuple(allocate(t.shape if asked else 0) for t, asked in zip(inputs, output_mask))
    if nothing_to_do:
        return outputs
    # Held until the call returns: a temporary's memory would be handed to the next tensor.
    by_row = [t if t is None else t.contiguous() for t in (*densities, joint_slope, marginal_slope, *grads)]
    of_value, of_loc, of_scale, of_weights = (t if asked else None for t, asked in zip(outputs, output_mask))
    _C.mixture_log_prob_backward(
        _DTYPES[value.dtype],
        shape,
        *_addresses(value, loc, scale, log_weights, shape),
        pairs,
        *(0 if t is None else t.data_ptr() for t in by_row),
        *_addresses(of_value, of_loc, of_scale, of_weights, shape),
        variant,
        *_place(value),
    )
    return outputs


@functools.cache
def _runs_on_gpus() -> bool:
    # Asked late: it starts CUDA, which fixes the devices that this process sees.
    return _C is not None and CUDA in _C.device_variants()


def variant_for(value: Tensor) -> str:
    """The kernel that takes a call with this tensor."""
    if value.is_cpu:
        return _variant
    return CUDA if value.is_cuda and _runs_on_gpus() else REFERENCE


def _place(value: Tensor) -> tuple[int, int, int, Callable[[int], int] | None]:
    """Threads; device, stream, and memory there, kept until the call that takes it is over."""
    if value.is_cpu:
        return torch.get_num_threads(), 0, 0, None
    held: list[Tensor] = []

    def allocate(size: int) -> int:
        held.append(value.new_empty(size, dtype=torch.uint8))
        return held[-1].data_ptr()

    return 1, value.device.index, torch.cuda.current_stream(value.device).cuda_stream, allocate


def _sizes(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The batch, and the (*batch, B, n, D) of the calls into `_C`."""
    batch = batch_shape(value, loc, scale, log_weights)
    return batch, (*batch, value.shape[-2], *loc.shape[-2:])


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


def cauchy_mmd(
    x: Tensor,
    y: Tensor,
    x_masses: Tensor | None,
    y_masses: Tensor | None,
    scales: Tensor,
    unbiased: bool,
    method: str,
    tolerance: float,
    slopes_mask: list[bool],
    share: tuple[Any, ...] | None = None,
) -> list[Tensor]:
    inputs = x, y, x_masses, y_masses, scales
    by_kernel, by_reference = _kernel_gives(x, scales, method, slopes_mask)
    if not by_kernel:
        value, slopes = _reference_mmd(*inputs, unbiased, method, tolerance, slopes_mask)
        return [value, *(slope.contiguous() for slope in slopes if slope is not None)]
    batch = _mmd_batch_shape(*inputs[:4])
    value, of_points = x.new_empty(batch), new_slopes(batch, inputs, [*slopes_mask[:2], False, False, False])
    given = iter(of_points)
    addresses = [next(given).data_ptr() if asked else 0 for asked in slopes_mask[:2]]
    shape = *batch, x.shape[-2], y.shape[-2], x.shape[-1]
    chosen = tuple(scales.tolist())
    rule = _panel_rule(chosen, tolerance) or (0.0, 0)
    if 0 not in batch:
        _C.cauchy_mmd(
            _DTYPES[x.dtype],
            shape,
            _address(x, (*batch, *x.shape[-2:])),
            _address(y, (*batch, *y.shape[-2:])),
            _address(x_masses, (*batch, x.shape[-2])),
            _address(y_masses, (*batch, y.shape[-2])),
            chosen,
            unbiased,
            METHODS.index(method),
            *rule,
            value.data_ptr(),
            *addresses,
            variant_for(x),
            *_place(x),
            share,
        )
    others: Sequence[Tensor | None] = []
    if by_reference:
        mask = [False, False, *slopes_mask[2:]]
        _, others = _reference_mmd(*inputs, unbiased, method, tolerance, mask)
    return [value, *of_points, *(slope.contiguous() for slope in others if slope is not None)]


def _kernel_gives(x: Tensor, scales: Tensor, method: str, slopes_mask: list[bool]) -> tuple[bool, bool]:
    """Whether a compiled kernel takes the problem, and whether the reference has to add slopes: those with respect to
    masses and scales, which are seldom asked for, and by panels as fast."""
    by_kernel = variant_for(x) in (_C.mmd_variants() if _C else ()) and len(scales) <= 32
    return by_kernel, by_kernel and any(slopes_mask[2:])


def new_slopes(batch: tuple[int, ...], inputs: Sequence[Any], mask: list[bool]) -> list[Tensor]:
    """For each input of an MMD asked for, the derivative of every batch element's value."""
    own = 2, 2, 1, 1, 1
    return [
        tensor.new_empty((*batch, *tensor.shape[tensor.dim() - kept :]))
        for tensor, kept, asked in zip(inputs, own, mask)
        if asked
    ]


def cauchy_mmd_backward(
    grad: Tensor,
    slopes: list[Tensor],
    x: Tensor,
    y: Tensor,
    x_masses: Tensor | None,
    y_masses: Tensor | None,
    scales: Tensor,
    unbiased: bool,
    method: str,
    tolerance: float,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    inputs: Any = x, y, x_masses, y_masses, scales
    options = unbiased, method, tolerance, output_mask
    if slopes:
        given = iter(slopes)
        return tuple(
            _scaled(grad, next(given), t.shape) if asked else x.new_empty(0)
            for t, asked in zip(inputs, output_mask)
        )
    totals = tuple(torch.zeros_like(t) if asked else x.new_empty(0) for t, asked in zip(inputs, output_mask))
    asked = [(total, tensor) for total, tensor, wanted in zip(totals, inputs, output_mask) if wanted]
    # One batch element after the other: the slopes of all would take the memory of the broadcast inputs.
    for index in itertools.product(*map(range, grad.shape)):
        u, v = (None if t is None else _element(t, index) for t in (x_masses, y_masses))
        of_element = cauchy_mmd(_element(x, index), _element(y, index), u, v, scales, *options)[1:]
        for (total, tensor), slope in zip(asked, of_element):
            part = total if tensor is scales else _element(total, index)
            part += _scaled(grad[index], slope, part.shape)
    return totals


def _scaled(grad: Tensor, slope: Tensor, shape: torch.Size) -> Tensor:
    """The slopes of all batch elements times the gradient of each, summed to a shape; in no more memory than one
    product, which at a million points is what time goes to."""
    upstream = grad.to(slope.dtype)[(...,) + (None,) * (slope.dim() - grad.dim())]
    return (upstream * slope).sum_to_size(shape)


def _element(tensor: Tensor, index: tuple[int, ...]) -> Tensor:
    """What one batch element has of an aligned tensor."""
    return tensor[tuple(i if size > 1 else 0 for i, size in zip(index, tensor.shape))]
