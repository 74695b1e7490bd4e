"""A step of training recorded once on a GPU and replayed as a whole, so that it does not wait for Python."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

WARM_UP = 3
"""Calls before one is recorded: by then memory and libraries are set up, which a recording must not meet."""

T = TypeVar("T")
Call = Callable[[], T]


class Replayed:
    """`function`, of a batch to a tensor, with all that it does to parameters, buffers and an optimiser.

    The first calls are calls; then one is recorded, and replayed for every batch of that shape. Batches of another, as
    the last of an epoch, are calls again. Random numbers come from torch's generator of the GPU as ever.

    What the function does besides GPU work happens while it is recorded and never again. So it must change tensors in
    place, and not put others in their stead; wait for nothing (`item`, `if` on a tensor, indices by a mask); copy
    nothing from the CPU; draw nothing from a generator of the CPU; and keep no count in Python. The result is
    overwritten by the next call.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        record: Callable[[Call[Tensor]], Call[Tensor]] | None = None,
    ):
        self._function = function
        self._record = record or cuda_graph
        self._calls = 0
        self._batch: Tensor | None = None
        self._replay: Call[Tensor] | None = None

    def __call__(self, batch: Tensor) -> Tensor:
        if self._batch is None or batch.shape != self._batch.shape:
            if self._replay is not None:
                return self._function(batch)
            self._batch, self._calls = batch.clone(), 0
        if self._replay is None:
            self._calls += 1
            if self._calls <= WARM_UP:
                call = partial(self._function, batch)
                return on_side_stream(call) if batch.is_cuda else call()
            static = self._batch
            self._replay = self._record(lambda: self._function(static))
        self._batch.copy_(batch)
        return self._replay()


def on_side_stream(call: Call[T]) -> T:
    """As torch asks of calls before a recording: autograd must not set up anything on the stream that waits for it."""
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        result = call()
    current.wait_stream(stream)
    return result


def cuda_graph(call: Call[T]) -> Call[T]:
    """Records a call, in which nothing is computed, and returns what replays it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> T:
        graph.replay()
        return result

    return replay


def allow_recording(optimizer: torch.optim.Optimizer) -> None:
    """To be called before each step: else torch refuses to record the optimiser, or, if that stays allowed, warns of
    every step that is not recorded."""
    for group in optimizer.param_groups:
        group["capturable"] = torch.cuda.is_current_stream_capturing()
