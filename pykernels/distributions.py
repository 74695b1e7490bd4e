"""The mixture of diagonal Gaussians as a torch distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, constraints

from . import _checks
from .mixture import gaussian_mixture_log_prob


class DiagonalGaussianMixture(Distribution):
    r"""Mixture of n diagonal Gaussians over points of D dimensions.

    .. math:: q(z) = \sum_i w_i \prod_d \mathcal N(z_d; \mu_{id}, \sigma_{id}^2),
        \qquad w = \operatorname{softmax}(\text{logits})

    The same distribution as `MixtureSameFamily(Categorical(logits), Independent(Normal(loc, scale), 1))`,
    with a log-density that makes no [B, n, D] tensor.

    Args:
        loc: [*batch, n, D], the means.
        scale: standard deviations, positive, in the units of `loc`; anything that broadcasts to it, and kept
            as given.
        logits: anything that broadcasts to [*batch, n], normalised by a softmax; None is 1/n for each.

    Event shape (D,), batch shape `*batch`. Gradients of `log_prob`, `log_responsibilities`, `mean` and
    `variance` reach all parameters; samples carry none (`has_rsample` is False) and follow torch's generator.
    Cost, determinism and errors of `log_prob` are those of `gaussian_mixture_log_prob`.

    Example:
        >>> mixture = DiagonalGaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor(0.5))
        >>> mixture.log_prob(torch.zeros(2))
        tensor(-2.4516)
        >>> mixture.mean, mixture.variance
        (tensor([0., 0.]), tensor([1.2500, 0.2500]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "logits": constraints.real,
    }
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self, loc: Tensor, scale: Tensor, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        _checks.mixture_parameters(loc, scale, logits)
        self.loc, self.scale = loc, scale
        self.logits = loc.new_zeros(loc.shape[-2]) if logits is None else logits
        batch = torch.broadcast_shapes(loc.shape[:-2], scale.shape[:-2], self.logits.shape[:-1])
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    @classmethod
    def from_mixture(cls, mixture: MixtureSameFamily) -> DiagonalGaussianMixture:
        """From a `MixtureSameFamily(Categorical, Independent(Normal, 1))`, whose tensors it shares.

        Raises TypeError for a mixture of anything else.

        Example:
            >>> normal = Independent(Normal(torch.zeros(3, 2), torch.ones(3, 2)), 1)
            >>> mixture = MixtureSameFamily(Categorical(logits=torch.zeros(3)), normal)
            >>> DiagonalGaussianMixture.from_mixture(mixture).event_shape
            torch.Size([2])
        """
        weights, components = _checks.diagonal_gaussian_parts(mixture)
        return cls(components.loc, components.scale, weights.logits)

    @property
    def log_weights(self) -> Tensor:
        """The normalised log-weights, [*batch, n] up to broadcasting of the batch."""
        return self.logits.expand(*self.logits.shape[:-1], self.loc.shape[-2]).log_softmax(-1)

    @property
    def mean(self) -> Tensor:
        """[*batch, D]: the weighted mean of `loc`."""
        return self._average(self.loc).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """[*batch, D]: the weighted mean of scale^2 + (loc - mean)^2."""
        deviation = self.loc - self._average(self.loc).unsqueeze(-2)
        return self._average(self.scale.square() + deviation.square()).expand(self._extended_shape())

    def expand(
        self, batch_shape: Sequence[int], _instance: DiagonalGaussianMixture | None = None
    ) -> DiagonalGaussianMixture:
        """The same distribution with a larger batch shape; no parameter is copied or expanded."""
        new: DiagonalGaussianMixture = self._get_checked_instance(DiagonalGaussianMixture, _instance)  # type: ignore[no-untyped-call]
        new.loc, new.scale, new.logits = self.loc, self.scale, self.logits
        torch.empty(()).expand(self.batch_shape).expand(batch_shape)  # raises where the shape does not fit
        super(DiagonalGaussianMixture, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """[*sample_shape, *batch, D]: a component by its weight, then a point of it. No gradient."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            weights = self.log_weights.expand(*self.batch_shape, -1)
            choice = Categorical(logits=weights, validate_args=False)
            index = choice.sample((math.prod(sample_shape),)).movedim(0, -1)
            index = index.unsqueeze(-1).expand(*index.shape, *self.event_shape)
            full = *self.batch_shape, *self.loc.shape[-2:]
            loc, scale = (t.expand(full).gather(-2, index) for t in (self.loc, self.scale))
            # Not torch.normal, which looks whether a scale is negative: a GPU would have to be waited for.
            return (loc + scale * torch.randn_like(loc)).movedim(-2, 0).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """[*sample_shape, *batch] for `value` [*sample_shape, *batch, D], as `gaussian_mixture_log_prob`."""
        points, sample_shape = self._points(value)
        log_prob = gaussian_mixture_log_prob(points, self.loc, self.scale, self.log_weights)
        return log_prob.movedim(-1, 0).reshape(sample_shape + self.batch_shape)

    def log_responsibilities(self, value: Tensor) -> Tensor:
        """[*sample_shape, *batch, n]: log w_i + log N(z; loc_i, scale_i^2) - log q(z), each component's
        log-probability given the point.

        The only result of size B n. NaN where no component has density; gradients and time as `log_prob`.
        """
        points, sample_shape = self._points(value)
        # Every component as a mixture of its own gives [*batch, n, B] with no [B, n, D] on the way.
        scale = self.scale.expand(*self.scale.shape[:-2], *self.loc.shape[-2:])
        by_component = gaussian_mixture_log_prob(
            points.unsqueeze(-3), self.loc.unsqueeze(-2), scale.unsqueeze(-2)
        )
        joint = by_component + self.log_weights.unsqueeze(-1)
        return joint.log_softmax(-2).movedim(-1, 0).reshape(*sample_shape, *self.batch_shape, -1)

    def _average(self, by_component: Tensor) -> Tensor:
        return (self.log_weights.exp().unsqueeze(-1) * by_component).sum(-2)

    def _points(self, value: Tensor) -> tuple[Tensor, torch.Size]:
        """`value` as [*batch, B, D], and the sample shape that B stands for."""
        _checks.points_of_a_mixture(value)  # torch's own check takes any tensor for one of numbers
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self._extended_shape())
        sample_shape = shape[: len(shape) - len(self.batch_shape) - 1]
        points = value.expand(shape).reshape(-1, *self._extended_shape())
        return points.movedim(0, -2), sample_shape
