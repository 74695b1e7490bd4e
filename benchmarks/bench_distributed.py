"""Calls over several processes of one machine, and over blocks: time, bytes and memory, beside those of one.
`python -m benchmarks.bench_distributed [--quick] [--out FILE]`.

Ranks have one thread each. Times are of forward and backward, the least over rounds of the slowest rank's: by the clock
on the wall, where ranks that share cores wait for each other, and of the processor alone, which is the work of a rank.
`load` is the machine's load average at the end.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributions import Independent, Normal

import pykernels
from pykernels import distributed, streaming

from . import command, harness
from .output import table, write_json
from .problems import spread_scales

JOB_LIMIT_S = 300
RANKS = 1, 2, 4
POINTS, BLOCK = 256, 65_536
Call = Callable[[Any, list[Tensor]], Tensor]


def prior(dims: int) -> Independent:
    return Independent(Normal(torch.zeros(dims), torch.ones(dims)), 1)


CALLS: dict[str, tuple[tuple[int, int, int], Call]] = {
    "exclusive_kl": (
        (240_000, 512, 10),
        lambda api, t: api.exclusive_kl(*t[:3], prior(10)),
    ),
    "kl_decomposition": (
        (60_000, 512, 10),
        lambda api, t: sum(api.kl_decomposition(*t[:3], prior(10), index=t[3])),
    ),
    "cauchy_mmd": ((200_000, 200_000, 50), lambda api, t: api.cauchy_mmd(t[0], t[1])),
    "mmd": ((2_000, 2_000, 10), lambda api, t: api.mmd(t[0], t[1])),
}
"""Shapes (n, B, D), and what is called with points, locations, scales, and which encoding each point is of."""


def over_ranks(name: str, size: int, quick: bool) -> dict[str, Any]:
    """Forks the ranks, which this process, that has imported everything and has one thread, can do."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(size):
            if (child := os.fork()) == 0:
                status = 1
                try:
                    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=size)
                    found = of_rank(name, rank, size, 2 if quick else 7)
                    if rank == 0:
                        write_json(Path(folder, "found"), found)
                    dist.barrier()
                    status = 0
                except Exception:
                    traceback.print_exc()  # nothing above a fork may handle it
                finally:
                    os._exit(status)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            return {"error": "a rank failed"}
        return json.loads(Path(folder, "found").read_text())


def of_rank(name: str, rank: int, size: int, rounds: int) -> dict[str, Any]:
    (n, rows, dims), call = CALLS[name]
    torch.manual_seed(0)
    whole = [*spread_scales(n, rows, dims), torch.arange(rows)]
    expected = call(pykernels, whole) if rank == 0 else torch.zeros(())
    dist.broadcast(expected, 0)
    own = [t.tensor_split(size)[rank].clone().requires_grad_(t.is_floating_point()) for t in whole]
    used = own[: 2 if "mmd" in name else 3]
    sent = []

    def step() -> Tensor:
        value = call(distributed, own)
        torch.autograd.grad(value, used)
        return value

    real = dist.all_reduce
    dist.all_reduce = lambda tensor, *a, **k: (sent.append(tensor.nbytes), real(tensor, *a, **k))[1]
    error = ((step() - expected).abs() / expected.abs()).item()
    dist.all_reduce = real
    if error > harness.SAME:
        raise RuntimeError(f"{name} over {size} ranks is off by {error:.1e}")
    least = torch.full((2,), torch.inf, dtype=torch.float64)
    for _ in range(rounds):
        dist.barrier()
        wall, own_cpu = time.perf_counter(), time.thread_time()
        step()
        taken = torch.tensor([time.perf_counter() - wall, time.thread_time() - own_cpu], dtype=torch.float64)
        dist.all_reduce(taken, dist.ReduceOp.MAX)
        least = torch.minimum(least, taken)
    times = dict(zip(("wall", "cpu"), (1e3 * least).tolist()))
    return {
        "times_ms": times,
        "sent": sum(sent),
        "messages": len(sent),
        "error_of_value": error,
        "load": load(),
    }


def streamed(quick: bool) -> dict[str, Any]:
    """n = 737,280 in blocks of a mapped file, beside all at once; gradients of the points."""
    n, dims = (73_728 if quick else 737_280), 10
    with tempfile.NamedTemporaryFile() as file:
        loc = torch.from_file(file.name, shared=True, size=n * dims).view(n, dims)
        value, loc[:], scale = spread_scales(n, POINTS, dims)
        value = value.requires_grad_()
        blocks = [*zip(loc.split(BLOCK), scale.split(BLOCK))]
        timed = {
            "at once": lambda: torch.autograd.grad(
                pykernels.gaussian_mixture_log_prob(value, loc, scale).sum(), value
            ),
            "in blocks": lambda: torch.autograd.grad(
                streaming.gaussian_mixture_log_prob(value, blocks).sum(), value
            ),
        }
        torch.set_num_threads(1)
        rounds = (2, 4.0) if quick else (7, 20.0)
        found, noise = harness.interleave(timed, *rounds, clock=processor_clock)
    return {"streamed_ms": found, "noise": noise, "load": load()}


def streamed_memory(components: int) -> dict[str, float]:
    class Made:
        def __iter__(self):
            return ((torch.ones(BLOCK, 10), torch.ones(())) for _ in range(components // BLOCK))

    value = torch.zeros(POINTS, 10, requires_grad=True)
    call = partial(streaming.gaussian_mixture_log_prob, value, Made())
    return {"growth": harness.peak_growth(lambda: torch.autograd.grad(call().sum(), value))}


def processor_clock(call: Callable[[], Any]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def load() -> float:
    return os.getloadavg()[0]


def jobs(quick: bool) -> command.Jobs:
    made: command.Jobs = {}
    for name in CALLS:
        for size in RANKS:
            made[f"{name}, {size} ranks"] = "tuned", partial(over_ranks, name, size, quick)
    made["in blocks"] = "tuned", partial(streamed, quick)
    for count in (2, 12):
        made[f"memory in {count} blocks"] = "returning", partial(streamed_memory, count * BLOCK)
    return made


def show(report: dict[str, Any]) -> str:
    rows, others = [], []
    for job, result in report["jobs"].items():
        if "error" in result:
            others.append(f"FAILED {job}: {result['error']}")
        elif "growth" in result:
            others.append(f"{job}: {result['growth'] / 1e6:.1f} MB")
        elif "streamed_ms" in result:
            others += [f"{way}: {times['min']:.1f} ms" for way, times in result["streamed_ms"].items()]
        else:
            numbers = (result[key] for key in ("sent", "messages", "error_of_value"))
            rows.append([*job.rsplit(", ", 1), *result["times_ms"].values(), *numbers])
    header = ["", "", "wall ms", "cpu ms", "bytes", "messages", "error"]
    return "\n".join([table(header, rows), *others])


if __name__ == "__main__":
    options = {"quick": "fewer rounds, and less data in blocks", "limit_s": JOB_LIMIT_S}
    sys.exit(command.main("bench_distributed", __doc__, jobs, show, **options))
