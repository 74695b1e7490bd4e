"""Sparsity: Fashion-MNIST, a prior whose every dimension is mostly off, and the dimension-wise MMD to it.

A large α makes the aggregate posterior's marginals those of the sparse prior. Since a dimension that is near 0
cannot tell much, each image then has to use a few dimensions of its own: kinds of clothes use different ones. That is
what comes out at α = 100; at α = 1000, the paper's, less so (README).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

from vae import divergences, figures, likelihoods, metrics, priors, seeds
from vae.data.fashion import CLASSES, fashion_mnist, unit_interval
from vae.model import VAE, Encoding, encode_all, evaluating
from vae.networks import DCGANDecoder, DCGANEncoder
from vae.objectives import decomposition
from vae.run import RunError, RunFolder, RunOptions
from vae.training import shuffled, train


@dataclass(frozen=True)
class Fashion:
    """Sparsity: Fashion-MNIST, a sparse prior, and the dimension-wise MMD between it and the batch's q(z)."""

    alpha: float = 1000.0
    """Weight of the MMD(q(z), p(z))."""
    beta: float = 1.0
    """Weight of KL(q(z|x)‖p(z))."""
    gamma: float = 0.8
    """How often a dimension of the prior is off; 0 is the standard normal."""
    prior_variance: float = 0.05
    """Variance σ0² of the prior's dimensions that are off."""
    latent_dim: int = 50
    batch_size: int = 500
    """Images per step, and draws from the prior in its MMD."""
    epochs: int = 80
    lr: float = 5e-4
    """Adam's learning rate."""
    adam_beta1: float = 0.5
    """Decay of Adam's first moment."""
    networks: Literal["table", "published"] = "table"
    """table: the paper's Table 1c; published: as its code has them, without the first BatchNorm, and with
    initial weights from N(0, 0.02²)."""
    iwae_samples: int = 100
    """Posterior draws K for each test image in the bound of the marginal likelihood."""
    data: str = ""
    """Folder of the data set's four files; else that in VAE_DATA, else that of Debian's dataset-fashion-mnist."""
    capture: bool = False
    """On a GPU, replay the training step as a CUDA graph, which has not been tried on one yet."""
    paper_code: bool = False
    """The settings of the paper's published code, where they differ from its text."""
    sweep: bool = False
    """Run alpha 0, 100 and 1000 with gamma 0 and 0.8, each over --seeds (0-2; 0-1 if --quick)."""
    run: RunOptions = field(default_factory=lambda: RunOptions(Path("runs/fashion"), precision="mixed"))

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper_code": {"alpha": 100.0, "prior_variance": 0.05**2, "adam_beta1": 0.9, "networks": "published"},
        "quick": {"epochs": 2, "iwae_samples": 5},
    }

    def __post_init__(self) -> None:
        for name in ("prior_variance", "epochs", "lr", "iwae_samples"):
            if getattr(self, name) <= 0:
                raise RunError(f"--{name.replace('_', '-')} {getattr(self, name)} must be positive")
        for name in ("batch_size", "latent_dim"):
            if getattr(self, name) < 2:
                raise RunError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 2 or more")
        if not 0 <= self.gamma <= 1:
            raise RunError(f"--gamma {self.gamma} must be between 0 and 1")
        if not 0 <= self.adam_beta1 < 1:
            raise RunError(f"--adam-beta1 {self.adam_beta1} must be at least 0 and below 1")


SETTINGS = tuple({"gamma": g, "alpha": a} for g, a in product((0.0, 0.8), (0.0, 100.0, 1000.0)))
"""What --sweep runs."""


def main(config: Fashion) -> None:
    name = seeds.label({"gamma": config.gamma, "alpha": config.alpha})
    summaries = sweep(config) if config.sweep else {name: seeds.run(config, experiment)}
    print(seeds.table(summaries))
    print(f"{config.run.out.resolve()}: summary.json, figures/")


