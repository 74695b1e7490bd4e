"""Checks of what the divergences of an aggregate posterior take, in words."""

import torch
from torch import Tensor

from ._checks import _computing_dtype, _may_be_read, _shape
from .reference.minibatch import ESTIMATORS as OF_MINIBATCHES

ESTIMATORS = ("exact", *OF_MINIBATCHES)
REDUCTIONS = ("mean", "none")


def aggregate_arguments(
    z: Tensor,
    loc: Tensor,
    scale: Tensor,
    estimator: str,
    dataset_size: int | None,
    index: Tensor | None,
    log_weights: Tensor | None,
    reduction: str,
) -> None:
    estimator_name(estimator)
    reduction_name(reduction)
    _computing_dtype({"z": z, "loc": loc})
    if loc.dim() != 2:
        raise ValueError(
            f"loc must have shape [n, D], all encodings in one list, but has shape {_shape(loc)}: "
            "reshape it, or call once per batch element"
        )
    if z.dim() != 2 or z.shape[0] == 0:
        raise ValueError(
            f"z must have shape [B, D] with B >= 1, but has shape {_shape(z)}: one draw from each of B encodings"
        )
    if estimator == "exact":
        _exact_arguments(z, loc, dataset_size, index)
    else:
        minibatch_arguments(loc, estimator, dataset_size, index, log_weights)
    one_mixture(scale, log_weights)


def estimator_name(estimator: str) -> None:
    if estimator not in ESTIMATORS:
        raise ValueError(
            f"estimator must be one of {list(ESTIMATORS)}, but is {estimator!r}: 'exact' takes the encodings of "
            "the whole data set, the others those of a minibatch"
        )


def reduction_name(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be 'mean' or 'none' (one value for each z), but is {reduction!r}")


def one_mixture(scale: Tensor, log_weights: Tensor | None) -> None:
    """Checks that there is one mixture, where `loc` is of one."""
    if isinstance(scale, Tensor) and scale.dim() > 2:
        raise ValueError(
            f"scale must broadcast to loc [n, D], but has shape {_shape(scale)}: call once per batch element"
        )
    if isinstance(log_weights, Tensor) and log_weights.dim() > 1:
        raise ValueError(
            f"log_weights must broadcast to [n], but has shape {_shape(log_weights)}: call once per batch element"
        )


def own_encodings(z: Tensor, loc: Tensor, index: Tensor | None) -> None:
    """Whether each z can be told the encoding that it was drawn from."""
    if index is None and len(z) != len(loc):
        raise ValueError(
            f"index must be given where z has another number of rows than loc, but z has shape {_shape(z)}, loc "
            f"{_shape(loc)} and index is None: give the row of loc that each z was drawn from"
        )


def whole_dataset_size(dataset_size: int | None, count: int) -> None:
    """Where there are `count` encodings in all."""
    if dataset_size not in (None, count):
        raise ValueError(
            f"dataset_size must be the number of encodings {count} where the estimator is 'exact', but is "
            f"{dataset_size}: leave it out, or name the estimator of a minibatch"
        )


def _exact_arguments(z: Tensor, loc: Tensor, dataset_size: int | None, index: Tensor | None) -> None:
    whole_dataset_size(dataset_size, len(loc))
    if index is None:
        return
    rows_of_draws(z, index)
    if _may_be_read(index):
        known_rows(index, len(loc))


def rows_of_draws(z: Tensor, index: Tensor) -> None:
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        came = str(index.dtype) if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"index must be a tensor of int64, rows of loc, but came as {came}")
    if index.shape != z.shape[:1]:
        raise ValueError(
            f"index must have shape [{len(z)}], the row of loc that each z was drawn from, but has shape "
            f"{_shape(index)}"
        )


def known_rows(index: Tensor, count: int) -> None:
    if not (0 <= index.min() and index.max() < count):
        raise ValueError(
            f"index must be at least 0 and below {count}, the number of encodings, but reaches from "
            f"{index.min().item()} to {index.max().item()}"
        )


def minibatch_arguments(
    loc: Tensor,
    estimator: str,
    dataset_size: int | None,
    index: Tensor | None,
    log_weights: Tensor | None,
) -> None:
    if dataset_size is None and estimator != "batch":
        raise ValueError(
            f"dataset_size must be given for the estimator {estimator!r}, which has to know of how many data "
            f"points the {len(loc)} are a minibatch"
        )
    if index is not None:
        raise ValueError(
            f"index is for the estimator 'exact', but came with {estimator!r}: in a minibatch z[b] is drawn from "
            "encoding b"
        )
    if log_weights is not None:
        raise ValueError(
            f"log_weights are for the estimator 'exact', but came with {estimator!r}, which has weights of its own"
        )
