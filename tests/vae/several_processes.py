"""A training run that two processes begin and three finish, and the command line's; as a script, in a given folder.

The ranks are forked from one process that has imported everything, as torchrun would start them.
"""

import os
import shutil
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from vae import likelihoods, ranks, seeds
from vae.bank import EncodingBank
from vae.cli import main
from vae.divergences import nothing
from vae.experiments.pinwheel import Pinwheel, build
from vae.model import VAE, Encoding
from vae.networks import DCGANDecoder, DCGANEncoder
from vae.objectives import Terms, decomposition
from vae.priors import Sparse
from vae.ranks import Shard
from vae.run import RunError, RunFolder, RunOptions
from vae.training import parts, shuffled, train

POINTS, BATCH, EPOCHS = 100, 33, 5  # a last batch of one, which all ranks but one have nothing of
COMMAND = ("--epochs", "3", "--num-points", "90", "--batch-size", "40", "--beta", "0.5", "--device", "cpu")


@dataclass(frozen=True)
class Toy:
    run: RunOptions


def unchanged(rows):
    return rows


def run(out: Path, *, resume: bool = False, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    """A model under KL(q‖p) by a bank, some of whose encodings are made anew in turn; its state at the end."""
    options = RunOptions(out, resume=resume, device="cpu")
    fabric = seeds.start(options)
    folder = RunFolder(Toy(options))
    torch.manual_seed(7)
    model, points, _, _ = build(Pinwheel(num_points=POINTS))
    shard = Shard.of(POINTS)
    index = torch.arange(POINTS)
    model.bank = EncodingBank.of(model, parts(shard.own(points), index.split(40), unchanged, shard), shard)
    steps = 0

    def objective(model: VAE, index: torch.Tensor) -> Terms:
        nonlocal steps
        if steps == stop_after:
            raise KeyboardInterrupt
        steps += 1
        model.bank.refresh_next(20, lambda index: model.encode(points[index]))
        divergence = partial(
            model.bank.decomposed_kl, index=index, total_correlation=2.0, dimensionwise_kl=1.0
        )
        return decomposition(model, points[index], alpha=1.0, beta=0.5, divergence=divergence)

    batches = shuffled(shard.own(index), BATCH, shard=shard)
    train(model, batches, objective, epochs=EPOCHS, lr=1e-2, fabric=fabric, folder=folder)
    return model.state_dict()


def refused(out: Path) -> list[str]:
    """What is said of networks with BatchNorm, and of an objective that draws numbers for its own rows only."""
    options = RunOptions(out, device="cpu")
    fabric, shard = seeds.start(options), Shard.of(POINTS)
    model, points, _, _ = build(Pinwheel(num_points=POINTS))
    networks = DCGANEncoder(2, min_scale=1e-6), DCGANDecoder(2)

    def draws(model: VAE, batch: torch.Tensor) -> Terms:
        torch.randn(len(batch))
        return decomposition(model, batch, alpha=0.0, beta=1.0, divergence=nothing)

    said = []
    for number, trained in enumerate([VAE(*networks, Sparse(2), likelihoods.laplace), model]):
        folder = RunFolder(Toy(replace(options, out=out / str(number))))
        batches = shuffled(shard.own(points), BATCH, shard=shard)
        try:
            train(trained, batches, draws, epochs=1, lr=1e-2, fabric=fabric, folder=folder)
        except RunError as error:
            said.append(str(error))
    return said


def left_alone() -> bool:
    """Whether `DistributedDataParallel` as it comes, which sends the first rank's buffers around, leaves the encodings
    of this rank as they are, and the model's state with all of them."""
    shard, everything = Shard.of(99), torch.arange(99.0).unsqueeze(1) + 1
    model, own = torch.nn.Linear(2, 2), shard.own(everything)
    model.bank = EncodingBank(Encoding(own, own, own), shard)
    DistributedDataParallel(model)(torch.zeros(1, 2))
    return model.bank.loc.equal(own) and model.state_dict()["bank.scale"].equal(everything)


def fork(size: int, function: Callable[[], None]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        if (child := os.fork()) == 0:
            launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": 0}
            launched |= {"TORCHELASTIC_RUN_ID": "test"}
            os.environ.update({name: str(value) for name, value in launched.items()})
            function()
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit(f"of {size} processes some failed")


def of_rank(out: Path, options: dict[str, object]) -> None:
    status = 1
    try:
        try:
            state = run(out, **options)
            said = refused(out / "refused")
            assert left_alone()
            if ranks.is_first():
                torch.save({"state": state, "refused": said}, out / "found.pt")
        except KeyboardInterrupt:
            if "stop_after" not in options:
                raise
        dist.destroy_process_group()
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


def command(out: Path) -> None:
    """`vae pinwheel` as torchrun would start it, and an experiment that is for one process."""
    status = main(["pinwheel", "--out", str(out), *COMMAND])
    other = main(["overlap", "--out", str(out / "overlap"), "--device", "cpu"])
    dist.destroy_process_group()
    os._exit(0 if (status, other) == (0, 2) else 1)


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    base = Path(sys.argv[1])
    fork(2, partial(of_rank, base / "two", {"stop_after": 11}))
    shutil.copytree(base / "two", base / "three")
    fork(3, partial(of_rank, base / "three", {"resume": True}))
    fork(2, partial(command, base / "command"))
