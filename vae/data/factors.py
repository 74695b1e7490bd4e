"""The grid of ground-truth factors: which row of a data set has which factor values, by arithmetic."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """A data set that holds every combination of factor levels once, the last factor changing fastest.

    Row i of n = Π sizes has the levels `levels(i)`, each from 0; no table of them is kept or searched.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.sizes)

    def step(self, factor: int) -> int:
        """Rows between neighbouring levels of a factor."""
        return math.prod(self.sizes[factor + 1 :])

    def levels(self, index: Tensor) -> Tensor:
        """[*, number of factors] from rows [*]."""
        return torch.stack(torch.unravel_index(index, self.sizes), dim=-1)

    def index(self, levels: Tensor) -> Tensor:
        """Rows [*] from levels [*, number of factors]."""
        steps = [self.step(factor) for factor in range(len(self.sizes))]
        return (levels * torch.tensor(steps, device=levels.device)).sum(-1)

    def sharing(self, factor: int, level: Tensor, number: Tensor) -> Tensor:
        """Rows of the `number`-th of the points whose `factor` has `level`, both broadcast against each other.

        There are count / sizes[factor] such points, numbered from 0 in the order of their rows.
        """
        size, step = self.sizes[factor], self.step(factor)
        block = torch.div(number, step, rounding_mode="floor")
        return (block * (size - 1) + level) * step + number
