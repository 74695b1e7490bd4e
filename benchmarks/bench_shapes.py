"""What `vae shapes` spends its time on: `python -m benchmarks.bench_shapes [--quick] [--out FILE]`.

Drawing, opening and unpacking the 737,280 images beside a training step; the disentanglement score and the singular
values of all of them; and a step of 8 seeds one after another beside one of a batched model, as torch.func or grouped
convolutions have it. Times are of the paper's Gaussian settings, 64 images a step. Run it from the project's root.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

from vae.data.shapes import shapes, unpack
from vae.data.shapes_render import ALL
from vae.disentanglement import KIM_MNIH, PUBLISHED, factor_score
from vae.experiments.shapes import Shapes, batches
from vae.pca import singular_values
from vae.training import shuffled

from . import command, ensembles, harness
from .output import table

BATCH_SIZE = 64
SEEDS = 8
PRECISIONS = {"float32": "32-true", "mixed": "bf16-mixed"}
WAYS = {
    "one after another": ensembles.one_after_another,
    "torch.func": ensembles.vectorised,
    "grouped convolutions": ensembles.grouped,
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where seeds are trained; all else is timed on the CPU."""
JOB_LIMIT_S = 600
ENVIRONMENTS = {"default": {}, "one thread": {"OMP_NUM_THREADS": "1"}}


def time_data(quick: bool) -> dict[str, Any]:
    """Drawing and writing the set, opening it, its singular values; and the input of a step beside the step."""
    with tempfile.TemporaryDirectory() as folder:
        drawn, packed = seconds(lambda: shapes(folder).packed)
        opened, packed = seconds(lambda: shapes(folder).packed)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        del packed
        packed = shapes(folder).packed
        epoch = chain.from_iterable(shuffled(packed, BATCH_SIZE, unpack)() for _ in count())
        timed: dict[str, Callable[[], Any]] = {"input": lambda: next(epoch)}
        for precision, plugin in PRECISIONS.items():
            timed[f"step, {precision}"] = training_step(plugin)
        times, noise = harness.interleave(timed, *effort(quick), clock)
        some = packed[:: 32 if quick else 1]
        pca, _ = seconds(lambda: singular_values(lambda: batches(some), Shapes().latent_dim))
    least = {name: value["min"] for name, value in times.items()}
    return {
        "seconds": {"draw and write": drawn, "open": opened, f"singular values of {len(some)}": pca},
        "bytes": size,
        "times_ms": times,
        "images_per_second": {name: 1e3 * BATCH_SIZE / value for name, value in least.items()},
        "input_share": {name: least["input"] / value for name, value in least.items() if name != "input"},
        "noise": noise,
    }


def training_step(precision: str) -> Callable[[], Any]:
    images = unpack(torch.randint(256, (BATCH_SIZE, 512), dtype=torch.uint8))
    return ensembles.one_after_another(ensembles.models(1), images.unsqueeze(0), precision)


def time_score(quick: bool) -> dict[str, Any]:
    """Of encodings that know nothing: no dimension wins early, and the score is the level of chance."""
    encodings = torch.randn(ALL.count, Shapes().latent_dim)
    found = {}
    for name, protocol in {"Kim and Mnih": KIM_MNIH, "published code": PUBLISHED}.items():
        taken, score = seconds(partial(factor_score, encodings, ALL, protocol))
        found[name] = {"seconds": taken, "score": score, **protocol._asdict()}
    return {"scores": found, "n": ALL.count}


def time_seeds(precision: str, quick: bool) -> dict[str, Any]:
    """A step of every seed, after a check that the first layers' gradients agree."""
    size = BATCH_SIZE
    packed = shapes("", (1, 1, 4, 4, 4)).packed
    images = (
        unpack(packed[torch.randperm(len(packed))[: SEEDS * size]]).unflatten(0, (SEEDS, size)).to(DEVICE)
    )
    timed, gradients = {}, {}
    for name, way in WAYS.items():
        torch.manual_seed(0)
        timed[name] = way(ensembles.models(SEEDS, DEVICE), images, PRECISIONS[precision])
        torch.manual_seed(1)
        gradients[name] = timed[name]().clone()
    exact = gradients["one after another"]
    errors = {name: ((g - exact).abs().max() / exact.abs().max()).item() for name, g in gradients.items()}
    # A GPU's generator gives one large draw other numbers than several small ones: there the noise differs.
    if DEVICE == "cpu" and not max(errors.values()) <= (1e-3 if precision == "float32" else 0.1):
        raise ValueError(f"computes something else: errors {errors}")
    times, noise = harness.interleave(timed, *effort(quick), clock)
    ratios = {name: times["one after another"]["min"] / value["min"] for name, value in times.items()}
    return {
        "device": DEVICE,
        "threads": torch.get_num_threads(),
        "errors": errors,
        "times_ms": times,
        "throughput_over_one_after_another": ratios,
        "noise": noise,
    }


def clock(call: Callable[[], Any]) -> float:
    """Seconds of a call; with one thread on a CPU those of its processor, which others disturb less."""
    if DEVICE == "cuda":
        return harness.wall_clock(lambda: (call(), torch.cuda.synchronize()))
    if torch.get_num_threads() > 1:
        return harness.wall_clock(call)
    start = time.process_time()
    call()
    return time.process_time() - start


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def effort(quick: bool) -> tuple[int, float]:
    """Rounds, and the seconds after which no more are begun."""
    return (3, 20.0) if quick else (9, 120.0)


def jobs(quick: bool) -> command.Jobs:
    """Name -> one of ENVIRONMENTS and function, whose result is JSON.

    Batching can win by what it spares in all, which one thread shows, and by keeping several threads busier.
    """
    made: command.Jobs = {
        "data": ("default", partial(time_data, quick)),
        "score": ("default", partial(time_score, quick)),
    }
    for precision in PRECISIONS:
        job = partial(time_seeds, precision, quick)
        made[f"{SEEDS} seeds, {precision}"] = "default", job
        made[f"{SEEDS} seeds, {precision}, one thread"] = "one thread", job
    return made


def show(report: dict[str, Any]) -> str:
    results = report["jobs"]
    rows: list[list[Any]] = []
    for job, result in results.items():
        for name, taken in result.get("seconds", {}).items():
            rows.append([job, name, taken, "s"])
        for name, score in result.get("scores", {}).items():
            rows.append([job, f"{name}, score {score['score']:.3f}", score["seconds"], "s"])
        for name, taken in result.get("times_ms", {}).items():
            rows.append([job, name, taken["min"], "ms"])
        for name, share in result.get("input_share", {}).items():
            rows.append([job, f"input's share of {name}", 100 * share, "%"])
        for name, ratio in result.get("throughput_over_one_after_another", {}).items():
            rows.append([job, f"throughput, {name}", ratio, "×"])
    failed = [f"FAILED {job}\n{result['error']}" for job, result in results.items() if "error" in result]
    return "\n\n".join([table(["", "", "", ""], rows), *failed])


def main() -> int:
    return command.main(
        "bench_shapes",
        __doc__,
        jobs,
        show,
        quick="fewer rounds",
        limit_s=JOB_LIMIT_S,
        environments=ENVIRONMENTS,
    )


if __name__ == "__main__":
    sys.exit(main())
