"""The command line that benchmarks share: named jobs, each in a process of its own, and a report of them."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pykernels import _launch

from . import harness, output

Report = dict[str, Any]
Jobs = dict[str, tuple[str, Callable[[], Any]]]
"""Name -> environment, usually an allocator, and function, whose result is JSON."""


def main(
    name: str,
    doc: str | None,
    jobs: Callable[[bool], Jobs],
    show: Callable[[Report], str],
    *,
    quick: str,
    limit_s: float,
    environments: Mapping[str, Mapping[str, str]] = harness.ALLOCATORS,
    begin: Callable[[], Report] = dict,
    add_ratios: Callable[[Report], None] | None = None,
) -> int:
    """Runs `benchmarks.<name>`: `jobs` of whether it is --quick. The report begins with what `begin` returns and is
    written after every job; --compare is there where `add_ratios` gives the report its "ratios"."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    if add_ratios:
        text = "fail if a ratio dropped by a quarter since this file"
        parser.add_argument("--compare", type=Path, help=text)
    parser.add_argument("--job", help="run this one only, in this process")
    options = parser.parse_args()
    if _launch.variants() == [_launch.REFERENCE]:
        parser.error("the compiled kernels are not here: pip install -e .[bench]")
    torch.manual_seed(0)
    if options.job:
        _, job = jobs(options.quick)[options.job]
        output.write_json(options.out, job())
        return 0
    report: Report = {"quick": options.quick, "environment": harness.environment(), "jobs": {}, **begin()}
    for job, (environment, _) in jobs(options.quick).items():
        start = time.perf_counter()
        arguments = ["--job", job, *(["--quick"] if options.quick else [])]
        variables = environments[environment]
        report["jobs"][job] = harness.run_module(f"benchmarks.{name}", arguments, limit_s, variables)
        print(f"{time.perf_counter() - start:6.1f} s  {job}", file=sys.stderr)
        if options.out:
            output.write_json(options.out, report)
    if add_ratios:
        add_ratios(report)
    print(show(report))
    if options.out:
        output.write_json(options.out, report)
    failed = any("error" in result for result in report["jobs"].values())
    dropped = harness.compare(report, options.compare) if add_ratios and options.compare else 0
    return 1 if failed or dropped else 0
