"""Draws the pictures of gallery.md: python docs/gallery.py [FOLDER]"""

import math
import sys
from pathlib import Path

import torch
from torch.distributions import Independent, Normal

from pykernels import (
    DiagonalGaussianMixture,
    cauchy_mmd,
    exclusive_kl,
    inclusive_kl,
    mmd,
    responsibility_statistics,
)
from vae import figures, priors
from vae.line_figures import Line, Plot, plots


def standard_normal(dims):
    return Independent(Normal(torch.zeros(dims), torch.ones(dims)), 1)


def prior_densities(path):
    """A prior is any torch distribution of points."""
    shown = {
        "mixture (eq 9)": priors.GaussianMixture(),
        "Student-t, 3 degrees": priors.StudentT(2, 3.0),
        "sparse, γ = 0.8": priors.Sparse(2, gamma=0.8),
    }
    panels = [figures.Panel(title, prior().log_prob) for title, prior in shown.items()]
    figures.densities(panels, path, top=0.25)


def encodings_that_fit_a_prior(path):
    """Gradient descent on KL(p‖q) moves 200 encodings until their mixture is the prior."""
    prior = priors.GaussianMixture()()
    loc = (0.3 * torch.randn(200, 2)).requires_grad_()
    log_scale = torch.full((200, 2), -1.0, requires_grad=True)
    optimizer = torch.optim.Adam([loc, log_scale], lr=0.03)
    panels = [figures.Panel("prior p(z)", prior.log_prob)]
    for step in range(201):
        divergence = inclusive_kl(prior, loc, log_scale.exp(), num_samples=400)
        if step in (0, 20, 200):
            mixture = DiagonalGaussianMixture(loc.detach().clone(), log_scale.detach().exp())
            title = f"q(z), step {step}: KL(p‖q) = {divergence:.2f}"
            panels.append(figures.Panel(title, mixture.log_prob, mixture.loc, torch.zeros(200)))
        optimizer.zero_grad()
        divergence.backward()
        optimizer.step()
    figures.densities(panels, path, extent=2.0)


def what_a_minibatch_knows(path):
    """KL(q‖p) of 2048 encodings, exact and estimated from minibatches."""
    n, dims, prior = 2048, 5, standard_normal(5)
    loc, scale = math.sqrt(1 - 0.3**2) * torch.randn(n, dims), torch.full((n, dims), 0.3)
    sizes = [16, 64, 256, 1024, 2048]
    lines = {}
    for estimator in ("exact", "hfvae", "mss", "mws", "batch"):
        values = []
        for size in sizes:
            estimates = []
            for _ in range(8):
                index = torch.randperm(n)[:size]
                z = loc[index] + scale[index] * torch.randn(size, dims)
                if estimator == "exact":
                    estimates.append(exclusive_kl(z, loc, scale, prior))
                else:
                    options = {"estimator": estimator, "dataset_size": n}
                    estimates.append(exclusive_kl(z, loc[index], scale[index], prior, **options))
            values.append(torch.stack(estimates).mean().item())
        lines[estimator] = Line(sizes, values, dashed=estimator == "exact")
    plots([Plot("estimates of KL(q‖p)", "encodings in the minibatch", "nats", lines, xscale="log")], path)


def how_many_share_a_point(path):
    """The responsibilities' perplexity: how many of 1000 encodings a point could come from."""
    loc = torch.randn(1000, 10)
    sigmas = torch.logspace(-1.3, 0.3, 15).tolist()
    lines = {}
    for dims in (1, 2, 5, 10):
        means = loc[:, :dims]
        z = [means + sigma * torch.randn_like(means) for sigma in sigmas]
        found = [responsibility_statistics(z, means, torch.tensor(s)).perplexity for z, s in zip(z, sigmas)]
        lines[f"D = {dims}"] = Line(sigmas, [perplexity.mean().item() for perplexity in found])
    plots([Plot("encodings that share a z", "σ", "perplexity", lines, xscale="log", yscale="log")], path)


def two_discrepancies(path):
    """Points moved by the gradient of an MMD towards two clouds: all dimensions together, or each by itself."""
    target = 0.25 * torch.randn(300, 2) + torch.tensor([1.0, 1.0]) * (2.0 * torch.randint(2, (300, 1)) - 1)
    start = 0.5 * torch.randn(300, 2)
    whole_vectors = {"whole vectors": lambda x, y: mmd(x, y, "cauchy", (0.1, 0.5, 2.0))}
    panels = {"target": (target, torch.zeros(300))}
    for name, discrepancy in {**whole_vectors, "each dimension": cauchy_mmd}.items():
        points = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([points], lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            discrepancy(points, target).backward()
            optimizer.step()
        panels[name] = points.detach(), torch.zeros(300)
    figures.scatters(panels, path)


PICTURES = (
    prior_densities,
    encodings_that_fit_a_prior,
    what_a_minibatch_knows,
    how_many_share_a_point,
    two_discrepancies,
)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for draw in PICTURES:
        torch.manual_seed(0)
        draw(folder / f"{draw.__name__}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "gallery")
