"""What was to be reached, beside what was: from the suite's JSON alone."""

from collections.abc import Iterator
from typing import Any

from . import floors
from .steps import Result

OURS, DIRECT = "ours", "direct"
OVER_FLOOR = 1.25
LARGE, TALL = "joint n=737280 B=4096 D=10", "joint n=60000 B=16384 D=10"
FASTER = (  # case, the beginning of others' names, how many times as fast as the fastest of them, with gradients
    (LARGE, "KeOps", 5),
    (LARGE, "torch.compile", 6),
    (LARGE, "chunked", 20),
    (TALL, "KeOps", 3),
    (TALL, "torch.compile", 5),
    (TALL, "chunked", 20),
    ("MMD n=60000 D=50", DIRECT, 500),
)
MMD_MS = "MMD n=60000 D=50", 0.5
BY_BUDGET = ("joint", "marginals", "minibatch")  # the beginnings of what has budgets for all that it does
LAUNCHES_S = 5e-5  # floors below that are of launches rather than instructions

Row = list[Any]
Cases = list[tuple[str, dict[str, Any]]]


def rows(steps: dict[str, Result], ceilings: dict[str, float] | None) -> Iterator[Row]:
    """What, what was found, what was to be, and whether it is."""
    cases = [
        (title, case)
        for result in steps.values()
        for title, case in result.get("cases", {}).items()
        if "times_ms" in case
    ]
    for title, others, wanted in FASTER:
        ratios = [_ratio(case, others) for name, case in cases if name == title]
        found = min((ratio for ratio in ratios if ratio is not None), default=None)
        yield _row(f"{title}: times as fast as {others}", found, wanted, at_least=True)
    title, wanted = MMD_MS
    times = [_least(case, "both", OURS) for name, case in cases if name == title]
    yield _row(f"{title}: ms, with the gradient", min(times, default=None), wanted)
    yield from _over_floors(cases, ceilings)
    differing = [title for title, case in cases if not case.get("same_bits", True)]
    if cases:
        yield ["cases of which a repeat gives other bits", len(differing), 0, _text(not differing)]


def _over_floors(cases: Cases, ceilings: dict[str, float] | None) -> Iterator[Row]:
    for title, case in cases:
        if not ceilings or not title.startswith(BY_BUDGET):
            continue
        for kind, what in (("forward", "value"), ("both", "with gradients")):
            floor = floors.Cost(*case["costs"][OURS][kind]).seconds(ceilings)
            if floor > LAUNCHES_S:
                found = 1e-3 * _least(case, kind, OURS) / floor
                yield _row(f"{title}: {what}, over the floor", found, OVER_FLOOR)


def _least(case: dict[str, Any], kind: str, name: str) -> float:
    return case["times_ms"][kind][name]["min"]


def _ratio(case: dict[str, Any], others: str) -> float | None:
    times = [_least(case, "both", name) for name in case["times_ms"]["both"] if name.startswith(others)]
    return min(times) / _least(case, "both", OURS) if times else None


def _row(what: str, found: float | None, wanted: float, *, at_least: bool = False) -> Row:
    if found is None:
        return [what, "", wanted, "not measured"]
    return [what, found, wanted, _text(found >= wanted if at_least else found <= wanted)]


def _text(met: bool) -> str:
    return "yes" if met else "NO"
