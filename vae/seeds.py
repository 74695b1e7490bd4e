"""An experiment run once, or once for every seed with intervals over them."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from vae.metrics import student_t_interval
from vae.run import RunFolder, RunOptions, parse_seeds

Experiment = Callable[[Any, RunFolder, Fabric], dict[str, float]]
"""(config, folder, fabric) -> summary: one run, whose seed is already set."""


def run(config: Any, experiment: Experiment) -> dict[str, Any]:
    """The summary of `experiment` under `config`: of one run, or with --seeds the `intervals` over several.

    What is already finished in the run folder is not run again.
    """
    fabric = start(config.run)
    folder = RunFolder(config)
    if folder.summary is None:
        if config.run.seeds:
            children = [one_of(config.run, seed) for seed in parse_seeds(config.run.seeds)]
            folder.finish(intervals([run(replace(config, run=child), experiment) for child in children]))
        else:
            fabric.seed_everything(config.run.seed, verbose=False)
            folder.finish(experiment(config, folder, fabric))
    summary = folder.summary
    assert summary is not None
    return summary


def one_of(options: RunOptions, seed: int) -> RunOptions:
    """The options of one seed's run among several."""
    return replace(options, seed=seed, seeds="", out=options.out / f"seed-{seed}")


def variants(config: Any, settings: Iterable[Mapping[str, Any]], default_seeds: str) -> dict[str, Any]:
    """`config` with each of the settings, by its label, over --seeds, in a folder of its own within --out."""
    found = {}
    for setting in settings:
        name = label(setting)
        out = config.run.out / name.replace("=", "-").replace(" ", "-")
        several = replace(config.run, seeds=config.run.seeds or default_seeds, out=out)
        found[name] = replace(config, **setting, run=several)
    return found


def label(setting: Mapping[str, Any]) -> str:
    """Like "alpha=1 prior=student-t"."""
    shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in setting.items()}
    return " ".join(f"{name}={value}" for name, value in shown.items())


def intervals(summaries: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Per key: the values, their mean, and the half-width of its 95 % Student-t interval."""
    result = {}
    for name in summaries[0]:
        values = [summary[name] for summary in summaries]
        mean, half_width = student_t_interval(values)
        result[name] = {"mean": mean, "half_width": half_width, "values": values}
    return result


def table(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """Summaries side by side, one metric per line."""
    names = list(next(iter(columns.values())))
    rows = [["", *columns]]
    rows += [[name, *(_cell(summary[name]) for summary in columns.values())] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    several = any(isinstance(value, Mapping) for column in columns.values() for value in column.values())
    said = ["±: half-width of the 95 % Student-t interval over the seeds"] if several else []
    return "\n".join([*(line.rstrip() for line in lines), *said])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value['mean']:.4g} ± {value['half_width']:.2g}"


def start(options: RunOptions) -> Fabric:
    """What trains: one process, or those that torchrun has started."""
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    mixed = options.precision == "mixed" and _has_bfloat16(device)
    devices, nodes = 1, 1
    strategy: str | DDPStrategy = "auto"
    if TorchElasticEnvironment.detect():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
        # Ranks start alike by their seed, and stay alike.
        strategy = DDPStrategy(broadcast_buffers=False, init_sync=False)
    logging.getLogger("lightning_fabric.utilities.rank_zero").addFilter(_is_news)
    fabric = Fabric(
        accelerator=device,
        strategy=strategy,
        devices=devices,
        num_nodes=nodes,
        precision="bf16-mixed" if mixed else "32-true",
    )
    fabric.launch()
    return fabric


def _is_news(record: logging.LogRecord) -> bool:
    """Not of the precision, which was asked for, and of which every Fabric would tell anew."""
    return "Automatic Mixed Precision" not in record.getMessage()


def _has_bfloat16(device: str) -> bool:
    """Whether the hardware multiplies in bfloat16; torch emulates it elsewhere, far slower than float32."""
    if device == "cuda":
        result: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return result
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("bf16"))
