"""Figures, tables and the summary of `vae bias`."""

import math
from collections.abc import Mapping

import numpy
import torch

from vae import line_figures
from vae.estimators import ESTIMATORS, Skew, Study
from vae.experiments.regularised import OBJECTIVES
from vae.figures import COLOURS
from vae.line_figures import Line, Plot
from vae.run import RunFolder
from vae.tables import Table

Studies = Mapping[str, Study]
Predicted = Mapping[tuple[str, int], float]
"""The bias of an estimator of KL(q‖p) at a batch size, for the first of the studies."""
Growth = Mapping[str, Mapping[tuple[int, int], float]]
"""The bias of eq 11b by (D, n), for each way of choosing the scale."""
Trained = Mapping[tuple[str, float], Mapping[str, float]]
"""Summaries by objective and weight."""


def draw(
    folder: RunFolder,
    studies: Studies,
    predicted: Predicted,
    growth: Growth,
    skew: Skew,
    trained: Trained,
    batch_size: int,
) -> None:
    first = next(iter(studies))
    panels = [estimate_plot(name, one, predicted if name == first else {}) for name, one in studies.items()]
    panels += [error_plot(name, one) for name, one in studies.items()]
    line_figures.plots(panels, folder.figures / "estimators.png", columns=len(studies))
    line_figures.plots(growth_plots(growth, skew, batch_size), folder.figures / "growth.png")
    line_figures.plots(training_plots(trained, batch_size), folder.figures / "training.png")


def estimate_plot(name: str, study: Study, predicted: Predicted) -> Plot:
    """Means of the estimates; dashed, what is predicted: for `clusters` exactly, else where nothing overlaps."""
    sizes = list(study.estimates)
    lines = {"KL(q‖p)": Line([sizes[0], sizes[-1]], [study.truth] * 2, dashed=True, colour="k")}
    for estimator, colour in zip(ESTIMATORS, COLOURS):
        means = [study.truth + study.estimates[size][estimator].bias for size in sizes]
        errors = [2 * study.estimates[size][estimator].bias_error for size in sizes]
        lines[estimator] = Line(sizes, means, errors, colour=colour)
        if predicted:
            bias = [study.truth + predicted[estimator, size] for size in sizes]
            name_once = "predicted" if estimator == ESTIMATORS[0] else f"_{estimator}, predicted"
            lines[name_once] = Line(sizes, bias, dashed=True, colour=colour)
    if not predicted:
        limit = study.truth + study.limit("hfvae", 2)
        lines["where nothing overlaps"] = Line(
            [sizes[0], sizes[-1]], [limit] * 2, dashed=True, colour=COLOURS[0]
        )
    return Plot(name, "batch size B", "estimate of KL(q‖p), nats", lines, xscale="log")


def error_plot(name: str, study: Study) -> Plot:
    """How far a single minibatch's estimate is off."""
    sizes = list(study.estimates)
    lines = {
        estimator: Line(sizes, [study.estimates[size][estimator].rmse for size in sizes], colour=colour)
        for estimator, colour in zip((*ESTIMATORS, "exact"), (*COLOURS[:4], "k"))
    }
    return Plot(f"one minibatch, {name}", "batch size B", "root mean square error", lines, "log", "log")


def growth_plots(growth: Growth, skew: Skew, batch_size: int) -> list[Plot]:
    plots, bias = [], "−bias of KL(q‖p), nats"
    for name, found in growth.items():
        dims, sizes = (sorted({key[part] for key in found}) for part in (0, 1))
        lines = {f"n = {n}": Line(dims, [-found[d, n] for d in dims]) for n in sizes}
        plots.append(Plot(f"eq 11b, B = {batch_size}, {name}", "D", bias, lines, xscale="log"))
    steps = torch.linspace(0.001, 1, 500)
    quantiles = skew.values.quantile(steps.double()).clamp_min(1e-12)
    second = {"second term / its mean": Line(steps.tolist(), quantiles.tolist(), colour="k")}
    return [
        *plots,
        Plot("second term of eq 11b", "share of the points", "over its mean", second, yscale="log"),
    ]


def training_plots(trained: Trained, batch_size: int) -> list[Plot]:
    weights = sorted({weight for _, weight in trained})

    def curve(objective: str, x: str, y: str) -> Line:
        found = [trained[objective, weight] for weight in weights]
        return Line([one[x] for one in found], [one[y] for one in found])

    reached = {name: curve(name, "log_likelihood", "exclusive_kl") for name in OBJECTIVES}
    told = {name: curve(name, "log_likelihood", "mutual_information") for name in OBJECTIVES}
    errors = {
        f"KL by {name}": Line(weights, [trained["bank", weight][f"rmse_{name}"] for weight in weights])
        for name in ("hfvae", "mss", "mws", "batch", "bank")
    }
    likelihood = "E[log p(x|z)]"
    return [
        Plot("trained by", likelihood, "exact KL(q‖p), nats", reached, yscale="log"),
        Plot("trained by", likelihood, "I(x;z), nats", told),
        Plot(
            f"one minibatch of {batch_size}, trained by bank",
            "weight",
            "RMSE beyond sampling",
            errors,
            "log",
            "log",
        ),
    ]