def experiment(config: Fashion, folder: RunFolder, fabric: Fabric) -> dict[str, float]:
    """Train on the training images. All results but `hoyer_train` are of the test images."""
    images, _ = fashion_mnist("train", config.data)
    test_images, classes = fashion_mnist("t10k", config.data)
    if len(images) % config.batch_size == 1:
        raise RunError(
            f"--batch-size {config.batch_size} leaves one of the {len(images)} images over, of which there is "
            "no unbiased MMD: give another"
        )
    images, test_images = (fabric.to_device(item) for item in (images, test_images))
    model = build(config)
    fabric.to_device(model)
    train(
        model,
        shuffled(images, config.batch_size, unit_interval),
        partial(
            decomposition, alpha=config.alpha, beta=config.beta, divergence=divergences.dimensionwise_mmd
        ),
        epochs=config.epochs,
        lr=config.lr,
        betas=(config.adam_beta1, 0.999),
        fabric=fabric,
        folder=folder,
        capture=config.capture,
        measure=lambda model: {
            "hoyer_test": metrics.hoyer(encode_all(model, batches(test_images)).loc).hoyer
        },
    )
    prior, encoding = model.prior(), encode_all(model, batches(test_images))
    sparsity = metrics.hoyer(encoding.loc)
    summary = {
        "hoyer_train": metrics.hoyer(encode_all(model, batches(images)).loc).hoyer,
        "hoyer_test": sparsity.hoyer,
        "hoyer_prior": metrics.hoyer(prior.sample((100_000,))).hoyer,
        "constant_dimensions": float(sparsity.constant_dimensions),
        "zero_vectors": float(sparsity.zero_vectors),
        "mmd": divergences.dimensionwise_mmd(prior, encoding).item(),
        **metrics.evaluate(model, batches(test_images), config.iwae_samples),
    }
    encoding = Encoding(*(item.cpu() for item in encoding))
    draw(model.cpu(), unit_interval(test_images.cpu()), classes, encoding, folder)
    return summary


def build(config: Fashion) -> VAE:
    """The untrained model (Table 1c)."""
    published = config.networks == "published"
    std = 0.02 if published else None
    return VAE(
        encoder=DCGANEncoder(config.latent_dim, min_scale=1e-6, norm_first=not published, weight_std=std),
        decoder=DCGANDecoder(config.latent_dim, weight_std=std),
        prior=priors.Sparse(config.latent_dim, config.gamma, config.prior_variance),
        likelihood=likelihoods.laplace,
    )


def model_and_data(config: Fashion) -> tuple[VAE, Tensor]:
    """The untrained model, and the first 10,000 training images."""
    images, _ = fashion_mnist("train", config.data)
    return build(config), unit_interval(images[:10_000])


def batches(images: Tensor) -> Iterable[Tensor]:
    """In order, for evaluation."""
    return map(unit_interval, images.split(500))


def draw(model: VAE, images: Tensor, classes: Tensor, encoding: Encoding, folder: RunFolder) -> None:
    """Figure 7 from the encodings of the test images; what else, from the first of each class."""
    by_class = [encoding.loc[classes == c] for c in range(len(CLASSES))]
    magnitude = torch.stack([loc.abs().mean(0) for loc in by_class])
    figures.magnitudes(magnitude, CLASSES, folder.figures / "magnitudes.png")
    figures.training_curves(folder.rows(), folder.figures / "training.png")

    first = torch.stack([(classes == c).nonzero()[0, 0] for c in range(len(CLASSES))])
    loc = encoding.loc[first]
    active = encoding.loc.var(0).topk(min(10, encoding.loc.shape[1])).indices
    values = torch.linspace(-3, 3, 7)
    traversed = loc[-1].repeat(len(active), len(values), 1)
    traversed[torch.arange(len(active)), :, active] = values
    with evaluating(model):
        reconstructed, sampled, moved = (
            model.decode(z.flatten(0, -2)).mean.squeeze(1).clamp(0, 1).unflatten(0, z.shape[:-1])
            for z in (loc, model.prior().sample((8, 10)), traversed)
        )
    pairs = torch.stack([images[first].squeeze(1), reconstructed])
    figures.images(pairs, folder.figures / "reconstructions.png", ("image", "reconstruction"), CLASSES)
    figures.images(sampled, folder.figures / "samples.png")
    names = [f"$z_{{{d}}}$" for d in active.tolist()]
    columns = [f"{value:g}" for value in values.tolist()]
    figures.images(moved, folder.figures / "traversals.png", names, columns)


def sweep(config: Fashion) -> dict[str, Any]:
    """Every setting over several seeds, and sparsity, reconstruction and MMD against alpha for each gamma."""
    folder = RunFolder(config)
    children = seeds.variants(replace(config, sweep=False), SETTINGS, "0-1" if config.run.quick else "0-2")
    summaries = {name: seeds.run(child, experiment) for name, child in children.items()}
    series: dict[str, dict[float, Any]] = {}
    for name, child in children.items():
        series.setdefault(f"gamma={child.gamma:g}", {})[child.alpha] = summaries[name]
    shown = {"hoyer_test": "hoyer_prior", "reconstruction": None, "log_likelihood": None, "mmd": None}
    figures.against(series, shown, "alpha", folder.figures / "sparsity.png")
    folder.finish(summaries)
    return summaries
