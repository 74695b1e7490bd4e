"""What the suite found, for people to read: from its JSON alone."""

import json
from typing import Any

from ..output import table
from . import floors, goals
from .steps import Result

OURS = "ours"
COUNTERS = (
    "instructions",
    "budget",
    "special",
    "issue",
    "occupancy",
    "registers",
    "bank_conflicts",
    "local_bytes",
)


def show(report: dict[str, Any]) -> str:
    steps: dict[str, Result] = report["steps"]
    ceilings = measured_ceilings(steps)
    parts = [
        (f"Machine: {report['device']}", ceiling_table(ceilings) if ceilings else ""),
        ("Operators: milliseconds, over ours, over the floor", times_table(steps, ceilings)),
        ("Kernels: counted for a unit, and predicted; shares in per cent", kernel_table(steps)),
        ("Training", training_table(steps)),
        ("Goals", table(["", "", "to be", "is it"], list(goals.rows(steps, ceilings)))),
        ("Steps", steps_table(steps)),
    ]
    return "\n\n".join(f"{title}\n{text}".rstrip() for title, text in parts if text or "Machine" in title)


def measured_ceilings(steps: dict[str, Result]) -> dict[str, Any] | None:
    """What the program printed, if it came to that."""
    result = steps.get("ceilings", {})
    return json.loads(result["output"]) if result.get("exit_code") == 0 else None


def ceiling_table(ceilings: dict[str, Any]) -> str:
    units = {
        "multiply-adds, 10¹²/s": ceilings["fma_per_s"] / 1e12,
        "exponentials, 10¹²/s": ceilings["exp2_per_s"] / 1e12,
        "multiply-adds in float64, 10¹²/s": ceilings["fma64_per_s"] / 1e12,
        "copy, TB/s": ceilings["copy_bytes_per_s"] / 1e12,
        "clock, GHz": ceilings["clock_hz"] / 1e9,
        "a launch, µs": 1e6 * ceilings["launch_s"],
    }
    return table(["", "", ""], [[name, "", value] for name, value in units.items()])


def times_table(steps: dict[str, Result], ceilings: dict[str, float] | None) -> str:
    rows: list[list[Any]] = []
    for result in steps.values():
        for case, found in result.get("cases", {}).items():
            for name in found.get("times_ms", {}).get("forward", {}):
                least = [found["times_ms"][kind][name]["min"] for kind in ("forward", "both")]
                ours = [found["times_ms"][kind][OURS]["min"] for kind in ("forward", "both")]
                errors = found["errors"].get(name, {})
                growth = found["growth"].get(name)
                row = [case, name, *least, *(a / b for a, b in zip(least, ours))]
                row += over_floor(found, name, least, ceilings)
                rows.append([*row, errors.get("value"), errors.get("gradient"), growth and growth / 1e6])
            if not found.get("same_bits", True):
                rows.append([case, "A REPEAT GIVES OTHER BITS", *[None] * 9])
            for name, why in found.get("not_measured", {}).items():
                rows.append([case, f"{name}: {why[:60]}", *[None] * 9])
            if "error" in found:
                rows.append([case, f"FAILED: {found['error'][:60]}", *[None] * 9])
    header = ["", "", "value", "+ gradient", "ratio", "+ gradient", "floor", "+ gradient"]
    return table([*header, "value error", "gradient error", "memory MB"], rows) if rows else ""


def over_floor(
    found: dict[str, Any], name: str, least: list[float], ceilings: dict[str, float] | None
) -> list[float | None]:
    costs = found.get("costs", {}).get(name.removesuffix(", CUDA graph"))
    if not costs or not ceilings:
        return [None, None]
    seconds = [floors.Cost(*costs[kind]).seconds(ceilings) for kind in ("forward", "both")]
    return [1e-3 * ms / floor for ms, floor in zip(least, seconds)]


def kernel_table(steps: dict[str, Result]) -> str:
    rows = [
        [kernel, "", *(counted.get(name) for name in ("ms", *COUNTERS))]
        for result in steps.values()
        for kernel, counted in result.get("kernels", {}).items()
    ]
    return table(["", "", "ms", *COUNTERS], rows) if rows else ""


def training_table(steps: dict[str, Result]) -> str:
    rows: list[list[Any]] = []
    for result in steps.values():
        for name, found in result.get("steps", {}).items():
            failed = found.get("error")
            rows.append([name, failed or "a step, ms", found.get("ms"), found.get("minutes")])
        for name, found in result.get("runs", {}).items():
            rows.append([f"{name}, quick run", found.get("error") or found.get("not_measured") or "s"])
            rows[-1] += [found.get("seconds"), None]
    return table(["", "", "", "minutes of the paper's epochs"], rows) if rows else ""


def steps_table(steps: dict[str, Result]) -> str:
    return table(
        ["", "", "s"],
        [[name, outcome(result), result.get("seconds")] for name, result in steps.items()],
    )


def outcome(result: Result) -> str:
    if "not_measured" in result:
        return f"not measured: {result['not_measured']}"
    if "error" in result:
        return f"FAILED: {result['error'][:150]}"
    last = (result.get("output", "").splitlines() or [""])[-1]
    if " skipped" in last and " passed" not in last:  # of tests
        return f"not measured: {last}"
    return "ok" + (f": {last[:100]}" if last and "cases" not in result else "")
