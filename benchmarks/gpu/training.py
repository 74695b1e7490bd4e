"""Training on a GPU: `python -m benchmarks.gpu.training steps | runs --out FILE`.

steps: milliseconds of a step of `vae shapes` and `vae fashion`, at the paper's batch sizes, by precision, as calls and
as a replayed CUDA graph, images unpacked included, what the paper's epochs then take; and a step of several seeds.
runs: the quick versions of the experiments from beginning to end, with their summaries. The images of `steps` are
noise.
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from vae import divergences
from vae.capture import Replayed, allow_recording
from vae.data.fashion import unit_interval
from vae.data.shapes import unpack
from vae.experiments import fashion, pinwheel, shapes
from vae.model import VAE
from vae.objectives import Objective, beta_vae, decomposition
from vae.run import RunError, RunOptions
from vae.training import shuffled, step

from .. import ensembles, output

PRECISIONS = {"float32": "32-true", "mixed": "bf16-mixed"}
STEPS, ROUNDS, WARM_UP = 100, 5, 10
SEEDS = 8
SHAPES = shapes.Shapes(prior="normal")
FASHION = fashion.Fashion()
DEVICE = torch.device("cuda")


def shapes_parts() -> tuple[VAE, Objective, Tensor, Callable[[Tensor], Tensor], int]:
    """Model, objective, all data as they lie on the device, what makes floats of them, batch size."""
    packed = torch.randint(256, (737_280, 512), dtype=torch.uint8, device=DEVICE)
    model = shapes.build(SHAPES, torch.empty(0))
    return model, beta_vae(SHAPES.beta), packed, unpack, SHAPES.schedule.batch_size


def fashion_parts() -> tuple[VAE, Objective, Tensor, Callable[[Tensor], Tensor], int]:
    images = torch.randint(256, (60_000, 1, 32, 32), dtype=torch.uint8, device=DEVICE)
    objective = partial(
        decomposition, alpha=FASHION.alpha, beta=FASHION.beta, divergence=divergences.dimensionwise_mmd
    )
    return fashion.build(FASHION), objective, images, unit_interval, FASHION.batch_size


EXPERIMENTS = {
    "shapes": (shapes_parts, SHAPES.schedule.epochs),
    "fashion": (fashion_parts, FASHION.epochs),
}


def time_steps(experiment: str, precision: str, capture: bool) -> dict[str, float]:
    parts, epochs = EXPERIMENTS[experiment]
    bare_model, objective, data, prepare, batch_size = parts()
    fabric = Fabric(accelerator=DEVICE.type, devices=1, precision=PRECISIONS[precision])
    bare_model = bare_model.to(DEVICE)
    adam = torch.optim.Adam(bare_model.parameters(), 1e-4, amsgrad=True, fused=True)
    model, optimizer = fabric.setup(bare_model, adam)

    def one(batch: Tensor) -> Tensor:
        if capture:
            allow_recording(adam)
        return torch.stack(step(model, batch, objective, optimizer, fabric)).detach()

    run = Replayed(one) if capture else one
    batches = endless(data, batch_size, prepare)
    last = seconds_of(run, batches, WARM_UP)[1]
    rounds = [seconds_of(run, batches, STEPS) for _ in range(ROUNDS)]
    per_step = min(taken for taken, _ in rounds) / STEPS
    minutes = per_step * (len(data) // batch_size) * epochs / 60
    return {"ms": 1e3 * per_step, "minutes": minutes, "first": last, "last": rounds[-1][1]}


def endless(data: Tensor, batch_size: int, prepare: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    return chain.from_iterable(shuffled(data, batch_size, prepare)() for _ in count())


def seconds_of(run: Callable[[Tensor], Tensor], batches: Iterator[Tensor], steps: int) -> tuple[float, float]:
    """Of so many steps, and the objective of the last."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for batch in (next(batches) for _ in range(steps)):
        terms = run(batch)
    torch.cuda.synchronize()
    taken = time.perf_counter() - start
    return taken, terms[0].item()


def time_seeds(way: str) -> dict[str, float]:
    """A step of several seeds of `vae shapes`, images given."""
    images = (torch.rand(SEEDS, SHAPES.schedule.batch_size, 1, 64, 64, device=DEVICE) < 0.1).float()
    call = {"one after another": ensembles.one_after_another, "grouped": ensembles.grouped}[way]
    run = call(ensembles.models(SEEDS, DEVICE.type), images, PRECISIONS["mixed"])
    for _ in range(WARM_UP):
        run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS // 2):
        run()
    torch.cuda.synchronize()
    return {"ms": 1e3 * (time.perf_counter() - start) / (STEPS // 2)}


def quick_run(module: Any, config_class: Any) -> dict[str, Any]:
    """The experiment's quick version, from the images to the summary."""
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(Path(folder, "run"), quick=True, device=DEVICE.type, precision="mixed")
        config = config_class(**config_class.presets["quick"], run=options)
        start = time.perf_counter()
        summary = module.seeds.run(config, module.experiment)
        return {"seconds": time.perf_counter() - start, "summary": summary}


def jobs(what: str) -> dict[str, Callable[[], dict[str, Any]]]:
    if what == "runs":
        return {
            "shapes": partial(quick_run, shapes, shapes.Shapes),
            "pinwheel": partial(quick_run, pinwheel, pinwheel.Pinwheel),
            "fashion": partial(quick_run, fashion, fashion.Fashion),
        }
    # Recordings last: one that fails may spoil what comes after it.
    seeds = {f"{SEEDS} seeds, {way}": partial(time_seeds, way) for way in ("one after another", "grouped")}
    return {**step_jobs(False), **seeds, **step_jobs(True)}


def step_jobs(capture: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        f"{experiment}, {precision}, {'CUDA graph' if capture else 'calls'}": partial(
            time_steps, experiment, precision, capture
        )
        for experiment in EXPERIMENTS
        for precision in PRECISIONS
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.training", description=__doc__)
    parser.add_argument("what", choices=("steps", "runs"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    failed = False
    for name, job in jobs(options.what).items():
        torch.manual_seed(0)
        try:
            found[name] = job()
        except RunError as error:  # a data set that is not here
            found[name] = {"not_measured": str(error)}
        except (RuntimeError, ValueError, TypeError) as error:
            traceback.print_exc()
            found[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
            failed = True
        output.write_json(options.out, {options.what: found})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
