"""Training under KL(q(z)‖p(z)), estimated in different ways, for `vae bias`: is it the objective that it says?

The objective is E_q[log p(x|z)] − weight · KL(q(z)‖p(z)), with the KL by eq 11b from the minibatch, from a bank of
encodings, or from all data encoded anew in every step; and beside them the β-VAE of β = weight, which is what the
minibatch estimate turns into where encodings overlap little.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.distributions import Distribution

import pykernels
from vae import divergences, likelihoods, metrics
from vae.bank import EncodingBank
from vae.data.fashion import fashion_mnist, unit_interval
from vae.data.pinwheel import pinwheel
from vae.estimators import ESTIMATORS, Encodings, exact_kl
from vae.model import VAE, Encoding
from vae.networks import GaussianMLP
from vae.objectives import Terms, decomposition
from vae.priors import Sparse
from vae.run import RunFolder, RunOptions
from vae.training import shuffled, train

OBJECTIVES = ("beta-vae", "hfvae", "bank", "fresher bank", "exact")
REFRESHED = 15
"""Points that the fresher bank encodes anew in each step, for each of the batch."""
BATCHES = 20
"""Minibatches on which estimates are compared after each epoch."""


@dataclass(frozen=True)
class Regularised:
    """One training run of the comparison."""

    objective: Literal["beta-vae", "hfvae", "bank", "fresher bank", "exact"]
    weight: float
    data_set: Literal["pinwheel", "fashion"]
    num_points: int
    batch_size: int
    latent_dim: int
    epochs: int
    lr: float
    data: str
    run: RunOptions


def experiment(config: Regularised, folder: RunFolder, fabric: Fabric) -> dict[str, float]:
    """Everything is measured on the training set, whose q(z) it is; errors of estimates of KL(q‖p) from minibatches of
    the batch size are means over the second half of the training."""
    model, points = build(config)
    model, points = model.to(fabric.device), points.to(fabric.device)
    model.bank = EncodingBank.of(model, points.split(500))
    train(
        model,
        shuffled(torch.arange(len(points), device=fabric.device), config.batch_size),
        partial(objective, config=config, points=points),
        epochs=config.epochs,
        lr=config.lr,
        fabric=fabric,
        folder=folder,
        measure=partial(measure, points=points, batch_size=config.batch_size),
    )
    rows = folder.rows()
    late = rows[len(rows) // 2 :]
    errors = [name for name in rows[-1] if name.startswith(("noise", "rmse", "bias"))]
    evaluated = metrics.evaluate(model, points.split(500), 20)
    divergence = exact_kl(encodings(model, points), model.prior(), 4)
    return {
        "exclusive_kl": divergence,
        "log_likelihood": evaluated["log_likelihood"],
        "kl": evaluated["kl"],
        "mutual_information": evaluated["kl"] - divergence,
        "reconstruction": evaluated["reconstruction"],
        "iwae": evaluated["iwae"],
        **{name: sum(row[name] for row in late) / len(late) for name in errors},
    }


def build(config: Regularised) -> tuple[VAE, Tensor]:
    """The untrained model, of fully connected networks, and the data points [n, features]."""
    if config.data_set == "pinwheel":
        points, _ = pinwheel(config.num_points)
    else:
        images, _ = fashion_mnist("train", config.data)
        points = unit_interval(images[: config.num_points]).flatten(1)
    features = points.shape[1]
    model = VAE(
        encoder=GaussianMLP(features, config.latent_dim, min_scale=1e-6),
        decoder=GaussianMLP(config.latent_dim, features, min_scale=0.1),
        prior=Sparse(config.latent_dim, gamma=0.0),
        likelihood=likelihoods.gaussian,
    )
    return model, points


def trained(config: Regularised) -> tuple[VAE, Tensor]:
    """The model of a finished run, and its data points."""
    torch.manual_seed(config.run.seed)  # of which the points are drawn
    model, points = build(config)
    model.bank = EncodingBank.of(model, points.split(500))
    finished = replace(config, run=replace(config.run, resume=True))
    state: Any = RunFolder(finished).load_checkpoint()
    model.load_state_dict(state["model"])
    return model.eval(), points


def objective(model: VAE, index: Tensor, *, config: Regularised, points: Tensor) -> Terms:
    """Of the data points `index`: that is what tells a bank whose encodings it is given."""
    weights: dict[str, Any] = {"alpha": config.weight, "beta": 0.0}
    bank: Any = model.bank
    by_bank = partial(bank.exclusive_kl, index=index)
    divergence: Callable[[Distribution, Encoding], Tensor] = by_bank
    if config.objective == "beta-vae":
        weights = {"alpha": 0.0, "beta": config.weight}
    elif config.objective == "hfvae":

        def divergence(prior: Distribution, encoding: Encoding) -> Tensor:
            bank.refresh(index, encoding)  # for the comparison only
            return divergences.exclusive_kl(prior, encoding, estimator="hfvae", dataset_size=len(points))

    elif config.objective != "bank":
        count = len(points) if config.objective == "exact" else min(REFRESHED * len(index), len(points))
        bank.refresh_next(count, lambda index: model.encode(points[index]))
    return decomposition(model, points[index], **weights, divergence=divergence)


def encodings(model: VAE, points: Tensor) -> Encodings:
    with torch.no_grad():
        loc, scale, _ = model.encode(points)
    return Encodings(loc, scale)


def measure(model: VAE, *, points: Tensor, batch_size: int) -> dict[str, float]:
    """The exact KL(q‖p), and the errors of estimates from single minibatches against the exact one at the same draws,
    whose own error is the noise. The bank's encodings are as old as they were in the last step of the epoch."""
    now, prior, n = encodings(model, points), model.prior(), len(points)
    truth = exact_kl(now, prior)
    found: dict[str, list[float]] = {name: [] for name in (*ESTIMATORS, "bank", "exact")}
    bank: Any = model.bank
    stale = Encoding(bank.loc, bank.scale, bank.loc)
    for _ in range(BATCHES):
        index = torch.randperm(n, device=points.device)[:batch_size]
        batch = Encoding(now.loc[index], now.scale[index], now.draw(index))
        for name in ESTIMATORS:
            estimate = divergences.exclusive_kl(prior, batch, estimator=name, dataset_size=n)
            found[name].append(estimate.item())
        found["bank"].append(EncodingBank(stale).exclusive_kl(prior, batch, index=index).item())
        found["exact"].append(pykernels.exclusive_kl(batch.z, *now, prior).item())
    exact = torch.tensor(found.pop("exact")).double()
    stated = {"exact_kl": truth, "noise": (exact - truth).square().mean().sqrt().item()}
    for name, values in found.items():
        error = torch.tensor(values).double() - exact
        stated[f"bias_{name}"] = error.mean().item()
        stated[f"rmse_{name}"] = error.square().mean().sqrt().item()
    return stated
