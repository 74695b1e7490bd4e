r"""Mixture densities whose encodings do not fit memory, or are made as they are needed: they come in blocks.

`blocks` is anything that can be iterated over again and again and gives `(loc, scale)` or `(loc, scale, log_weights)`,
[n_k, D] and so on, the same ones every time: a list, views of a memory-mapped file, an object that reads files or runs
an encoder. Memory is that of one block and O(B D); results do not depend on how the encodings are cut, up to rounding.

    loc = torch.from_file("loc.bin", size=n * D).view(n, D)  # mapped, not read
    blocks = [*zip(loc.split(100_000), scale.split(100_000))]

Gradients with respect to the points are exact, by a second pass over the blocks in the backward pass. So are those with
respect to what the blocks are made of, where `backward` is called: in the second pass every block is differentiated as
soon as it has come, and leaves its gradient in the `.grad` of the leaves that it was computed from, an encoder's
parameters for example. An encoder of any n then trains in the memory of one block:

    class Encoded:
        def __iter__(self):
            for batch in images.split(1000):
                yield encoder(batch)

    gaussian_mixture_log_prob(z, Encoded()).mean().backward()

`torch.autograd.grad` with respect to such leaves is not served, and DistributedDataParallel, which expects one gradient
of each parameter, neither: reduce the `.grad` yourself. An encoder that draws random numbers must draw the same in both
passes. The transforms of torch.func are refused.

With `pykernels.distributed` each rank streams its own: give all n of `num_components`, and merge what the ranks have
with `pykernels.distributed.logsumexp`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import _checks
from ._mixture import densities
from ._transforms import applied, differentiable_once
from .reference.mixture import JointAndMarginal

__all__ = [
    "gaussian_mixture_joint_and_marginal_log_prob",
    "gaussian_mixture_log_prob",
    "gaussian_mixture_marginal_log_prob",
]
Blocks = Iterable[Sequence[Tensor]]


def gaussian_mixture_log_prob(value: Tensor, blocks: Blocks, num_components: int | None = None) -> Tensor:
    """`pykernels.gaussian_mixture_log_prob` at the points `value` [B, D] of the mixture of all blocks: [B] in nats.

    Args:
        value: [B, D], the points.
        blocks: as the module says; some may be empty, and with `num_components` all.
        num_components: where the blocks have no log-weights, each encoding weighs 1 / num_components; None is how many
            there are.

    O(B n D) time: one pass of the density's kernel forward, and backward one more with its own backward pass.

    Raises:
        TypeError: `blocks` can be iterated over once only, as a generator can, or gives something else.
        ValueError: all blocks are empty, some and not others have log-weights, the second pass gave another number of
            encodings, or what `pykernels.gaussian_mixture_log_prob` refuses.

    Example:
        >>> value, loc = torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> gaussian_mixture_log_prob(value, [(part, torch.tensor(1.0)) for part in loc.split(1)])
        tensor([-2.3379])
    """
    return _streamed(value, blocks, num_components, True, False)[:, 0]


def gaussian_mixture_marginal_log_prob(
    value: Tensor, blocks: Blocks, num_components: int | None = None
) -> Tensor:
    """The same for each dimension by itself, [B, D]."""
    return _streamed(value, blocks, num_components, False, True)


def gaussian_mixture_joint_and_marginal_log_prob(
    value: Tensor, blocks: Blocks, num_components: int | None = None
) -> JointAndMarginal:
    """Both in the same passes: a named tuple (joint [B], marginal [B, D])."""
    both = _streamed(value, blocks, num_components, True, True)
    return JointAndMarginal(both[:, 0], both[:, 1:])


def _streamed(
    value: Tensor, blocks: Blocks, num_components: int | None, joint: bool, marginal: bool
) -> Tensor:
    """The densities asked for as columns, the joint one first."""
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "pykernels.streaming does not work under torch.func (grad, vmap and so on), which cannot come back to the "
            "blocks: use backward(), or the function of the same name in pykernels, with all encodings at once"
        )
    if isinstance(blocks, Iterator):
        raise TypeError(
            f"blocks must be iterable again and again, but is {type(blocks).__name__}, which gives its items once: "
            "pass a list, or an object whose __iter__ starts anew"
        )
    if not hasattr(blocks, "__iter__") and not hasattr(blocks, "__getitem__"):
        raise TypeError(
            f"blocks must be iterable, but is {type(blocks).__name__}: pass a list of (loc, scale), one for each block"
        )
    if value.dim() != 2:
        raise ValueError(
            f"value must have shape [B, D], but has shape {list(value.shape)}: flatten its leading dimensions"
        )
    columns = joint + marginal * value.shape[1]
    total = value.new_full((len(value), columns), -math.inf, dtype=torch.float64)
    components, weighted, requires_grad = 0, set(), False
    # Not without gradients, so that blocks made of what requires one show it.
    for block in _filled(blocks):
        part = _log_density(value.detach(), *(t.detach() for t in block), joint=joint, marginal=marginal)
        total = torch.logaddexp(total, part.double())
        components += len(block[0])
        weighted.add(len(block) > 2)
        requires_grad |= torch.is_grad_enabled() and any(t.requires_grad for t in block)
    if not components and num_components is None:
        raise ValueError("blocks must hold at least one encoding, but hold none: check how they were made")
    if len(weighted) > 1:
        raise ValueError("all blocks must have log-weights, or none, but some do: give equal ones as -log n")
    # Equal weights, until then 1.
    shift = 0.0 if weighted == {True} else -math.log(num_components or components)
    anchor = value.new_zeros((), requires_grad=requires_grad)  # without one autograd would not come back here
    return applied(_Streamed, value, anchor, total + shift, blocks, components, shift, joint, marginal)


def _filled(blocks: Blocks) -> Iterator[Sequence[Tensor]]:
    for block in blocks:
        _check_block(block)
        if len(block[0]):
            yield block


def _check_block(block: object) -> None:
    parts = block if isinstance(block, (tuple, list)) else ()
    if len(parts) not in (2, 3) or not all(isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        came = f"({kinds})" if parts else f"a {type(block).__name__}"
        raise TypeError(
            f"blocks must give tensors (loc, scale) or (loc, scale, log_weights) for each block, but gave {came}: one "
            "block alone is [(loc, scale)]"
        )


def _log_density(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None = None,
    *,
    joint: bool,
    marginal: bool,
) -> Tensor:
    """Those asked for of one block, as columns, the joint one first; with weights 1 where there are none."""
    if log_weights is None:
        log_weights = loc.new_zeros(1)
    inputs = _checks.mixture_inputs(value, loc, scale, log_weights)
    found = densities(*inputs, joint, marginal)
    return torch.cat([d if d.dim() == 2 else d.unsqueeze(-1) for d in found], -1)


class _Streamed(Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        anchor: Tensor,
        total: Tensor,
        blocks: Blocks,
        components: int,
        shift: float,
        joint: bool,
        marginal: bool,
    ) -> Tensor:
        ctx.save_for_backward(value, total)
        ctx.blocks, ctx.components, ctx.shift = blocks, components, shift
        ctx.asked = {"joint": joint, "marginal": marginal}
        return total.to(torch.float64 if value.dtype == torch.float64 else torch.float32)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, total = ctx.saved_tensors
        value = value.detach().requires_grad_(ctx.needs_input_grad[0])
        components = 0
        with torch.enable_grad():
            for block in _filled(ctx.blocks):
                part = _log_density(value, *block, **ctx.asked)
                # What the block weighs in each density; nothing where there is none at all.
                share = (part.detach() + ctx.shift - total).exp().masked_fill(total == -math.inf, 0)
                if part.requires_grad:
                    torch.autograd.backward(part, (grad * share).to(part.dtype))
                components += len(block[0])
        if components != ctx.components:
            raise ValueError(
                f"blocks gave {ctx.components} encodings at first and {components} in the backward pass: they must "
                "give the same every time"
            )
        return value.grad, *(None,) * 7
