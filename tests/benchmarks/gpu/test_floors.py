import pytest

from benchmarks.gpu import counters, floors
from benchmarks.gpu.floors import Cost
from tests.budgets.test_budgets import LOOPS

CEILINGS = {"fma_per_s": 100.0, "exp2_per_s": 10.0}


def budget(kernel, form):
    (most,) = (most for name, f, *_, most in LOOPS if (name, f) == (kernel, form))
    return most


@pytest.mark.parametrize(
    ("cost", "slots"),
    [
        (floors.DENSITY[10], budget("forward_joint<float, 10, 4, 1, false>", "fast")),
        (floors.DENSITY[2], budget("forward_joint<float, 2, 4, 1, false>", "fast")),
        (floors.DENSITY[50], 50 * budget("forward_joint_tiles<float, 2, 2, false>", "fast per_dim") + 7),
        (floors.WITH_SLOPES[10], budget("forward_joint<float, 10, 2, 1, true>", "fast")),
        (floors.COMPONENT_GRADIENTS[10], budget("joint_component_sums<float, 10, 1, false>", "fast")),
        (
            floors.WITH_SLOPES[50],
            50 * budget("forward_joint_slopes<float>", "fast densities per_dim")
            + 50 * budget("forward_joint_slopes<float>", "fast slopes per_dim")
            + 7,
        ),
        (
            floors.COMPONENT_GRADIENTS[50],
            50 * budget("joint_component_tiles<float, false>", "fast densities per_dim")
            + 50 * budget("joint_component_tiles<float, false>", "fast sums per_dim")
            + 7,
        ),
        (floors.MARGINAL, budget("forward_marginal<float, 8, false>", "accurate")),
        (floors.MARGINAL_WITH_SLOPE, budget("forward_marginal<float, 8, true>", "accurate")),
        (floors.MARGINAL_GRADIENTS, budget("marginal_component_sums<float, 8>", "accurate")),
        (floors.KERNEL, budget("mmd::sum_over_pairs<float, 2, false, false>", "value")),
        (floors.KERNEL_WITH_SLOPE, budget("mmd::sum_over_pairs<float, 2, true, false>", "slopes")),
    ],
)
def test_floors_are_made_of_the_budgets(cost, slots):
    """Where a kernel has become cheaper, benchmarks/gpu/floors.py has to know."""
    assert cost.slots == pytest.approx(slots, rel=0.03)


def test_the_slower_unit_is_the_floor():
    assert Cost(200, 5).seconds(CEILINGS) == 2.0
    assert Cost(200, 40).seconds(CEILINGS) == 4.0
    assert Cost(1, 2).plus(Cost(3, 4), Cost(5, 6)) == Cost(9, 12)


def test_the_plan_s_figures():
    """Of the research that the kernels were planned by, at 33.45e12 instructions a second."""
    ceilings = {"fma_per_s": 33.45e12, "exp2_per_s": 4.18e12}
    joint = floors.mixture("joint", 737_280, 4096, 10)
    assert 1e3 * joint["forward"].seconds(ceilings) == pytest.approx(2.46, rel=0.02)
    marginals = floors.mixture("marginals", 60_000, 16_384, 10)
    assert 1e3 * marginals["forward"].seconds(ceilings) == pytest.approx(2.65, rel=0.02)
    direct = floors.mmd("direct", 60_000, 50)
    assert 1e3 * direct["forward"].seconds(ceilings) == pytest.approx(197, rel=0.02)
    assert floors.mmd("panels", 60_000, 50)["both"].seconds(ceilings) < 2e-5
    both = floors.mixture("joint and marginals", 100, 10, 10)["both"]
    assert both.slots == joint["both"].slots / (737_280 * 4096 / 1000) + 25.2 * 10_000


def test_every_counted_kernel_has_a_budget():
    named = {name.removeprefix("mmd::") for name, *_ in LOOPS}
    assert set(counters.KERNELS) <= named
