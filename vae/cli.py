"""The command line: `vae EXPERIMENT --flag value ...`, where the flags are the fields of its dataclass."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from types import ModuleType
from typing import Any

# `vae NAME` calls main(config) of vae/experiments/NAME.py, whose dataclass is Name. Nothing heavy is imported
# before that, so that `vae --help` does not wait for torch.
EXPERIMENTS = {
    "pinwheel": "clustering: an aggregate posterior fitted to a mixture prior by the inclusive KL",
    "fashion": "sparsity: Fashion-MNIST, a prior that is mostly near 0, and the dimension-wise MMD",
    "shapes": "disentanglement: 2D shapes, and priors that a rotation of the latent space changes",
    "bias": "estimators of the aggregate posterior: what a minibatch does to them, measured and in training",
    "overlap": "how many other data points an encoding overlaps with, which mutual information does not tell",
    "theory": "appendix A checked to rounding: rescaled networks, rotated latents, annealed priors",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="vae",
        description="Train variational auto-encoders whose aggregate posterior is matched to the prior.",
        epilog="`vae EXPERIMENT --help` lists the settings of one. Networks, optimisers and schedules of pinwheel, "
        "fashion and shapes are the paper's by default. But sweeps run fewer seeds, fashion and shapes train in "
        "bfloat16 where the hardware has it, and the scale of pinwheel's decoder has a floor.",
    )
    commands = parser.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    for name, summary in EXPERIMENTS.items():
        commands.add_parser(name, help=summary, add_help=False)
    chosen, flags = parser.parse_known_args(argv)

    experiment = importlib.import_module(f"vae.experiments.{chosen.experiment}")
    from vae.ranks import is_first
    from vae.run import RunError

    prog = f"vae {chosen.experiment}"
    try:
        config = parse(getattr(experiment, chosen.experiment.capitalize()), flags, prog)
        _run(experiment, config)
    except RunError as error:
        if is_first():
            print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: stopped; --resume continues", file=sys.stderr)
        return 130
    return 0


def _run(experiment: ModuleType, config: Any) -> None:
    """In this process, or in all that torchrun has started, of which the first one speaks."""
    from vae import ranks, seeds
    from vae.run import RunError

    seeds.start(config.run)
    if ranks.world_size() > 1 and not getattr(experiment, "IN_SEVERAL_PROCESSES", False):
        raise RunError("this experiment runs in one process: start it without torchrun")
    with nullcontext() if ranks.is_first() else redirect_stdout(None):
        experiment.main(config)


def parse(config_class: Any, flags: Sequence[str], prog: str) -> Any:
    """The settings: given flags, over those of the run being resumed or of chosen presets, over the defaults."""
    import tyro

    from vae.run import RunError, check_finite, check_resumable, stored_config

    # --seed and not --run.seed, wherever the field is
    flat = (tyro.conf.OmitArgPrefixes,)
    read = partial(tyro.cli, config_class, args=flags, prog=prog, config=flat)
    config = read()
    check_resumable(config.run)
    if stored := stored_config(config_class, config.run):
        config = read(default=stored)
    else:
        chosen: dict[str, Any] = {}
        for flag, settings in config_class.presets.items():
            if any(getattr(part, flag, False) for part in (config, config.run)):
                chosen |= settings
        config = read(default=config_class(**chosen)) if chosen else config
    check_finite(config)
    if config.run.seeds and any(flag.partition("=")[0] == "--seed" for flag in flags):
        raise RunError(
            f"--seed {config.run.seed} is of no use beside --seeds {config.run.seeds}: give one of them"
        )
    return config


if __name__ == "__main__":
    sys.exit(main())
