"""The pinwheel: spiral arms in the plane."""

import math

import torch
from torch import Tensor


def pinwheel(
    num_points: int = 400,
    num_arms: int = 4,
    *,
    radial_std: float = 0.3,
    tangential_std: float = 0.1,
    rate: float = 0.25,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Points [num_points, 2] and the arm of each [num_points], drawn in turn from each arm.

    A point is (1 + 0.3 ε₁, 0.1 ε₂), turned clockwise by its arm's angle plus 0.25 exp(1 + 0.3 ε₁): 0.3 along
    the arm and 0.1 across. (The paper's text swaps the two names; the generator it cites does this.)
    """
    arm = torch.arange(num_points) % num_arms
    noise = torch.randn(num_points, 2, generator=generator)
    radial = 1 + radial_std * noise[:, 0]
    tangential = tangential_std * noise[:, 1]
    angle = 2 * math.pi * arm / num_arms + rate * radial.exp()
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((radial * cos + tangential * sin, tangential * cos - radial * sin), dim=1), arm
