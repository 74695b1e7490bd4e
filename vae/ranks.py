"""One training run in several processes, the ranks, as `torchrun` starts them: the same run as in one, up to rounding.

All ranks have the same weights and the same random state, and draw what one process would draw. Each has a shard of
the data; of a batch, drawn from all data, it has the rows that are in its shard, which may be none, and of the noise
that goes with the batch's rows those of its own. While it holds such a part of a batch, means and divergences are those
of the whole batch: every rank computes the same objective. Outside of that, in evaluation, all ranks do the same.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributions import Distribution

import pykernels
from pykernels import distributed


class Part(NamedTuple):
    """A rank's rows of something that has `total` rows. With `stand_in` it has none, and holds one that does not count:
    torch's distributions take no fewer."""

    positions: Tensor
    total: int
    stand_in: bool = False


@dataclass(frozen=True)
class Shard:
    """A rank's share of `total` data points, of which the first ranks have the first."""

    first: int
    count: int
    total: int

    @classmethod
    def of(cls, total: int) -> "Shard":
        if total < world_size():
            raise ValueError(f"{total} data points are too few for {world_size()} processes: start fewer")
        bounds = [total * rank // world_size() for rank in range(world_size() + 1)]
        return cls(bounds[rank()], bounds[rank() + 1] - bounds[rank()], total)

    def own(self, rows: Tensor) -> Tensor:
        return rows[self.first : self.first + self.count]

    def whole(self, own: Tensor) -> Tensor:
        """The rows of all ranks, from each one's own."""
        if self.count == self.total:
            return own
        everything = own.new_zeros(self.total, *own.shape[1:])
        everything[self.first : self.first + self.count] = own
        dist.all_reduce(everything)
        return everything

    @contextmanager
    def holding(self, index: Tensor) -> Iterator[Tensor]:
        """Those of the data points `index` that are here, of a batch that all ranks hold meanwhile."""
        if self.count == self.total:
            yield index
            return
        here = (index >= self.first) & (index < self.first + self.count)
        part = Part(here.nonzero().squeeze(1), len(index), stand_in=not here.any())
        with holding(part):
            yield index.new_tensor([self.first]) if part.stand_in else index[part.positions]


_held: Part | None = None


@contextmanager
def holding(part: Part) -> Iterator[None]:
    """What is computed meanwhile is computed from these rows, and by all ranks together."""
    global _held
    before, _held = _held, part
    try:
        yield
    finally:
        _held = before


@contextmanager
def holding_shards(shard: Tensor) -> Iterator[None]:
    """The same for all data, where a part of a batch is held; nothing changes elsewhere."""
    if _held is None:
        yield
        return
    counts = torch.zeros(world_size(), dtype=torch.int64, device=shard.device)
    counts[rank()] = len(shard)
    if world_size() > 1:
        dist.all_reduce(counts)
    first = int(counts[: rank()].sum())
    with holding(Part(torch.arange(first, first + len(shard), device=shard.device), int(counts.sum()))):
        yield


def kernels() -> ModuleType:
    """The divergences of what is held, which may be a part, or of what there is."""
    return pykernels if _held is None else distributed


def counted(rows: Tensor) -> Tensor:
    """Without the row that only stands in."""
    return rows[:0] if _held is not None and _held.stand_in else rows


def mean(by_row: Tensor) -> Tensor:
    return by_row.mean(0) if _held is None else distributed.mean(counted(by_row))


def total(rows: Tensor) -> int:
    return len(rows) if _held is None else _held.total


def randn_like(rows: Tensor) -> Tensor:
    if _held is None:
        return torch.randn_like(rows)
    everything = torch.randn(_held.total, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
    return torch.zeros_like(rows) if _held.stand_in else everything[_held.positions]


def sample(prior: Distribution, rows: Tensor) -> Tensor:
    """As many draws of the prior as there are rows."""
    drawn = prior.sample((total(rows),))
    return drawn if _held is None else drawn[_held.positions]


def part_is_held() -> bool:
    return _held is not None


def parts_are_known(what: str) -> None:
    """Raises an error where `what`, which cannot be computed from parts, would be."""
    if _held is not None and world_size() > 1:
        raise ValueError(f"{what} cannot be computed by several processes: start one, without torchrun")


def world_size() -> int:
    return dist.get_world_size() if _started() else 1


def rank() -> int:
    return dist.get_rank() if _started() else 0


def is_first() -> bool:
    """Whether this rank writes and prints, which one of them does."""
    return rank() == 0


def from_first(thing: Any) -> Any:
    """What the first rank has for it. All come here, and none leaves before the first has come."""
    if world_size() == 1:
        return thing
    box = [thing]
    dist.broadcast_object_list(box)
    return box[0]


def drew_alike(device: torch.device) -> bool:
    """Whether all ranks have the same random state still."""
    if world_size() == 1:
        return True
    states = torch.get_rng_state().numpy().tobytes()
    if device.type == "cuda":
        states += torch.cuda.get_rng_state(device).numpy().tobytes()
    digest = hashlib.sha256(states).hexdigest()
    digests = [None] * world_size()
    dist.all_gather_object(digests, digest)
    return len(set(digests)) == 1


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()
