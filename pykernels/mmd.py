"""Maximum mean discrepancy: the public functions and their derivatives."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import _checks, _ops
from ._transforms import EagerApply, batch_first, first_derivatives_only, needs_gradient
from .reference.mmd import (
    DEFAULT_SCALES,
    METHODS,
    align,
    batch_shape,
    default_tolerance,
    default_vector_scales,
    normalise,
)
from .reference.mmd import mmd as _mmd
from .reference.mmd_gradients import double_backward


def cauchy_mmd(
    x: Tensor,
    y: Tensor,
    scales: Sequence[float] | Tensor = DEFAULT_SCALES,
    *,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    unbiased: bool = True,
    method: str = "auto",
    tolerance: float | None = None,
) -> Tensor:
    r"""Squared maximum mean discrepancy of two samples, dimension by dimension, in time linear in their size.

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j)}{n (n - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m - 1)}
        - \frac{2 \sum_{ij} k(x_i, y_j)}{n m}, \qquad
        k(x, y) = \sum_d \kappa(x_d - y_d), \quad \kappa(t) = \sum_l \frac{s_l}{s_l + t^2}

    This is equation 10 of Mathieu et al. 2019, "Disentangling Disentanglement in Variational Autoencoders". It
    compares marginals only: samples whose dimensions are each distributed alike are equal to it, however these
    depend on each other.

    Args:
        x: [*batch, n, D], the points of one sample.
        y: [*batch, m, D], those of the other. The leading dimensions `*batch` broadcast together.
        scales: [L], the s_l: squared lengths, positive, in the squared units of x. A tensor may require a gradient; one
            on a GPU is waited for.
        x_weights: [*batch, n], None for equal ones. They are normalised to sum to one, and the first term becomes
            :math:`\sum_{i \ne j} w_i w_j k(x_i, x_j) / (1 - \sum_i w_i^2)`.
        y_weights: [*batch, m], likewise.
        unbiased: the formula above, which may be negative and has the mean 0 for samples of one distribution, whose
            points are drawn independently. False: i = j is included, so that the result is never negative.
        method: "panels" interpolates the kernel on panels of a width that follows from the scales, which takes
            O((n + m) D) time; "direct" sums over all pairs; "auto" takes the faster.
        tolerance: a bound on the error of the interpolated kernel, max |error of kappa| / kappa(0); None: 1e-7, and
            2e-14 in float64. The error of the result is smaller by far where the samples are close.

    Returns:
        [*batch], float64 for float64 arguments and float32 for all others. NaN where a point is infinite or NaN.

    Gradients reach every tensor, in its own shape and dtype. They can be differentiated once more in eager mode;
    forward mode raises an error. The gradient is the kernel's derivative, interpolated: it differs from the
    derivative of the interpolated kernel by as little as both are wrong. Equal arguments give equal bits, from run
    to run and, but for weights, which torch normalises, for any number of threads, on one kind of processor.

    The memory is O((n + m) D). Points far from all others, as of heavy tails, are summed over directly: then the
    time grows, up to that of "direct". On a GPU, which waits for nothing, that goes for all points of a dimension that
    reaches farther than some hundred times the root of the smallest scale.

    Raises:
        TypeError: an argument is no floating-point tensor, or float64 meets another dtype.
        ValueError: shapes or devices do not match, n, m or D is 0, n or m is 1 and the estimate unbiased, a scale is
            not positive, a weight is negative, fewer than two are positive (one, if not unbiased), or `method` or
            `tolerance` is not as above. Scales and weights are read on a CPU only.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
        >>> cauchy_mmd(x, y, scales=(1.0,), unbiased=False)
        tensor(0.2500)
    """
    x, y, scales = _checks.mmd_inputs(x, y, scales, x_weights, y_weights, unbiased)
    _checks.mmd_options(method, METHODS, tolerance)
    for name, weights in (("x_weights", x_weights), ("y_weights", y_weights)):
        _checks.mmd_weights(name, weights, 1 + unbiased)
    masses = normalise(x_weights), normalise(y_weights)
    if x is y and torch.compiler.is_compiling():
        y = y.view_as(y)  # the compiler refuses a Function of which two arguments are one tensor
    inputs = *align(x, y, *masses), scales
    batch = batch_shape(*inputs[:4])
    # The slopes of points that batch elements share would be larger than the points.
    shared = any(needs_gradient(t) and t.shape[:-2] != batch for t in inputs[:2])
    slopes = [not shared and needs_gradient(t) for t in inputs]
    tolerance = default_tolerance(x.dtype) if tolerance is None else float(tolerance)
    value: Tensor = _function().apply(*inputs, unbiased, method, tolerance, *slopes)[0]
    return value


def mmd(
    x: Tensor,
    y: Tensor,
    kernel: str = "cauchy",
    scales: Sequence[float] | Tensor | None = None,
    unbiased: bool = True,
) -> Tensor:
    r"""Squared maximum mean discrepancy of two samples of whole vectors.

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j)}{n (n - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m - 1)}
        - \frac{2 \sum_{ij} k(x_i, y_j)}{n m}

    with :math:`k(x, y) = \sum_l s_l / (s_l + |x - y|^2)` or :math:`\sum_l \exp(-|x - y|^2 / (2 s_l))`, as in Tolstikhin
    et al. 2018, "Wasserstein Auto-Encoders". It sees how dimensions depend on each other, which `cauchy_mmd` does not.

    Args:
        x: [*batch, n, D], the points of one sample.
        y: [*batch, m, D], those of the other. The leading dimensions `*batch` broadcast together.
        kernel: "cauchy" or "gaussian".
        scales: [L], the s_l: squared lengths, positive, in the squared units of x; None is 2 D times 0.1, 0.2, 0.5, 1,
            2 and 5, which suits points of unit variance.
        unbiased: the formula above, which may be negative. False: i = j is included, so that the result is not.

    Returns:
        [*batch], float64 for float64 arguments and float32 for all others. NaN where a point is infinite or NaN.

    Distances are formed from differences in float64, and in float32 by a float64 matrix product, which is many times
    faster. Gradients reach every tensor, to any order, and are recomputed by tiles. Equal arguments give equal bits,
    from run to run, on one device and with one number of threads. The cost is O((n + m)^2 D) time and O((n + m) D)
    memory; under the transforms of torch.func, which allow no recomputing, gradients take O((n + m)^2), in float64 O((n
    + m)^2 D) memory.

    Raises:
        TypeError: an argument is no floating-point tensor, or float64 meets another dtype.
        ValueError: shapes or devices do not match, n, m or D is 0, n or m is 1 and the estimate unbiased, a scale is
            not positive, or there is no such kernel.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
        >>> mmd(x, y, scales=(1.0,), unbiased=False)
        tensor(0.4167)
    """
    _checks.mmd_kernel(kernel)
    if scales is None:
        scales = default_vector_scales(_checks.sample_inputs(x, y)[0].shape[-1])
    x, y, scales = _checks.mmd_inputs(x, y, scales, unbiased=unbiased)
    if scales.device != x.device and not (scales.requires_grad or torch.compiler.is_compiling()):
        # Filled in there: a CUDA graph can hold no copy.
        scales = torch.stack([x.new_full((), scale) for scale in scales.tolist()])
    return _mmd(x, y, kernel, scales.to(x), unbiased)


def _function() -> Any:
    # The compiler refuses a Function that defines jvp, even one that only raises.
    return _Mmd if torch.compiler.is_compiling() else _EagerMmd


class _Mmd(Function):
    # With *arguments the compiler would expect a context among them, where no gradient is needed. The last five:
    # whether each tensor's slopes are wanted.
    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        x_masses: Tensor | None,
        y_masses: Tensor | None,
        scales: Tensor,
        unbiased: bool,
        method: str,
        tolerance: float,
        on_x: bool,
        on_y: bool,
        on_u: bool,
        on_v: bool,
        on_scales: bool,
    ) -> Any:
        slopes = on_x, on_y, on_u, on_v, on_scales
        return tuple(_ops.cauchy_mmd(x, y, x_masses, y_masses, scales, unbiased, method, tolerance, slopes))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:5], *output[1:])
        ctx.options, ctx.given = inputs[5:8], inputs[8:]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
        if grad is None:
            return (None,) * 13
        inputs, given = ctx.saved_tensors[:5], iter(ctx.saved_tensors[5:])
        mask = ctx.needs_input_grad[:5]
        slopes = [(next(given), asked) for there, asked in zip(ctx.given, mask) if there]
        slopes = [slope for slope, asked in slopes if asked]
        if first_derivatives_only():
            gradients = _ops.cauchy_mmd_backward(grad, slopes, *inputs, *ctx.options, mask)
        else:
            gradients = _MmdBackward.apply(grad, *inputs, *ctx.options, *mask, *slopes)  # type: ignore[no-untyped-call]
        return *(gradient if asked else None for gradient, asked in zip(gradients, mask)), *(None,) * 8

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        if in_dims[4] is not None:  # panels follow from the scales: one problem after the other
            results = [_function().apply(*one) for one in _apart(info, in_dims, arguments)]
            output = tuple(torch.stack(parts) for parts in zip(*results))
        else:
            output = _function().apply(*batch_first(info, in_dims, arguments[:4]), *arguments[4:])
        return output, (0,) * len(output)


class _EagerMmd(EagerApply, _Mmd):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(
            "cauchy_mmd has no forward-mode derivative: use reverse mode (backward, torch.func.grad, vjp, jacrev), "
            "or pykernels.reference.cauchy_mmd, which from torch 2.12 on has both"
        )


class _MmdBackward(Function):
    @staticmethod
    def forward(grad: Tensor, *arguments: Any) -> Any:
        inputs, options, mask, slopes = arguments[:5], arguments[5:8], arguments[8:13], arguments[13:]
        return _ops.cauchy_mmd_backward(grad, slopes, *inputs, *options, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:6])
        ctx.options = inputs[6:8]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for out, asked in zip(output, inputs[9:14]) if not asked))

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        rest = (None,) * (len(ctx.needs_input_grad) - 6)
        if all(cotangent is None for cotangent in cotangents):
            return (None,) * 6 + rest
        derivatives = _MmdDoubleBackward.apply(*cotangents, *ctx.saved_tensors, *ctx.options)  # type: ignore[no-untyped-call]
        needed = ctx.needs_input_grad[:6]
        return *(d if need else None for d, need in zip(derivatives, needed)), *rest

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        mask = arguments[9:14]
        if in_dims[5] is not None or mask[4]:  # the gradient of the scales is a sum over batch elements
            results = [_MmdBackward.apply(*one) for one in _apart(info, in_dims, arguments)]  # type: ignore[no-untyped-call]
            output = tuple(torch.stack(parts) for parts in zip(*results))
        else:
            tensors = batch_first(info, in_dims[:5], arguments[:5])
            slopes = batch_first(info, in_dims[14:], arguments[14:])
            output = _MmdBackward.apply(*tensors, *arguments[5:14], *slopes)  # type: ignore[no-untyped-call]
        return output, tuple(0 if asked else None for asked in mask)


class _MmdDoubleBackward(Function):
    """Through the reference, which takes O(n + m) time by panels."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        tensors = arguments[:11]
        derivatives = double_backward(tensors[:5], *tensors[5:], *arguments[11:])
        return tuple(tensors[5].new_empty(0) if d is None else d for d in derivatives)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(
            "cauchy_mmd can be differentiated twice, not three times: for higher orders use "
            "pykernels.reference.cauchy_mmd"
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        results = [_MmdDoubleBackward.apply(*one) for one in _apart(info, in_dims, arguments)]  # type: ignore[no-untyped-call]
        return tuple(torch.stack(parts) for parts in zip(*results)), (0,) * 6


def _apart(info: Any, in_dims: Any, arguments: Any) -> list[list[Any]]:
    """The arguments of each of the mapped problems."""
    return [
        [a if dim is None else a.select(dim, index) for a, dim in zip(arguments, in_dims)]
        for index in range(info.batch_size)
    ]
