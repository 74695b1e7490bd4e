"""Models of finished runs, for experiments that look at them: each names what it needs in `model_and_data`."""

import importlib
import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vae.model import VAE
from vae.run import RunError, RunOptions, stored_config


class Finished(NamedTuple):
    name: str
    model: VAE
    data: Tensor


def load(folder: str) -> Finished:
    """The trained model in a run folder of `vae pinwheel`, `fashion` or `shapes`, and data of its training set."""
    path = Path(folder)
    try:
        name = json.loads((path / "config.json").read_text())["experiment"]
        state = torch.load(path / "checkpoint.pt", map_location="cpu", weights_only=True)["model"]
        experiment = importlib.import_module(f"vae.experiments.{name.lower()}")
    except Exception as error:  # torch and json each have their own kinds for a damaged file
        raise RunError(f"--model {folder} is no run folder with a trained model ({error})") from error
    if not hasattr(experiment, "model_and_data"):
        raise RunError(f"--model {folder} is a run of vae {name.lower()}, whose models cannot be loaded")
    config = stored_config(getattr(experiment, name), RunOptions(path, resume=True))
    torch.manual_seed(config.run.seed)
    model, data = experiment.model_and_data(config)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise RunError(
            f"--model {folder}: its checkpoint.pt does not fit its config.json ({error})"
        ) from error
    return Finished(name.lower(), model.eval(), data)
