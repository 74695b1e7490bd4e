"""Disentanglement: 2D shapes, and priors that a rotation of the latent space changes.

Under an isotropic Gaussian prior the β-VAE cannot tell one rotation of its latent space from another (Theorem 2). An
anisotropic Gaussian and a Student-t prior can, so that dimensions align with the factors the images are made of.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from vae import alignment, figures, likelihoods, metrics, priors, ranks, seeds
from vae.data.factors import Factors
from vae.data.shapes import shapes, unpack
from vae.disentanglement import KIM_MNIH, PUBLISHED, factor_score
from vae.model import VAE, Encoding, encode_all, evaluating
from vae.networks import ShapesDecoder, ShapesEncoder, draw_he_weights
from vae.objectives import beta_vae
from vae.pca import singular_values
from vae.ranks import Shard
from vae.run import RunError, RunFolder, RunOptions, finished_runs
from vae.student_t import StudentT
from vae.training import shuffled, train

IN_SEVERAL_PROCESSES = True


class Schedule(NamedTuple):
    batch_size: int
    epochs: int


SCHEDULES = {"normal": Schedule(64, 20), "anisotropic": Schedule(64, 20), "student-t": Schedule(256, 40)}
"""The paper's, by prior."""


@dataclass(frozen=True)
class Shapes:
    """Disentanglement: 2D shapes under the β-VAE, with a prior that a rotation of the latent space changes."""

    beta: float = 1.0
    """Weight of KL(q(z|x)‖p(z))."""
    prior: Literal["normal", "anisotropic", "student-t"] = "anisotropic"
    """normal: N(0, I); anisotropic: N(0, diag(σ²)), σ² of mean 1; student-t: independent Student-t variables."""
    prior_init: Literal["pca", "iso"] = "pca"
    """The anisotropic prior's σ at first: in the proportions of the images' first singular values, or all 1."""
    prior_scales: Literal["fixed", "learned", "free"] = "fixed"
    """Whether the anisotropic prior's σ are learned: by log-variances that keep their mean variance 1, or free."""
    df: float = 3.0
    """Degrees of freedom of the Student-t prior."""
    latent_dim: int = 10
    batch_size: int | None = None
    """Images per step; by default 64, but 256 with the Student-t prior."""
    epochs: int | None = None
    """By default 20, but 40 with the Student-t prior."""
    lr: float = 1e-4
    """Adam's learning rate."""
    weights: Literal["torch", "he"] = "torch"
    """How the first weights are drawn, of which the paper says nothing: as torch does; or so that signals keep their
    size through the layers (He et al. 2015) and pixels begin at their mean, which learns in fewer steps."""
    subset: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)
    """Keep every so manyth shape, scale, orientation, x and y: 1 1 2 4 4 are 23,040 of the 737,280 images."""
    eval_images: int = 10_000
    """Images, drawn from all, of the likelihoods and the squared error in the summary."""
    iwae_samples: int = 10
    """Posterior draws K for each of those in the bound of the marginal likelihood."""
    data: str = ""
    """Folder of the published file, if you have it, and of the images in packed form; else that in VAE_DATA."""
    capture: bool = False
    """On a GPU, replay the training step as a CUDA graph, which has not been tried on one yet."""
    paper_code: bool = False
    """The settings of the paper's published code, where they differ from its text; Figure 2 then has its score.
    (Not its singular values: by a slip it takes the smallest ten of the first twenty, and its images are not centred;
    ours are the largest, of centred images.)"""
    betas: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """The beta that --sweep runs."""
    dfs: tuple[float, ...] = (3.0, 5.0, 9.0, 100.0)
    """The df that --sweep runs the Student-t prior with."""
    sweep: bool = False
    """Run every one of --betas with the normal, the anisotropic (fixed and learned) and the Student-t priors, each
    over --seeds (0-4; 0-1 if --quick), and draw Figure 2."""
    figure2: tuple[str, ...] = ()
    """Run nothing, but draw Figure 2 of the finished runs in these folders, into --out."""
    run: RunOptions = field(default_factory=lambda: RunOptions(Path("runs/shapes"), precision="mixed"))

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper_code": {"lr": 5e-4, "batch_size": 64, "epochs": 20, "df": 9.0},
        "quick": {
            "subset": (1, 2, 10, 4, 4),
            "batch_size": 32,
            "epochs": 40,
            "lr": 1e-3,
            "weights": "he",
            "eval_images": 1_000,
            "iwae_samples": 5,
        },
    }

    def __post_init__(self) -> None:
        for name in ("df", "batch_size", "epochs", "lr", "latent_dim", "eval_images", "iwae_samples"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise RunError(f"--{name.replace('_', '-')} {value} must be positive")
        if min(self.beta, *self.betas) < 0:
            raise RunError("--beta and all of --betas must be at least 0")

    @property
    def schedule(self) -> Schedule:
        default = SCHEDULES[self.prior]
        return Schedule(self.batch_size or default.batch_size, self.epochs or default.epochs)


def main(config: Shapes) -> None:
    if config.figure2:
        path = config.run.out / "figures" / "figure2.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_figure2(map(Path, config.figure2), path)
        print(path.resolve())
        return
    name = seeds.label({"prior": config.prior, "beta": config.beta})
    summaries = sweep(config) if config.sweep else {name: seeds.run(config, experiment)}
    print(seeds.table(summaries))
    print(f"{config.run.out.resolve()}: summary.json, figures/")


def experiment(config: Shapes, folder: RunFolder, fabric: Fabric) -> dict[str, float]:
    """Train on all images. The scores are of all their encodings; there is no test set, as in the paper."""
    packed, factors = shapes(config.data, config.subset)
    packed = fabric.to_device(packed)
    model = build(config, packed)
    fabric.to_device(model)
    batch_size, epochs = config.schedule
    shard = Shard.of(len(packed))
    train(
        model,
        shuffled(shard.own(packed), batch_size, unpack, shard),
        beta_vae(config.beta),
        epochs=epochs,
        lr=config.lr,
        fabric=fabric,
        folder=folder,
        capture=config.capture,
    )
    encoding = encode_all(model, batches(packed))
    some = some_of(packed, config.eval_images)
    summary = {
        **scores(encoding.loc, factors, model.prior()),
        **metrics.evaluate(model, batches(some), config.iwae_samples),
    }
    if ranks.is_first():
        shown = packed[large_of_each_shape(factors, 10).to(packed.device)]
        draw(model.cpu(), shown.cpu(), Encoding(*(item.cpu() for item in encoding)), folder)
    return summary


def build(config: Shapes, packed: Tensor) -> VAE:
    """The untrained model (Table 1a); the images may decide on its prior, and on where pixels begin."""
    encoder, decoder = ShapesEncoder(config.latent_dim, min_scale=1e-6), ShapesDecoder(config.latent_dim)
    if config.weights == "he":
        draw_he_weights(encoder)
        draw_he_weights(decoder)
        *_, bias_of_pixels = decoder.parameters()
        nn.init.constant_(bias_of_pixels, unpack(some_of(packed, 1_000)).mean().logit().item())
    return VAE(encoder, decoder, build_prior(config, packed), likelihoods.bernoulli)


def some_of(packed: Tensor, count: int) -> Tensor:
    """That many images, drawn from all, the same ones every time."""
    drawn = torch.randperm(len(packed), generator=torch.Generator().manual_seed(0))
    return packed[drawn[:count].to(packed.device)]


def model_and_data(config: Shapes) -> tuple[VAE, Tensor]:
    """The untrained model, and 10,000 images drawn from all."""
    packed, _ = shapes(config.data, config.subset)
    return build(config, packed), unpack(some_of(packed, 10_000))


def build_prior(config: Shapes, packed: Tensor) -> Callable[[], Distribution]:
    if config.prior == "student-t":
        return priors.StudentT(config.latent_dim, config.df)
    if config.prior == "normal" or config.prior_init == "iso":
        start = torch.zeros(config.latent_dim)
    else:
        try:
            found = singular_values(lambda: batches(packed), config.latent_dim)
        except ValueError as error:
            raise RunError(
                f"--latent-dim {config.latent_dim} is too many for --prior-init pca: {error}"
            ) from error
        start = priors.pca_log_variances(found).cpu()
    return priors.Gaussian(start, "fixed" if config.prior == "normal" else config.prior_scales)


def batches(packed: Tensor) -> Iterable[Tensor]:
    """In order, for evaluation."""
    return map(unpack, packed.split(1024))


def scores(loc: Tensor, factors: Factors, prior: Independent[Any]) -> dict[str, float]:
    """Of the encodings' means: the disentanglement score by either protocol, under a Student-t prior also after
    each dimension was mapped to the normal that has its quantiles, and what others measure."""
    found = {
        "disentanglement": factor_score(loc, factors, KIM_MNIH),
        "disentanglement_published": factor_score(loc, factors, PUBLISHED),
    }
    if isinstance(prior.base_dist, StudentT):
        mapped = prior.base_dist.to_normal(loc)
        found["disentanglement_mapped"] = factor_score(mapped, factors, KIM_MNIH)
        found["disentanglement_published_mapped"] = factor_score(mapped, factors, PUBLISHED)
    dci = alignment.dci(loc, factors)
    return {
        **found,
        "mig": alignment.mutual_information_gap(loc, factors),
        "sap": alignment.separated_predictability(loc, factors),
        **{f"dci_{name}": value for name, value in dci._asdict().items()},
    }


def large_of_each_shape(factors: Factors, count: int) -> Tensor:
    """Rows of images in the largest scale, of one shape after the other, turned and placed at random."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.stack([torch.randint(size, (count,), generator=generator) for size in factors.sizes], -1)
    shape, scale = map(factors.names.index, ("shape", "scale"))
    levels[:, shape] = torch.arange(count) % factors.sizes[shape]
    levels[:, scale] = factors.sizes[scale] - 1
    return factors.index(levels)


def draw(model: VAE, packed: Tensor, encoding: Encoding, folder: RunFolder) -> None:
    """Reconstructions, traversals from one image through the prior's quantiles, samples; with the Student-t prior
    also Figure 6b, its densities."""
    figures.training_curves(folder.rows(), folder.figures / "training.png")
    images = unpack(packed)
    active = encoding.loc.var(0).argsort(descending=True)
    prior = model.prior()
    steps = torch.linspace(-2, 2, 9)
    with evaluating(model):
        loc = model.encode(images).loc
        traversed = loc[0].repeat(len(active), len(steps), 1)
        traversed[torch.arange(len(active)), :, active] = steps * prior_scale(prior)[active, None]
        reconstructed, sampled, moved = (
            model.decode(z.flatten(0, -2)).mean.squeeze(1).unflatten(0, z.shape[:-1])
            for z in (loc, prior.sample((6, 10)), traversed)
        )
    pairs = torch.stack([images.squeeze(1), reconstructed])
    figures.images(pairs, folder.figures / "reconstructions.png", ("image", "reconstruction"))
    figures.images(sampled, folder.figures / "samples.png")
    names = [f"$z_{{{d}}}$" for d in active.tolist()]
    columns = [f"{step:g}$\\sigma$" for step in steps.tolist()]
    figures.images(moved, folder.figures / "traversals.png", names, columns)
    if isinstance(prior.base_dist, StudentT):
        panels = [figures.Panel(f"$\\nu$ = {df}", priors.StudentT(2, df)().log_prob) for df in (3, 5, 100)]
        figures.densities(panels, folder.figures / "student-t.png", extent=3.0, top=1 / (2 * math.pi))


def prior_scale(prior: Independent[Any]) -> Tensor:
    """[D]: half of what lies between the quantiles that a normal has at ±1, which all priors have."""
    result: Tensor = prior.base_dist.icdf(torch.tensor(0.8413447))
    return result


def sweep(config: Shapes) -> dict[str, Any]:
    """Every prior with every β over several seeds, and Figure 2."""
    folder = RunFolder(config)
    compared: list[dict[str, Any]] = [
        {"prior": "normal"},
        {"prior": "anisotropic", "prior_scales": "fixed"},
        {"prior": "anisotropic", "prior_scales": "learned"},
        *({"prior": "student-t", "df": df} for df in config.dfs),
    ]
    settings = [prior | {"beta": beta} for prior, beta in product(compared, config.betas)]
    children = seeds.variants(replace(config, sweep=False), settings, "0-1" if config.run.quick else "0-4")
    summaries = {name: seeds.run(child, experiment) for name, child in children.items()}
    if ranks.is_first():
        draw_figure2([child.run.out for child in children.values()], folder.figures / "figure2.png")
    folder.finish(summaries)
    return summaries


def draw_figure2(folders: Iterable[Path], path: Path) -> None:
    """Score against reconstruction loss, a point for each prior and β with its intervals over seeds. The score is held
    out, but that of the published code for runs by its settings."""
    folders = list(folders)
    summaries = collect(folders)
    by_paper_code = {config.paper_code for config, _ in finished_runs(folders, Shapes)}
    if len(by_paper_code) > 1:
        raise RunError(
            "some of these runs are with --paper-code, whose score in Figure 2 is another: draw them apart"
        )
    score, protocol = SCORES[by_paper_code.pop()]
    series: dict[str, dict[float, Any]] = {}
    for (name, beta), found in summaries.items():
        summary = seeds.intervals(list(found.values()))
        loss = summary["log_likelihood"] | {"mean": -summary["log_likelihood"]["mean"]}
        for label, metric in ((name, score), (f"{name}, mapped", f"{score}_mapped")):
            if metric in summary:
                series.setdefault(label, {})[beta] = loss, summary[metric]
    labels = "reconstruction loss, nats", f"disentanglement score, {protocol}"
    figures.tradeoff(series, labels, "$\\beta$", path)


SCORES = {
    False: ("disentanglement", "held out (Kim & Mnih)"),
    True: ("disentanglement_published", "in sample (published code)"),
}
"""What Figure 2 draws without and with --paper-code."""


def collect(folders: Iterable[Path]) -> dict[tuple[str, float], dict[int, dict[str, float]]]:
    """Summaries by prior and β, then by seed. Runs of a prior must differ in β and seed only."""
    result: dict[tuple[str, float], dict[int, dict[str, float]]] = {}
    first: dict[str, Shapes] = {}
    for config, summary in finished_runs(folders, Shapes):
        name = prior_name(config)
        other = first.setdefault(name, config)
        same = {"beta": 0.0, "data": "", "betas": (), "run": None}
        if (a := vars(config) | same) != (b := vars(other) | same):
            differing = ", ".join(f"--{key.replace('_', '-')}" for key in a if a[key] != b[key])
            both = f"{config.run.out} and {other.run.out}"
            raise RunError(f"{both} differ in {differing}: they make no one curve")
        result.setdefault((name, config.beta), {})[config.run.seed] = summary
    if not result:
        raise RunError("--figure2 found no finished run of `vae shapes`: name folders that --out named")
    for (name, beta), found in result.items():
        if len(found) < 2:
            one = f"{name} with --beta {beta:g}"
            raise RunError(f"{one} has one seed only: an interval needs two, see --seeds")
    return result


def prior_name(config: Shapes) -> str:
    if config.prior == "student-t":
        return f"Student-t, $\\nu$ = {config.df:g}"
    if config.prior == "normal":
        return "isotropic Gaussian"
    start = "PCA" if config.prior_init == "pca" else "isotropic"
    return f"anisotropic Gaussian, {start}, {config.prior_scales}"
