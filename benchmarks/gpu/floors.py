"""How fast a GPU could be at best: instructions of the hot loops, as tests/budgets holds them, over the measured rates.

A multiprocessor starts as many instructions of any kind in a cycle as multiply-adds, so `fma_per_s` is the rate of
both; exponentials and reciprocals have a unit of their own, a quarter or an eighth as fast. The slower of the two is
the floor.
"""

from collections.abc import Mapping
from typing import NamedTuple

Ceilings = Mapping[str, float]


class Cost(NamedTuple):
    """Of a unit: instructions of a thread, and those among them that take the special-function unit."""

    slots: float
    special: float

    def times(self, units: float) -> "Cost":
        return Cost(units * self.slots, units * self.special)

    def plus(self, *others: "Cost") -> "Cost":
        return Cost(*map(sum, zip(self, *others)))

    def seconds(self, ceilings: Ceilings) -> float:
        return max(self.slots / ceilings["fma_per_s"], self.special / ceilings["exp2_per_s"])


# Of a pair of a row and a component, by the number of dimensions.
DENSITY = {2: Cost(10.4, 1.25), 10: Cost(27.4, 1.25), 50: Cost(115, 1.125)}
WITH_SLOPES = {2: Cost(17, 1.25), 10: Cost(56.7, 1.25), 50: Cost(326, 1.125)}
COMPONENT_GRADIENTS = {2: Cost(17.3, 1), 10: Cost(62, 1), 50: Cost(373, 1)}
# Of a pair in one dimension.
MARGINAL = Cost(8.6, 1.125)
MARGINAL_WITH_SLOPE = Cost(12.5, 1.125)
MARGINAL_GRADIENTS = Cost(12.7, 1)
# Of a pair of points in one dimension, six scales in two fractions.
KERNEL = Cost(18.3, 2)
KERNEL_WITH_SLOPE = Cost(32.6, 2)
# Of a point in one dimension, by panels. The sums over nodes come besides, and do not grow with the points.
PANELS = Cost(8.5 + 40.3, 0)
PANEL_SLOPES = Cost(34.8, 0)


def mixture(op: str, n: int, rows: int, dims: int) -> dict[str, Cost]:
    """The value, and value and all gradients, of one of the ops of `ops.MIXTURE_OPS`."""
    pairs, by_dim = n * rows, n * rows * dims
    joint = {
        "forward": DENSITY[dims].times(pairs),
        "both": WITH_SLOPES[dims].plus(COMPONENT_GRADIENTS[dims]).times(pairs),
    }
    marginals = {
        "forward": MARGINAL.times(by_dim),
        "both": MARGINAL_WITH_SLOPE.plus(MARGINAL_GRADIENTS).times(by_dim),
    }
    if op in ("joint", "responsibilities"):  # of these at least the density
        return joint
    if op == "marginals":
        return marginals
    return {kind: joint[kind].plus(marginals[kind]) for kind in joint}


def mmd(method: str, points: int, dims: int) -> dict[str, Cost]:
    """The value of two samples of so many points, and value and gradient of the first."""
    if method == "panels":
        value = PANELS.times(2 * points * dims)
        return {"forward": value, "both": value.plus(PANEL_SLOPES.times(points * dims))}
    square = points * points * dims
    gradient = KERNEL_WITH_SLOPE.times(2 * square).plus(KERNEL.times(square / 2))
    return {"forward": KERNEL.times(2 * square), "both": gradient}
