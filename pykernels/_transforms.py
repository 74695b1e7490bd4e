"""What every op's autograd functions share: eager calls, transforms, and which derivatives are asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class EagerApply:
    """First base of a Function outside of a trace: calls it without what `Function.apply` does for transforms."""

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        # Function.apply first binds the arguments to a signature, for as long as a small kernel runs.
        transformed = torch._C._are_functorch_transforms_active()
        base: Any = super() if transformed else super(Function, cls)
        return base.apply(*arguments)


def needs_gradient(tensor: Tensor | None) -> bool:
    """Whether it may need one: a transform hides it."""
    hidden = torch._C._are_functorch_transforms_active()
    return tensor is not None and torch.is_grad_enabled() and (tensor.requires_grad or hidden)


def first_derivatives_only() -> bool:
    # A trace ends at first derivatives, and the compiler does not follow a Function inside a Function.
    return torch.compiler.is_compiling() or not (
        torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
    )


def applied(function: type[Function], *arguments: Any) -> Tensor:
    """The result of a Function that has one."""
    result: Tensor = function.apply(*arguments)
    return result


def differentiable_once(
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., tuple[Tensor | None, ...]]:
    """A Function's backward whose results, where they are differentiated again, by the gradient or by a saved tensor,
    raise an error."""

    def attached(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            results = backward(ctx, grad)
        sources = grad, *ctx.saved_tensors
        return tuple(r if r is None else applied(_Once, r, *sources) for r in results)

    return attached


class _Once(Function):
    @staticmethod
    def forward(ctx: Any, result: Tensor, *sources: Tensor) -> Tensor:
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise NotImplementedError(
            "what is computed from shards or from blocks can be differentiated once: for second derivatives hold all "
            "encodings in one process, and use the functions of pykernels itself"
        )


def batch_first(
    info: Any, in_dims: Sequence[int | None], tensors: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The mapped dimension as the first batch dimension of every tensor, so that each gradient has it too."""
    return [
        tensor
        if tensor is None
        else tensor.expand(info.batch_size, *tensor.shape)
        if dim is None
        else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims)
    ]
