"""The way from the public functions to the operators on mixtures: shapes, derivatives, transforms."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import _ops
from ._transforms import EagerApply, batch_first, first_derivatives_only, needs_gradient
from .reference.minibatch import pair_weights
from .reference.mixture import align, batch_shape
from .reference.mixture_gradients import mixture_log_prob_double_backward


def densities(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    joint: bool,
    marginal: bool,
    estimator: str = "",
    dataset_size: int = 0,
) -> tuple[Tensor, ...]:
    """The densities asked for of checked inputs; an estimator has weights of its own."""
    value, *mixture = align(*_distinct(value, loc, scale, log_weights))
    # Points of a minibatch belong to encodings, one to one.
    points = value if estimator else _as_one_problem(value, mixture)
    arguments = points, *mixture, joint, marginal, needs_gradient(value), estimator, dataset_size
    outputs = _function(_LogProb, _EagerLogProb).apply(*arguments)
    found: tuple[Tensor, ...] = outputs[:: len(outputs) // (joint + marginal)]
    if points is value:
        return found
    shapes = [shape for shape, asked in ((value.shape[:-1], joint), (value.shape, marginal)) if asked]
    return tuple(density.reshape(shape) for density, shape in zip(found, shapes))


def statistics(value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None) -> tuple[Tensor, ...]:
    """The joint density, perplexity and collision count of checked inputs."""
    value, *mixture = align(*_distinct(value, loc, scale, log_weights))
    points = _as_one_problem(value, mixture)
    log_prob, _, *others = _function(_Statistics, _EagerStatistics).apply(points, *mixture)
    if points is value:
        return log_prob, *others
    return tuple(result.reshape(value.shape[:-1]) for result in (log_prob, *others))


def _as_one_problem(value: Tensor, mixture: Sequence[Any]) -> Tensor:
    """Of one mixture, batches of points are but more points."""
    if value.dim() == 2 or math.prod(batch_shape(mixture[0], *mixture)) > 1:
        return value
    return value.flatten(0, -2)[(None,) * (value.dim() - 2)]


def _distinct(value: Tensor, *mixture: Tensor | None) -> Any:
    """The compiler refuses a Function of which two arguments are one tensor."""
    if torch.compiler.is_compiling() and any(value is other for other in mixture):
        # The other stays as it is: by it a second derivative is known and refused.
        value = value.view_as(value)
    return value, *mixture


def _function(traced: type[Function], eager: type[Function]) -> Any:
    # The compiler refuses a Function that defines jvp, even one that only raises.
    return traced if torch.compiler.is_compiling() else eager


def _by_kind(outputs: Sequence[Tensor], asked: Sequence[bool]) -> list[list[Tensor | None]]:
    """The densities, those in base 2, and the slopes, each as [joint, marginal], None where there is none."""
    size = len(outputs) // sum(asked)
    places = [(0, asked[0]), (size * asked[0], asked[1])]
    return [
        [outputs[first + kind] if there and kind < size else None for first, there in places]
        for kind in range(3)
    ]


class _LogProb(Function):
    # With *arguments the compiler would expect a context among them, where no gradient is needed.
    @staticmethod
    def forward(
        value: Tensor,
        loc: Tensor,
        scale: Tensor,
        log_weights: Tensor | None,
        joint: bool,
        marginal: bool,
        with_slopes: bool,
        estimator: str,
        dataset_size: int,
    ) -> Any:
        return tuple(
            _ops.mixture_log_prob(
                value, loc, scale, log_weights, joint, marginal, with_slopes, estimator, dataset_size
            )
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, joint, marginal, _, estimator, dataset_size = inputs
        ctx.save_for_backward(*tensors, *output)
        ctx.asked, ctx.sampling = (joint, marginal), (estimator, dataset_size)
        ctx.set_materialize_grads(False)
        size = len(output) // (joint + marginal)
        ctx.mark_non_differentiable(*(out for i, out in enumerate(output) if i % size))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        given, *_ = _by_kind(grads, ctx.asked)
        if all(grad is None for grad in given):
            return (None,) * 9
        tensors, results = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        found, in_base_2, slopes = _by_kind(results, ctx.asked)
        saved = *found, *in_base_2, *slopes, *tensors
        return *_gradients((*given, None), saved, ctx.needs_input_grad[:4], ctx.sampling), *(None,) * 5

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        tensors, flags = arguments[:4], arguments[4:]
        output = _function(_LogProb, _EagerLogProb).apply(*batch_first(info, in_dims, tensors), *flags)
        return output, (0,) * len(output)


class _Statistics(Function):
    """The joint density, the same in base 2, perplexity and collision count."""

    @staticmethod
    def forward(value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None) -> Any:
        return tuple(_ops.responsibility_statistics(value, loc, scale, log_weights))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs, *output)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if all(grad is None for grad in grads):
            return (None,) * 4
        tensors, (log_prob, log2, *others) = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        saved = log_prob, None, log2, *(None,) * 3, *tensors
        of_density, of_statistics = _upstream((grads[0], *grads[2:]), log_prob, *others)
        return _gradients((of_density, None, of_statistics), saved, ctx.needs_input_grad, ("", 0))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *tensors: Any) -> Any:
        function = _function(_Statistics, _EagerStatistics)
        return function.apply(*batch_first(info, in_dims, tensors)), (0,) * 4


def _upstream(
    grads: Sequence[Tensor | None], log_prob: Tensor, perplexity: Tensor, collisions: Tensor
) -> tuple[Tensor, Tensor]:
    """What a pair of responsibility r weighs in the gradients, as the parts of a + b log r + c r: a, then b and c.

    For the perplexity P that is -P (log P + log r), for the collision count C it is 2 C - 2 C^2 r."""
    given = [torch.zeros_like(log_prob) if grad is None else grad for grad in grads]
    of_log, of_share = -given[1] * perplexity, -2 * given[2] * collisions.square()
    constant = given[0] + of_log * perplexity.log() + 2 * given[2] * collisions
    return constant, torch.stack((of_log, of_share), -2)


class _Eager(EagerApply):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(
            "the mixture log-density has no forward-mode derivative: use reverse mode (backward, "
            "torch.func.grad, vjp, jacrev), or the functions of pykernels.reference, which from torch 2.12 on have both"
        )


class _EagerLogProb(_Eager, _LogProb):
    pass


class _EagerStatistics(_Eager, _Statistics):
    pass


def _gradients(
    grads: Sequence[Tensor | None],
    saved: Sequence[Tensor | None],
    mask: Sequence[bool],
    sampling: tuple[str, int],
) -> tuple[Tensor | None, ...]:
    """Those of the inputs, from those of joint, marginal and statistics, and from what the forward pass saved."""
    if first_derivatives_only():
        gradients = _ops.mixture_log_prob_backward(*grads[:2], *saved[2:], mask, grads[2], *sampling)
    else:
        gradients = _LogProbBackward.apply(*grads, *saved, *mask, *sampling)  # type: ignore[no-untyped-call]
    return tuple(gradient if asked else None for gradient, asked in zip(gradients, mask))


class _LogProbBackward(Function):
    """Of the gradients of joint, marginal and statistics; joint and marginal, and both in base 2; their slopes; and the
    inputs."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        tensors, mask, sampling = arguments[:13], arguments[13:17], arguments[17:]
        return _ops.mixture_log_prob_backward(*tensors[:2], *tensors[5:], mask, tensors[2], *sampling)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tensors, mask = inputs[:13], inputs[13:17]
        ctx.save_for_backward(*tensors[:5], *tensors[9:])  # all but what only the kernels read
        ctx.sampling = inputs[17:]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for out, asked in zip(output, mask) if not asked))

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        if all(cotangent is None for cotangent in cotangents):
            return (None,) * 19
        derivatives = _LogProbDoubleBackward.apply(*cotangents, *ctx.saved_tensors, *ctx.sampling)  # type: ignore[no-untyped-call]
        needed = *ctx.needs_input_grad[:5], *ctx.needs_input_grad[9:13]
        wanted = [d if need else None for d, need in zip(derivatives, needed)]
        return *wanted[:5], *(None,) * 4, *wanted[5:], *(None,) * 6

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        tensors, options = arguments[:13], arguments[13:]
        output = _LogProbBackward.apply(*batch_first(info, in_dims, tensors), *options)  # type: ignore[no-untyped-call]
        return output, tuple(0 if asked else None for asked in options[:4])


class _LogProbDoubleBackward(Function):
    """Through the reference: second derivatives are rare, and no kernel has them in closed form."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        tensors, (estimator, dataset_size) = arguments[:13], arguments[13:]
        loc = tensors[10]
        pairs = pair_weights(estimator, loc.shape[-2], dataset_size) if estimator else None
        options: Any = *tensors[4:], pairs
        derivatives = mixture_log_prob_double_backward(tensors[:4], *options)
        return tuple(loc.new_empty(0) if d is None else d for d in derivatives)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(
            "the mixture log-density can be differentiated twice, not three times: for higher orders use the "
            "functions of pykernels.reference"
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        tensors, sampling = arguments[:13], arguments[13:]
        output = _LogProbDoubleBackward.apply(*batch_first(info, in_dims, tensors), *sampling)  # type: ignore[no-untyped-call]
        return output, tuple(None if tensor is None else 0 for tensor in tensors[4:])