def report(studies: Studies, predicted: Predicted, trained: Trained) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for name, study in studies.items():
        case = f"{name}, n = {study.n}, I = {study.information:.2f}"
        title = f"Estimates of KL(q‖p) − {study.truth:.3f}, which it is: {case}"
        tables[title] = bias_table(study, predicted if not tables else {})
    tables["Training: objective, weight"] = training_table(trained)
    if len({weight for _, weight in trained}) > 1:
        tables[EQUAL] = equal_table(trained)
    tables["Errors of one minibatch's KL(q‖p), beyond those of its draws: mean, root mean square"] = (
        error_table(trained)
    )
    return tables


EQUAL = "Exact KL(q‖p) at the log-likelihoods that the minibatch estimate reaches, between weights"


def bias_table(study: Study, predicted: Predicted) -> Table:
    """Bias ± its standard error, which a single minibatch does not tell, with the predicted bias in brackets; and how
    many estimates are negative."""
    header = ["B"]
    for name in ESTIMATORS:
        header += [name, "< 0"]
    rows = []
    for size, estimates in study.estimates.items():
        row = [str(size)]
        for name in ESTIMATORS:
            one = estimates[name]
            bias = predicted.get((name, size), study.limit(name, size))
            error = "" if math.isnan(one.bias_error) else f" ± {one.bias_error:.3f}"
            row += [f"{one.bias:.3f}{error} ({bias:.3f})", f"{100 * one.negative:.0f} %"]
        rows.append(row)
    return Table(header, rows)


TRAINING = ("exclusive_kl", "log_likelihood", "kl", "mutual_information", "reconstruction", "iwae")


def training_table(trained: Trained) -> Table:
    rows = [
        [f"{objective}, {weight:g}", *(f"{found[name]:.4g}" for name in TRAINING)]
        for (objective, weight), found in trained.items()
    ]
    return Table(["trained by", *(name.replace("_", " ") for name in TRAINING)], rows)


def equal_table(trained: Trained) -> Table:
    """The exact KL(q‖p) of each objective, interpolated over the log-likelihood, where its weights span that."""
    weights = sorted({weight for _, weight in trained})
    rows = []
    for weight in weights:
        wanted = trained["hfvae", weight]["log_likelihood"]
        row = [f"{wanted:.4g}"]
        for objective in OBJECTIVES:
            reached = sorted(
                (trained[objective, each]["log_likelihood"], trained[objective, each]["exclusive_kl"])
                for each in weights
            )
            likelihoods, divergences = zip(*reached)
            inside = likelihoods[0] <= wanted <= likelihoods[-1]
            row.append(f"{numpy.interp(wanted, likelihoods, divergences):.3f}" if inside else "out of range")
        rows.append(row)
    return Table(["log-likelihood", *OBJECTIVES], rows)


def error_table(trained: Trained) -> Table:
    names = (*ESTIMATORS, "bank")
    rows = [
        [
            f"{objective}, {weight:g}",
            *(f"{found[f'bias_{name}']:.3g}, {found[f'rmse_{name}']:.2g}" for name in names),
            f"{min(found[f'rmse_{name}'] for name in ESTIMATORS) / found['rmse_bank']:.1f}×",
        ]
        for (objective, weight), found in trained.items()
    ]
    return Table(["trained by", *names, "best minibatch / bank"], rows)


def summary(
    studies: Studies,
    growth: Growth,
    skew: Skew,
    trained: Trained,
    batch_size: int,
) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, study in studies.items():
        found |= {f"{name}: exclusive_kl": study.truth, f"{name}: mutual_information": study.information}
        size = min(study.estimates, key=lambda each: abs(each - batch_size))
        for estimator in (*ESTIMATORS, "exact"):
            one = study.estimates[size][estimator]
            found |= {f"{name}: {estimator}_{key}": getattr(one, key) for key in ("bias", "rmse", "negative")}
    found |= {
        f"second_term_{key}": getattr(skew, key) for key in ("median", "skewness", "share_of_top_percent")
    }
    for name, values in growth.items():
        found |= {f"{name}, D = {dims}, n = {n}: hfvae_bias": value for (dims, n), value in values.items()}
    for (objective, weight), results in trained.items():
        found |= {f"{objective}, weight {weight:g}: {key}": value for key, value in results.items()}
    return found
