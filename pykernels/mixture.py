"""Log-density of a mixture of diagonal Gaussians: the public functions and their derivatives."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from . import _checks, _ops
from .reference.mixture import JointAndMarginal, align, batch_shape
from .reference.mixture_gradients import mixture_log_prob_double_backward


def gaussian_mixture_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> Tensor:
    r"""Log-density of a mixture of n diagonal Gaussians at B points.

    .. math:: \log q(z_b) = \operatorname{logsumexp}_i \Bigl(\log w_i
        + \sum_d \log \mathcal N(z_{bd}; \mu_{id}, \sigma_{id}^2)\Bigr)

    With equal weights and one component per encoded data point this is the log-density of a variational
    auto-encoder's aggregate posterior (Mathieu et al. 2019, "Disentangling Disentanglement in Variational
    Autoencoders", section 6).

    Args:
        value: [*batch, B, D], the points.
        loc: [*batch, n, D], the means.
        scale: standard deviations, positive, in the units of `value`; anything that broadcasts to `loc`.
        log_weights: anything that broadcasts to [*batch, n], used as given, never normalised; None is -log n
            for each. A component of log-weight -inf is absent.

    Returns:
        [*batch, B] in nats, float64 for float64 arguments and float32 for all others. The leading
        dimensions `*batch` broadcast together.

    Gradients reach every argument, in its own shape and dtype; a point whose result is -inf gives none.
    They can be differentiated once more in eager mode; forward mode raises an error. Equal arguments give
    equal bits, from run to run and for any number of threads, on one kind of processor.

    The cost is O(B n D) time and O((B + n) D) memory, the backward pass included: no [B, n] tensor is made.

    Raises:
        TypeError: an argument is no floating-point tensor, or float64 meets another dtype.
        ValueError: shapes or devices do not match, n or D is 0, or a scale is not positive. The last is
            checked for eager CPU tensors only, and while `torch.distributions` validates arguments.

    Example:
        >>> value, loc = torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> gaussian_mixture_log_prob(value, loc, torch.tensor(1.0))
        tensor([-2.3379])
    """
    return _evaluate(value, loc, scale, log_weights, True, False)[0]


def gaussian_mixture_marginal_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> Tensor:
    r"""Log-density of every dimension of a mixture of n diagonal Gaussians, each by itself, at B points.

    .. math:: \log q(z_{bd}) = \operatorname{logsumexp}_i \bigl(\log w_i
        + \log \mathcal N(z_{bd}; \mu_{id}, \sigma_{id}^2)\bigr)

    These are the marginals in the total correlation of Chen et al. 2018, "Isolating Sources of
    Disentanglement in VAEs", equation 2. Arguments, gradients, determinism, cost and errors are those of
    `gaussian_mixture_log_prob`.

    Returns:
        [*batch, B, D] in nats.

    Example:
        >>> value, loc = torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> gaussian_mixture_marginal_log_prob(value, loc, torch.tensor(1.0))
        tensor([[-1.4189, -0.9189]])
    """
    return _evaluate(value, loc, scale, log_weights, False, True)[0]


def gaussian_mixture_joint_and_marginal_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> JointAndMarginal:
    r"""`gaussian_mixture_log_prob` and `gaussian_mixture_marginal_log_prob` in one pass over the pairs.

    .. math:: \log q(z_b) \quad\text{and}\quad \log q(z_{bd})

    Over points of the mixture, joint - marginal.sum(-1) averages to the total correlation (Chen et al. 2018).
    Arguments, gradients, determinism, cost and errors are those of `gaussian_mixture_log_prob`.

    Returns:
        A named tuple (joint [*batch, B], marginal [*batch, B, D]) in nats.

    Example:
        >>> value, loc = torch.ones(1, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        >>> joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(value, loc, torch.tensor(1.0))
        >>> joint - marginal.sum(-1)
        tensor([0.4574])
    """
    return JointAndMarginal(*_evaluate(value, loc, scale, log_weights, True, True))


def _evaluate(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None, joint: bool, marginal: bool
) -> tuple[Tensor, ...]:
    """The densities asked for."""
    value, *mixture = align(*_checks.mixture_inputs(value, loc, scale, log_weights))
    rows, dims = value.shape[:-1], value.shape[-1:]
    folded = value.dim() > 2 and math.prod(batch_shape(mixture[0], *mixture)) == 1
    if folded:  # of one mixture, batches of points are but more points
        value = value.flatten(0, -2)[(None,) * (value.dim() - 2)]
    outputs = _function().apply(value, *mixture, joint, marginal, _needs_gradient(value))
    densities = outputs[:: len(outputs) // (joint + marginal)]
    if not folded:
        return densities
    shapes = [shape for shape, asked in ((rows, joint), (rows + dims, marginal)) if asked]
    return tuple(density.reshape(shape) for density, shape in zip(densities, shapes))


def _needs_gradient(value: Tensor) -> bool:
    """Whether `value` may need one: a transform hides it."""
    hidden = torch._C._are_functorch_transforms_active()
    return torch.is_grad_enabled() and (value.requires_grad or hidden)


def _function() -> type[Function]:
    # The compiler refuses a Function that defines jvp, even one that only raises.
    return _LogProb if torch.compiler.is_compiling() else _EagerLogProb


def _by_kind(outputs: Sequence[Tensor], asked: Sequence[bool]) -> list[list[Tensor | None]]:
    """The densities, those in base 2, and the slopes, each as [joint, marginal], None where there is none."""
    size = len(outputs) // sum(asked)
    present = [iter(outputs[kind::size] if kind < size else ()) for kind in range(3)]
    return [[next(kind, None) if wanted else None for wanted in asked] for kind in present]


class _LogProb(Function):
    @staticmethod
    def forward(*arguments):
        return tuple(_ops.mixture_log_prob(*arguments))

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, joint, marginal, _ = inputs
        ctx.save_for_backward(*tensors, *output)
        ctx.asked = joint, marginal
        ctx.set_materialize_grads(False)
        size = len(output) // (joint + marginal)
        ctx.mark_non_differentiable(*(out for i, out in enumerate(output) if i % size))

    @staticmethod
    def backward(ctx, *grads):
        grads, *_ = _by_kind(grads, ctx.asked)
        if all(grad is None for grad in grads):
            return (None,) * 7
        tensors, results = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        densities, in_base_2, slopes = _by_kind(results, ctx.asked)
        mask = ctx.needs_input_grad[:4]
        if _first_derivatives_only():
            gradients = _ops.mixture_log_prob_backward(*grads, *in_base_2, *slopes, *tensors, mask)
        else:
            gradients = _LogProbBackward.apply(*grads, *densities, *in_base_2, *slopes, *tensors, *mask)
        return *(gradient if asked else None for gradient, asked in zip(gradients, mask)), None, None, None

    @staticmethod
    def vmap(info, in_dims, *arguments):
        tensors, flags = arguments[:4], arguments[4:]
        output = _function().apply(*_batch_first(info, in_dims, tensors), *flags)
        return output, (0,) * len(output)


class _EagerLogProb(_LogProb):
    @classmethod
    def apply(cls, *arguments):
        # Function.apply first binds the arguments to a signature, for as long as a small kernel runs.
        transformed = torch._C._are_functorch_transforms_active()
        return (super() if transformed else super(Function, cls)).apply(*arguments)

    @staticmethod
    def jvp(ctx, *tangents):
        raise NotImplementedError(
            "the mixture log-density has no forward-mode derivative: use reverse mode (backward, "
            "torch.func.grad, vjp, jacrev), or the functions of pykernels.reference, which have both"
        )


def _first_derivatives_only() -> bool:
    # A trace ends at first derivatives, and the compiler does not follow a Function inside a Function.
    return torch.compiler.is_compiling() or not (
        torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
    )


class _LogProbBackward(Function):
    @staticmethod
    def forward(*arguments):
        return _ops.mixture_log_prob_backward(*arguments[:2], *arguments[4:12], arguments[12:])

    @staticmethod
    def setup_context(ctx, inputs, output):
        tensors, mask = inputs[:12], inputs[12:]
        ctx.save_for_backward(*tensors[:4], *tensors[8:])  # all but what only the kernels read
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for out, asked in zip(output, mask) if not asked))

    @staticmethod
    def backward(ctx, *cotangents):
        if all(cotangent is None for cotangent in cotangents):
            return (None,) * 16
        derivatives = _LogProbDoubleBackward.apply(*cotangents, *ctx.saved_tensors)
        needed = *ctx.needs_input_grad[:4], *ctx.needs_input_grad[8:12]
        wanted = [d if need else None for d, need in zip(derivatives, needed)]
        return *wanted[:4], *(None,) * 4, *wanted[4:], *(None,) * 4

    @staticmethod
    def vmap(info, in_dims, *arguments):
        tensors, mask = arguments[:12], arguments[12:]
        output = _LogProbBackward.apply(*_batch_first(info, in_dims, tensors), *mask)
        return output, tuple(0 if asked else None for asked in mask)


class _LogProbDoubleBackward(Function):
    """Through the reference: second derivatives are rare, and no kernel has them in closed form."""

    @staticmethod
    def forward(*tensors):
        derivatives = mixture_log_prob_double_backward(tensors[:4], *tensors[4:6], None, *tensors[6:])
        derivatives = *derivatives[:2], *derivatives[3:]
        return tuple(tensors[8].new_empty(0) if d is None else d for d in derivatives)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(
            "the mixture log-density can be differentiated twice, not three times: for higher orders use the "
            "functions of pykernels.reference"
        )

    @staticmethod
    def vmap(info, in_dims, *tensors):
        output = _LogProbDoubleBackward.apply(*_batch_first(info, in_dims, tensors))
        return output, tuple(None if tensor is None else 0 for tensor in tensors[4:])


def _batch_first(info, in_dims, tensors):
    """The mapped dimension as the first batch dimension of every tensor, so that each gradient has it too."""
    return [
        tensor
        if tensor is None
        else tensor.expand(info.batch_size, *tensor.shape)
        if dim is None
        else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims)
    ]
