"""Densities of what is shared out among ranks: of a mixture each computes what its own components give, and the parts
merge; a minibatch all have in whole."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from . import _aggregate_checks, _checks
from ._collectives import Group, Rows, agreed, all_reduce, equal_on_all, gathered, own_rows, summed
from ._mixture import densities, statistics
from .minibatch import minibatch_log_prob
from .reference.divergences import own_log_prob
from .reference.responsibilities import ResponsibilityStatistics

_Inputs: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor | None]


class _SharedPoints:
    """Those of all ranks, and this one's."""

    points: Tensor
    own_points: Tensor

    def of_own_points(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of the rank's own points, row by row; distributions of torch do not take none."""
        return function(self.own_points) if len(self.own_points) else function(self.points[:1])[:0]


class SharedMixture(_SharedPoints):
    """The points of all ranks, and the components of this one."""

    def __init__(
        self,
        value: Tensor,
        loc: Tensor,
        scale: Tensor,
        log_weights: Tensor | None,
        same_points: bool,
        group: Group,
        name: str = "value",
        also: Callable[[], None] = lambda: None,
    ):
        def check() -> tuple[_Inputs, tuple[int, int, int]]:
            also()
            inputs = _checked(value, loc, scale, log_weights, name)
            return inputs, (len(value), len(loc), loc.shape[1])

        inputs, (points, components, dims) = agreed(check, 3, loc.device, group)
        equal_on_all("the number of dimensions D", dims)
        self.own_points, self.loc, self.scale, self.log_weights = inputs
        self.components = Rows.of(components, group)
        if self.components.total == 0:
            raise ValueError(
                "loc must hold at least one component on some rank, but all have shape [0, D]: an empty mixture has no "
                "density; check how loc was selected"
            )
        if same_points:
            equal_on_all("the number of points B, with same_points=True,", points)
            self.rows, self.points = None, self.own_points
        else:
            self.rows = Rows.of(points, group)
            self.points = gathered(self.own_points, self.rows, in_parts=True)

    @property
    def group(self) -> Group:
        return self.components.group

    def densities(self, joint: bool, marginal: bool) -> tuple[Tensor, ...]:
        """Those asked for, of the rank's own points."""
        if self.components.count:
            found = densities(self.points, self.loc, self.scale, self.log_weights, joint, marginal)
            parts = torch.cat([d if d.dim() == 2 else d.unsqueeze(-1) for d in found], -1) + self._share()
        else:
            parts = self._nothing(joint + marginal * self.points.shape[1])
        merged = self._own(logsumexp(parts, self.group))
        return (*([merged[:, 0]] if joint else []), *([merged[:, joint:]] if marginal else []))

    def statistics(self) -> ResponsibilityStatistics:
        if self.components.count:
            log_prob, perplexity, collisions = statistics(self.points, self.loc, self.scale, self.log_weights)
            log_prob = log_prob + self._share()
        else:
            log_prob = self._nothing(1)[:, 0]
            perplexity = collisions = torch.ones_like(log_prob)
        merged = _merged_statistics(log_prob, perplexity, collisions, self.group)
        return ResponsibilityStatistics(*self._own(torch.stack(merged, -1)).unbind(-1))

    def own_log_prob(self, index: Tensor | None) -> Tensor:
        """Of each own point by the component that it was drawn from, by its place among those of all ranks."""
        if index is None:
            return own_log_prob(self.own_points, self.loc, self.scale, None)
        assert self.rows is not None
        index = gathered(index, self.rows, in_parts=False)
        if len(index):
            _aggregate_checks.known_rows(index, self.components.total)
        place = index - self.components.first
        held = ((place >= 0) & (place < self.components.count)).nonzero().squeeze(1)
        known = own_log_prob(self.points[held], self.loc, self.scale, place[held])
        everywhere = known.new_zeros(self.rows.total).index_put((held,), known)
        return own_rows(summed(everywhere, self.group), self.rows)

    def _share(self) -> float:
        """Equal weights are those of the components of all ranks."""
        return math.log(self.components.count / self.components.total) if self.log_weights is None else 0.0

    def _nothing(self, columns: int) -> Tensor:
        """The log-densities of no components; backward passes still reach these, as on other ranks."""
        reached = self.loc.sum() + self.scale.expand(self.loc.shape).sum() + self.points[:0].sum()
        if self.log_weights is not None:
            reached = reached + self.log_weights.expand(self.loc.shape[:1]).sum()
        return self.points.new_full((len(self.points), columns), -math.inf) + reached

    def _own(self, merged: Tensor) -> Tensor:
        return merged if self.rows is None else own_rows(merged, self.rows)


class SharedMinibatch(_SharedPoints):
    """The draws and the encodings of all ranks: there are few, and an estimator's weights depend on both."""

    def __init__(
        self, z: Tensor, loc: Tensor, scale: Tensor, dataset_size: int | None, estimator: str, group: Group
    ):
        def check() -> tuple[_Inputs, tuple[int, int]]:
            inputs = _checked(z, loc, scale, None, "z")
            if len(z) != len(loc):
                raise ValueError(
                    f"z must have a row for each of loc's, the draw from it, but they have shapes {list(z.shape)} and "
                    f"{list(loc.shape)}: in a minibatch z[b] is drawn from encoding b"
                )
            return inputs, (len(z), loc.shape[1])

        (self.own_points, self.loc, self.scale, _), (rows, dims) = agreed(check, 2, loc.device, group)
        equal_on_all("the number of dimensions D", dims)
        self.rows = Rows.of(rows, group)
        own = torch.cat([self.own_points, self.loc, self.scale.expand(self.loc.shape)], -1)
        self.whole = gathered(own, self.rows, in_parts=False)
        self.points = self.whole[:, : loc.shape[1]]
        self.dataset_size = self.rows.total if dataset_size is None else dataset_size
        self.estimator = estimator

    def densities(self, joint: bool, marginal: bool) -> tuple[Tensor, ...]:
        """Those asked for, of the rank's own points."""
        z, loc, scale = self.whole.chunk(3, -1)
        found = minibatch_log_prob(z, loc, scale, self.dataset_size, self.estimator)
        own = own_rows(torch.cat([found.joint.unsqueeze(-1), found.marginal], -1), self.rows)
        return (*([own[:, 0]] if joint else []), *([own[:, 1:]] if marginal else []))

    def own_log_prob(self, index: Tensor | None) -> Tensor:
        """Of each own point by its own encoding: there is no index of others."""
        assert index is None
        return own_log_prob(self.own_points, self.loc, self.scale, None)


def shared(
    z: Tensor,
    loc: Tensor,
    scale: Tensor,
    group: Group,
    also: Callable[[], None] = lambda: None,
    *,
    estimator: str,
    dataset_size: int | None,
    index: Tensor | None = None,
    log_weights: Tensor | None,
) -> SharedMixture | SharedMinibatch:
    """What an estimator of the aggregate posterior takes of all ranks."""
    _aggregate_checks.estimator_name(estimator)
    if estimator == "exact":
        mixture = SharedMixture(z, loc, scale, log_weights, False, group, "z", also)
        _aggregate_checks.whole_dataset_size(dataset_size, mixture.components.total)
        return mixture
    _aggregate_checks.minibatch_arguments(loc, estimator, dataset_size, index, log_weights)
    return SharedMinibatch(z, loc, scale, dataset_size, estimator, group)


def logsumexp(log_prob: Tensor, group: Group) -> Tensor:
    """Over ranks."""
    largest = _largest(log_prob, group)
    total = summed((log_prob - largest).exp(), group)
    none = total == 0
    return (total.masked_fill(none, 1).log() + largest).masked_fill(none, -math.inf)


def _largest(log_prob: Tensor, group: Group) -> Tensor:
    """Over ranks; 0 where it is infinite."""
    largest = all_reduce(log_prob, group, largest=True)
    return largest.masked_fill(largest.isinf(), 0)


def _merged_statistics(
    log_prob: Tensor, perplexity: Tensor, collisions: Tensor, group: Group
) -> tuple[Tensor, ...]:
    """With the shares r of the ranks, H = -sum_r r log r + sum_r r H_r, and 1 / C = sum_r r^2 / C_r."""
    none = log_prob == -math.inf
    largest = _largest(log_prob, group)
    log_weight = (log_prob - largest).masked_fill(none, 0)
    weight = log_weight.exp().masked_fill(none, 0)
    entropy = perplexity.masked_fill(none, 1).log()
    collisions = collisions.masked_fill(none, 1)
    parts = weight, weight * (entropy - log_weight), weight.square() / collisions
    total, of_entropy, of_collisions = summed(torch.stack(parts), group).unbind()
    nowhere = total == 0
    total = total.masked_fill(nowhere, 1)
    merged = (
        (total.log() + largest).masked_fill(nowhere, -math.inf),
        (total.log() + of_entropy / total).exp(),
        total.square() / of_collisions.masked_fill(nowhere, 1),
    )
    return merged[0], *(m.masked_fill(nowhere, math.nan) for m in merged[1:])


def _checked(value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None, name: str) -> _Inputs:
    """As in one process, but that there may be no components here."""
    for what, tensor, form in ((name, value, "[B, D]"), ("loc", loc, "[n, D]")):
        if tensor.dim() != 2:
            raise ValueError(
                f"{what} must have shape {form}, of which each rank holds some rows, but has shape "
                f"{list(tensor.shape)}: reshape it, or call once per batch element"
            )
    if len(loc):
        return _checks.mixture_inputs(value, loc, scale, log_weights, name)
    value, stand_in, _, _ = _checks.mixture_inputs(
        value, loc.new_zeros(1, loc.shape[1]), loc.new_ones(()), None, name
    )
    weights = None if log_weights is None else log_weights.to(stand_in.dtype)
    return value, loc.to(stand_in.dtype), scale.to(stand_in.dtype), weights
