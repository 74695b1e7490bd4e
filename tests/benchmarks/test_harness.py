import json
import subprocess
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

from benchmarks import baselines, bench_minibatch, harness, output
from benchmarks.problems import equal_scales, half_active, spread_scales
from pykernels import gaussian_mixture_log_prob

ROOT = Path(__file__).resolve().parents[2]


def times(**minima):
    return {name: {"min": least, "median": 2 * least, "max": 3 * least} for name, least in minima.items()}


def test_ratios_are_of_the_least_times_and_leave_ours_out():
    assert harness.ratios(times(ours=2.0, dense=30.0, keops=1.0), "ours") == {"dense": 15.0, "keops": 0.5}


@pytest.mark.parametrize(
    ("new", "dropped"), [(100.0, False), (75.1, False), (75.0, True), (10.0, True), (float("nan"), True)]
)
def test_a_drop_by_a_quarter_is_a_regression(new, dropped):
    found = harness.regressions({"dense": 100.0}, {"dense": new})
    assert bool(found) == dropped
    assert all(line.startswith("dense: 100 before") for line in found)


def test_only_what_both_runs_have_is_compared():
    assert harness.regressions({"dense": 100.0, "keops": 5.0}, {"dense": 100.0, "chunked": 1.0}) == []


def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results" / "result.json"
    output.write_json(path, {"ratio": 1.5})
    with pytest.raises(TypeError):
        output.write_json(path, {"ratio": 2.5, "unwritable": object()})
    assert json.loads(path.read_text()) == {"ratio": 1.5}
    output.write_json(path, {"ratio": 3.5})
    assert json.loads(path.read_text()) == {"ratio": 3.5}
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_contenders_take_turns():
    turns, clock = [], count(1)

    def tick(call):
        call()
        return next(clock) / 10

    timed = {name: lambda name=name: turns.append(name) for name in "ab"}
    result, noise = harness.interleave(timed, rounds=2, seconds=60, clock=tick)
    assert turns[:4] == ["a", "a", "b", "b"]  # once to warm up, once to choose the number of repeats
    assert (
        "".join(turns[4:]) == "aabb" * noise["rounds"]
    )  # two calls a round, for the first finds cold caches
    assert 2 <= noise["rounds"] <= 4
    assert all(result[name]["min"] <= result[name]["median"] <= result[name]["max"] for name in "ab")


@pytest.mark.parametrize(
    "formulation",
    [baselines.dense, baselines.chunked(30), baselines.matrix_product(20), gaussian_mixture_log_prob],
    ids=["dense", "chunked", "matrix product", "ours"],
)
@pytest.mark.parametrize("make", [spread_scales, partial(equal_scales, scale=0.5), half_active])
def test_every_formulation_passes_the_check(formulation, make):
    problem = make(7, 5, 4)
    harness.check(formulation, problem, harness.oracle(problem))


@pytest.mark.parametrize("estimator", bench_minibatch.ESTIMATORS)
def test_the_published_minibatch_estimates_are_ours(estimator):
    problem = bench_minibatch.encodings(7, 4)
    ours, dense = bench_minibatch.formulations(estimator).values()
    torch.testing.assert_close(ours(*problem), dense(*problem))
    rows = torch.tensor([1, 6])
    some = baselines.dense_minibatch(estimator, bench_minibatch.DATASET_SIZE, rows)
    torch.testing.assert_close(some(*problem), dense(*problem)[rows])


@pytest.mark.parametrize(("factor", "term"), [(1, 1), (2, 0), (float("nan"), 0)])
def test_the_check_refuses_something_else(factor, term):
    problem = spread_scales(7, 5, 4)
    with pytest.raises(ValueError, match="something else"):
        harness.check(
            lambda *inputs: factor * baselines.dense(*inputs) + term, problem, harness.oracle(problem)
        )


def test_a_failing_process_says_why():
    result = harness.run_module("benchmarks.no_such_module", [], 60)
    assert "no_such_module" in result["error"]


def test_a_limit_ends_what_the_command_started(tmp_path):
    late = tmp_path / "late"
    with pytest.raises(subprocess.TimeoutExpired):
        harness.run_limited(["sh", "-c", f"(sleep 1; touch {late}) & wait"], 0.2)
    time.sleep(1.5)
    assert not late.exists()


def test_a_table_is_aligned():
    assert output.table(["a", "b", "ms"], [["x", "long", 1.23456], ["y", "", None]]).splitlines() == [
        "a  b       ms",
        "x  long  1.23",
        "y",
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in ROOT.glob("benchmarks/bench_*.py")))
def test_every_benchmark_starts(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--quick" in done.stdout, done.stderr
