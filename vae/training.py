"""Training: epochs, checkpoints, progress. Device, precision and backward come from Fabric."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from vae import ranks
from vae.capture import Replayed, allow_recording
from vae.model import VAE, evaluating
from vae.objectives import Terms
from vae.ranks import Shard
from vae.run import RunError, RunFolder

CHECKPOINT_SHARE = 0.02
"""Checkpoints may cost this share of the time."""


def train(
    model: VAE,
    batches: Callable[[], Iterable[Tensor]],
    objective: Callable[[VAE, Tensor], Terms],
    *,
    epochs: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    fabric: Fabric,
    folder: RunFolder,
    measure: Callable[[VAE], Mapping[str, float]] | None = None,
    capture: bool = False,
) -> None:
    """Maximise `objective(model, batch).objective` by Adam with AMSGrad; `batches()` is called every epoch.

    An epoch's metrics are the means of the objective's terms over its steps, and what `measure` finds at its end.
    Continues from the folder's checkpoint where there is one, bit for bit: everything random is drawn from
    torch's global generators, whose state the checkpoint holds.

    With `capture` a single GPU replays the step as a CUDA graph, for which the objective must keep to what `Replayed`
    says.
    """
    capture = capture and fabric.device.type == "cuda" and fabric.world_size == 1
    bare_optimizer = torch.optim.Adam(model.parameters(), lr, betas, amsgrad=True, fused=True)
    if fabric.world_size > 1 and any(isinstance(m, _BatchNorm) for m in model.modules()):
        raise RunError("BatchNorm sees the rows of one process only: start one, without torchrun")
    with warnings.catch_warnings():
        # What is to replace it is not in torch before 2.13.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
        wrapped, optimizer = fabric.setup(model, bare_optimizer)
    wrapped.mark_forward_method("encode")
    first = 0
    if state := folder.load_checkpoint():
        wrapped.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]

    def weighted_terms(batch: Tensor) -> Tensor:
        if capture:
            allow_recording(bare_optimizer)
        terms = step(wrapped, batch, objective, optimizer, fabric)
        return ranks.total(batch) * torch.stack(terms).detach()

    run_step = Replayed(weighted_terms) if capture else weighted_terms
    next_checkpoint = 0.0
    bar = {"desc": str(folder.path), "initial": first, "total": epochs, "unit": "epoch"}
    bar["disable"] = None if ranks.is_first() else True
    for epoch in tqdm(range(first + 1, epochs + 1), **bar):
        total, count = torch.zeros(len(Terms._fields), device=fabric.device), 0
        wrapped.train()
        for batch in batches():
            total += run_step(batch)
            count += ranks.total(batch)
        row = dict(zip(Terms._fields, (total / count).tolist(), strict=True))
        if not math.isfinite(row["objective"]):
            raise RunError(f"the objective became {row['objective']} in epoch {epoch}: try a lower --lr")
        if not ranks.drew_alike(fabric.device):
            raise RunError(
                f"the processes drew different random numbers in epoch {epoch}: what the objective draws for a part of "
                "a batch it must draw for the whole, with the functions of vae.ranks"
            )
        if measure:
            with evaluating(model):
                row |= measure(model)
        folder.log({"epoch": epoch, **row})
        start = time.monotonic()
        if ranks.from_first(start >= next_checkpoint or epoch == epochs):
            folder.save_checkpoint(
                epoch, {"model": wrapped.state_dict(), "optimizer": optimizer.state_dict()}
            )
            saved = time.monotonic()
            next_checkpoint = saved + (saved - start) / CHECKPOINT_SHARE


def step(
    model: VAE,
    batch: Tensor,
    objective: Callable[[VAE, Tensor], Terms],
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
) -> Terms:
    """One step up the objective, and its terms before that; `model` and `optimizer` as `fabric.setup` gives them.

    Gradients of the parts that processes hold add up, where Fabric takes their mean.
    """
    terms = objective(model, batch)
    optimizer.zero_grad()
    fabric.backward(-fabric.world_size * terms.objective)
    optimizer.step()
    return terms


def shuffled(
    data: Tensor,
    batch_size: int,
    prepare: Callable[[Tensor], Tensor] = lambda batch: batch,
    shard: Shard | None = None,
) -> Callable[[], Iterable[Tensor]]:
    """Batches of `data`, in a new order every epoch; one that holds everything keeps its order.

    `prepare` makes of each what the model takes, when its turn comes: floats from bytes, say. With `shard`, `data` is a
    rank's own, and it gets of each batch, the same one on all ranks, the part that it has.
    """
    if shard is not None and shard.count < shard.total:
        device, everything = data.device, batch_size >= shard.total
        order = torch.arange if everything else torch.randperm
        return lambda: parts(data, order(shard.total, device=device).split(batch_size), prepare, shard)
    if batch_size >= len(data):
        return lambda: (prepare(data),)
    # Gathered batch by batch: data that are mapped from a file are never copied as a whole.
    return lambda: (
        prepare(data[rows]) for rows in torch.randperm(len(data), device=data.device).split(batch_size)
    )


def parts(
    data: Tensor, batches: Iterable[Tensor], prepare: Callable[[Tensor], Tensor], shard: Shard
) -> Iterator[Tensor]:
    """Of batches that are indices into all data points, the rows that are in `data`, a rank's own: a part of a batch,
    which the rank holds as long as the caller has it."""
    for index in batches:
        with shard.holding(index) as own:
            yield prepare(data[own - shard.first])


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for torch on the CPU: for networks so small that a second one gains nothing when the cores are
    free, and makes a step several times slower when they are not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
