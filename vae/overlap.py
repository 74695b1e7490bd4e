"""How many other data points an encoding overlaps with (appendix D): statistics, and encoders that I(x;z) cannot tell.

An encoder here is anything with `sample(index)`, a draw from q(z|x_i) for each i [B], and `log_prob(z)`, log q(z|x_i)
of every draw and data point, [B, n]: mixtures of any kind, and encoders that are no distribution torch knows.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from pykernels import gaussian_mixture_log_prob, responsibility_statistics_from_log_prob


class Encoder(Protocol):
    def sample(self, index: Tensor) -> Tensor: ...

    def log_prob(self, z: Tensor) -> Tensor: ...


class Gaussian(NamedTuple):
    """q(z|x_i) = N(z; loc_i, scale_i²)."""

    loc: Tensor
    scale: Tensor

    def sample(self, index: Tensor) -> Tensor:
        loc, scale = self.loc[index], self.scale.expand(self.loc.shape)[index]
        return loc + scale * torch.randn_like(loc)

    def log_prob(self, z: Tensor) -> Tensor:
        # Every encoding as a mixture of its own gives [n, B] with no [B, n, D] on the way.
        scale = self.scale.expand(self.loc.shape)
        return gaussian_mixture_log_prob(z, self.loc.unsqueeze(1), scale.unsqueeze(1)).T


class BallAndPrior(NamedTuple):
    """q(z|x) = λ · Uniform(‖z − loc‖ < radius) + (1 − λ) · p(z): every encoding overlaps with all others, a little."""

    loc: Tensor
    radius: float
    share: float
    prior: Distribution

    def sample(self, index: Tensor) -> Tensor:
        near = self.loc[index]
        direction = torch.randn_like(near)
        length = torch.rand(len(near), 1).to(near) ** (1 / near.shape[1])
        near = near + self.radius * length * direction / direction.norm(dim=1, keepdim=True)
        # Of all draws the share itself is in a ball, rather than each with that probability: less noise.
        in_ball = torch.randperm(len(near)).unsqueeze(1) < round(self.share * len(near))
        return torch.where(in_ball, near, self.prior.sample((len(near),)))

    def log_prob(self, z: Tensor) -> Tensor:
        dims = z.shape[1]
        log_volume = (
            0.5 * dims * math.log(math.pi) - math.lgamma(0.5 * dims + 1) + dims * math.log(self.radius)
        )
        inside = distances(z, self.loc) < self.radius
        ball = torch.where(inside, math.log(self.share) - log_volume, -math.inf)
        everywhere = math.log1p(-self.share) + self.prior.log_prob(z)
        return torch.logaddexp(ball, everywhere.unsqueeze(1))


class Multimodal(NamedTuple):
    """q(z|x) = (1/M) Σ_m N(z; loc + offsets_m, scale² I): each encoding is in M places at once."""

    loc: Tensor
    offsets: Tensor
    scale: Tensor

    def sample(self, index: Tensor) -> Tensor:
        mode = torch.randint(len(self.offsets), index.shape)
        centre = self.loc[index] + self.offsets[mode]
        return centre + self.scale * torch.randn_like(centre)

    def log_prob(self, z: Tensor) -> Tensor:
        return gaussian_mixture_log_prob(z, self.loc.unsqueeze(1) + self.offsets, self.scale).T


def distances(a: Tensor, b: Tensor) -> Tensor:
    """[len(a), len(b)], by differences: products would lose those that are small."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


class Statistics(NamedTuple):
    """Of draws z ~ q(z|x_i), [S] each: how many encodings share z, the distance of their data points to x_i,
    Σ_k r_k ‖x_k − x_i‖; and the spread of z given x, the root of the trace of its covariance, a mean over x."""

    entropy: Tensor
    perplexity: Tensor
    collision_count: Tensor
    distance: Tensor
    spread: float
    num_points: int

    @property
    def mutual_information(self) -> float:
        """I(x;z) = log n − E[H(r)]."""
        return math.log(self.num_points) - self.entropy.mean().item()

    def summary(self) -> dict[str, float]:
        found = {"mutual_information": self.mutual_information}
        for name in ("perplexity", "collision_count"):
            values = getattr(self, name)
            found[f"{name}_mean"] = values.mean().item()
            for percent in (10, 50, 90):
                found[f"{name}_q{percent}"] = values.quantile(percent / 100).item()
        return found | {"distance": self.distance.mean().item(), "spread": self.spread}


@torch.no_grad()
def measure(encoder: Encoder, x: Tensor, draws: int = 4, chunk: int = 500) -> Statistics:
    """Over so many draws from the encoding of each of the data points x [n, features], in O(chunk · n) memory."""
    n = len(x)
    index = torch.arange(n).repeat(draws)
    z = encoder.sample(index)
    parts: list[list[Tensor]] = [[], [], []]
    for points, own in zip(z.split(chunk), index.split(chunk)):
        log_prob = encoder.log_prob(points)
        statistics = responsibility_statistics_from_log_prob(log_prob)
        distance = distances(x[own], x)
        parts[0].append(statistics.perplexity)
        parts[1].append(statistics.collision_count)
        parts[2].append((log_prob.softmax(1) * distance).sum(1))
    perplexity, collisions, distance = map(torch.cat, parts)
    spread = z.view(draws, n, -1).var(0).sum(-1).mean().sqrt().item() if draws > 1 else math.nan
    return Statistics(perplexity.log(), perplexity, collisions, distance, spread, n)


def matched(
    make: Callable[[float], Encoder], x: Tensor, information: float, low: float, high: float
) -> float:
    """The setting in [low, high] whose encoder has the mutual information asked for, by bisection on the logarithm;
    the information may rise or fall with the setting. The same draws serve all."""
    low, high = math.log(low), math.log(high)
    state = torch.get_rng_state()

    def found(setting: float) -> float:
        torch.set_rng_state(state)
        return measure(make(math.exp(setting)), x, draws=1).mutual_information

    rises = found(high) > found(low)
    for _ in range(25):
        middle = 0.5 * (low + high)
        if (found(middle) < information) == rises:
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))
