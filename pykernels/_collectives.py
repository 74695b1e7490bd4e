"""Collectives that gradients pass through, for tensors whose rows are shared out among the ranks of a process group.

A *whole* is the same tensor on all ranks, a *part* is a rank's own. All ranks compute the same loss from wholes, so
that the gradient of a whole is known everywhere and that of a part is the one-process gradient of these rows. What a
rank computes from a copy that it holds of some tensor gives a part of that tensor's gradient: parts add up. Backward
passes run their collectives in the opposite order of the forward passes', which is the same on all ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from ._transforms import applied, differentiable_once

T = TypeVar("T")
Group: TypeAlias = "dist.ProcessGroup | None"  # by name: some builds of torch have none
_REFUSED = -1


@dataclass(frozen=True)
class Rows:
    """Where a rank's rows are among those of all."""

    first: int
    count: int
    total: int
    group: Group

    @classmethod
    def of(cls, counts: Sequence[int], group: Group) -> "Rows":
        rank = dist.get_rank(group)
        return cls(sum(counts[:rank]), counts[rank], sum(counts), group)

    @property
    def own(self) -> slice:
        return slice(self.first, self.first + self.count)


def world_size(group: Group) -> int:
    """How many ranks there are: one where no process group was ever initialised."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def all_reduce(tensor: Tensor, group: Group, *, largest: bool = False) -> Tensor:
    """Sum or maximum over ranks, of a copy. There is no other collective: with zeros in place of what others have, this
    gathers too. It moves twice the bytes of an all-gather, and takes any shares in one message."""
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group)
    return result


def agreed(
    check: Callable[[], tuple[T, Sequence[int]]], num_counts: int, device: torch.device, group: Group
) -> tuple[T, list[list[int]]]:
    """What `check` returns: something, and each of its counts, rank by rank. Where a check fails on some rank all
    raise, and none waits for it."""
    rank = dist.get_rank(group)
    table = torch.zeros(num_counts, world_size(group), dtype=torch.int64, device=device)
    refused = None
    try:
        result, counts = check()
        table[:, rank] = torch.tensor(counts, device=device)
    except (TypeError, ValueError) as error:
        refused = error
        table[:, rank] = _REFUSED
    by_rank = all_reduce(table, group).tolist()
    if refused is not None:
        raise refused
    if _REFUSED in by_rank[0]:
        raise ValueError(
            f"rank {by_rank[0].index(_REFUSED)} refused its arguments, so that this one cannot go on: "
            "see the error there"
        )
    return result, by_rank


def equal_on_all(name: str, by_rank: Sequence[int]) -> None:
    if len(set(by_rank)) > 1:
        raise ValueError(f"{name} must be the same on all ranks, but is {list(by_rank)}, rank by rank")


def summed(part: Tensor, group: Group) -> Tensor:
    """The whole that parts add up to."""
    return part if world_size(group) == 1 else applied(_Summed, part, group)


def shared(whole: Tensor, group: Group) -> Tensor:
    """A computed whole, of which each rank goes on to compute a part."""
    return whole if world_size(group) == 1 else applied(_Shared, whole, group)


def gathered(part: Tensor, rows: Rows, *, in_parts: bool) -> Tensor:
    """The rows of all ranks. `in_parts`: from them every rank computes a part, and not the same whole as the others."""
    return applied(_Gathered, part, rows, in_parts)


def own_rows(whole: Tensor, rows: Rows) -> Tensor:
    return applied(_OwnRows, whole, rows)


def copied(tensor: Tensor, group: Group) -> Tensor:
    """A rank's copy of a tensor, from which all compute the same whole: each has an equal part of the gradient."""
    return applied(_Copied, tensor, world_size(group))


def _placed(part: Tensor, rows: Rows) -> Tensor:
    whole = part.new_zeros(rows.total, *part.shape[1:])
    whole[rows.own] = part
    return whole


class _Summed(Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Group) -> Tensor:
        return all_reduce(part, group)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None


class _Shared(Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return whole.view_as(whole)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return all_reduce(grad, ctx.group), None


class _Gathered(Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, rows: Rows, in_parts: bool) -> Tensor:
        ctx.rows, ctx.in_parts = rows, in_parts
        return all_reduce(_placed(part, rows), rows.group)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        whole = all_reduce(grad, ctx.rows.group) if ctx.in_parts else grad
        return whole[ctx.rows.own], None, None


class _OwnRows(Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return whole[rows.own].clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return all_reduce(_placed(grad, ctx.rows), ctx.rows.group), None


class _Copied(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, copies: int) -> Tensor:
        ctx.copies = copies
        return tensor.view_as(tensor)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad / ctx.copies, None
