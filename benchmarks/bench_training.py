"""What a training step on Fashion-MNIST is made of: `python -m benchmarks.bench_training [--quick] [--out FILE]`.

The paper's settings: 500 images, 50 dimensions, the networks of Table 1c. Its dimension-wise MMD is timed in the
paper's dense form and in ours, by itself (value and gradient) and within the step; beside them the input pipeline, and
what precision and layout of the networks do to a step. The images are noise, which takes as long. Every job runs in a
process of its own, with the allocator that it asks for. Run it from the project's root.
"""

import sys
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.distributions import Distribution

from pykernels import cauchy_mmd
from vae.data.fashion import unit_interval
from vae.experiments.fashion import Fashion, build
from vae.model import Encoding
from vae.objectives import decomposition
from vae.training import shuffled, step

from . import baselines, command, harness
from .output import table

Mmd = Callable[[Tensor, Tensor], Tensor]
OURS, DENSE = "ours", "dense"
MMDS: dict[str, Mmd] = {OURS: cauchy_mmd, DENSE: baselines.dense_mmd}
PRECISIONS = {"float32": "32-true", "mixed": "bf16-mixed"}
NUM_IMAGES = 60_000
CONFIG = Fashion()
JOB_LIMIT_S = 900


def training_step(mmd: Mmd | None, precision: str, layout: torch.memory_format) -> Callable[[], Any]:
    """A call that makes one step of `vae fashion`, with its divergence or with none."""

    def divergence(prior: Distribution, encoding: Encoding) -> Tensor:
        return mmd(encoding.z, prior.sample(encoding.z.shape[:1])) if mmd else encoding.z.new_zeros(())

    fabric = Fabric(accelerator="cpu", devices=1, precision=PRECISIONS[precision])
    model = build(CONFIG).to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), CONFIG.lr, amsgrad=True, fused=True)
    model, optimizer = fabric.setup(model, optimizer)
    alpha = CONFIG.alpha if mmd else 0.0
    objective = partial(decomposition, alpha=alpha, beta=CONFIG.beta, divergence=divergence)
    images = torch.rand(CONFIG.batch_size, 1, 32, 32)
    return lambda: step(model, images, objective, optimizer, fabric)


def time_mmd(precision: str, quick: bool) -> dict[str, Any]:
    """A step without the divergence and with either form of it, and both forms by themselves."""
    draws = torch.randn(2, CONFIG.batch_size, CONFIG.latent_dim)
    errors = {name: check(mmd, *draws) for name, mmd in MMDS.items()}
    timed: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, mmd in {"without": None, **MMDS}.items():
        timed["step", name] = training_step(mmd, precision, torch.channels_last)
    for name, mmd in MMDS.items():
        timed["divergence", name] = partial(value_and_gradient, mmd, *draws)
    times, noise = harness.interleave(timed, *effort(quick))
    times_ms = {kind: {n: times[k, n] for k, n in times if k == kind} for kind in ("step", "divergence")}
    least = {key: time["min"] for key, time in times.items()}
    shares = {name: least["divergence", name] / least["step", name] for name in MMDS}
    return {"errors": errors, "times_ms": times_ms, "shares": shares, "noise": noise}


def value_and_gradient(mmd: Mmd, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = mmd(x, y)
    return value.detach(), *torch.autograd.grad(value, x)


def check(mmd: Mmd, x: Tensor, y: Tensor) -> dict[str, float]:
    """Relative errors of value and gradient against the dense form in float64; raises if it is something else."""
    exact = value_and_gradient(baselines.dense_mmd, x.double(), y.double())
    found = [
        ((actual - expected).abs().max() / expected.abs().max()).item()
        for actual, expected in zip(value_and_gradient(mmd, x, y), exact)
    ]
    if not max(found) <= harness.SAME:
        raise ValueError(f"computes something else: errors {found}")
    return dict(zip(("value", "gradient"), found))


def time_layouts(quick: bool) -> dict[str, Any]:
    """A step without divergence by precision and memory layout, and the input of a step."""
    layouts = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
    timed: dict[str, Callable[[], Any]] = {
        f"{precision}, {name}": training_step(None, precision, layout)
        for precision in PRECISIONS
        for name, layout in layouts.items()
    }
    epoch = shuffled(
        torch.randint(256, (NUM_IMAGES, 1, 32, 32), dtype=torch.uint8), CONFIG.batch_size, unit_interval
    )
    timed["input of an epoch"] = lambda: deque(epoch(), maxlen=0)
    times, noise = harness.interleave(timed, *effort(quick))
    steps = NUM_IMAGES / CONFIG.batch_size
    share = times["input of an epoch"]["min"] / (steps * times["mixed, channels last"]["min"])
    return {"times_ms": {"step": times}, "shares": {"input": share}, "noise": noise}


def effort(quick: bool) -> tuple[int, float]:
    """Rounds, and the seconds after which no more are begun."""
    return (3, 15.0) if quick else (9, 120.0)


def jobs(quick: bool) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Name -> allocator and function, whose result is JSON."""
    made = {
        f"{precision}, {allocator} allocator": (allocator, partial(time_mmd, precision, quick))
        for precision in PRECISIONS
        for allocator in ("default", "tuned")
    }
    return {**made, "layouts": ("default", partial(time_layouts, quick))}


def show(report: Mapping[str, Any]) -> str:
    results = report["jobs"]
    header = ["", "", "ms", "over ours", "spread"]
    rows = []
    for job, result in results.items():
        for kind, times in result.get("times_ms", {}).items():
            ours = times[OURS]["min"] if OURS in times else None
            for name, time_ms in times.items():
                least = time_ms["min"]
                spread = time_ms["median"] / least - 1
                rows.append([f"{job}: {kind}", name, least, least / ours if ours else None, spread])
    shares = [
        [job, name, 100 * share]
        for job, result in results.items()
        for name, share in result.get("shares", {}).items()
    ]
    parts = [table(header, rows), "Share of a step\n" + table(["", "", "%"], shares)]
    parts += [f"FAILED {job}\n{result['error']}" for job, result in results.items() if "error" in result]
    return "\n\n".join(parts)


def main() -> int:
    return command.main("bench_training", __doc__, jobs, show, quick="fewer rounds", limit_s=JOB_LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
