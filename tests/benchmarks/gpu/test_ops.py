"""On the CPU, at sizes of no interest: whether contenders compute the same, and what is left out."""

import pytest
import torch

from benchmarks import harness
from benchmarks.gpu import ops
from benchmarks.gpu.ops import OURS, Case


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setattr(ops, "event_clock", lambda call: (call(), 0.5)[1])
    monkeypatch.setattr(ops, "peak_growth", lambda call: 0)
    monkeypatch.setattr(ops, "ROUNDS", 1)
    monkeypatch.setattr(ops, "SECONDS", 0.01)


@pytest.mark.parametrize(
    "case",
    [
        Case("joint", (40, 6, 10), ("dense", "chunked", "matrix product")),
        Case("marginals", (40, 6, 10), ("dense", "chunked")),
        Case("joint and marginals", (40, 6, 50), ("chunked",)),
        Case("responsibilities", (40, 6, 2), ("dense", "chunked")),
        Case("minibatch", (7, 10), ("dense",)),
        Case("MMD", (30,), ("direct", "dense")),
    ],
    ids=lambda case: case.op,
)
def test_contenders_compute_the_same(case):
    result = ops.measure(case, torch.device("cpu"))
    assert set(result["times_ms"]["both"]) == {OURS, *case.others} and result["not_measured"] == {}
    assert result["same_bits"]
    assert set(result["costs"][OURS]) == {"forward", "both"}
    assert all(max(errors.values()) < harness.SAME for errors in result["errors"].values())


def test_a_contender_that_fails_is_left_out_with_the_reason(monkeypatch):
    def fails(*inputs):
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(ops.baselines, "chunked", lambda *arguments: fails)
    monkeypatch.setattr(harness, "oracle", lambda problem, formulation: oracle(problem))
    problem = ops.spread_scales(5, 3, 2)
    expected = harness.Oracle(*[torch.arange(3), *density(problem)])

    def oracle(problem):
        return expected

    monkeypatch.setattr(ops, "spread_scales", lambda *shape: problem)
    result = ops.measure(Case("joint", (5, 3, 2), ("chunked",)), torch.device("cpu"))
    assert result["not_measured"] == {"chunked": "RuntimeError: out of memory"}
    assert set(result["times_ms"]["forward"]) == {OURS}


def density(problem):
    exact = problem.to(torch.float64).leaves()
    value = ops.baselines.dense(*exact)
    return value.detach(), torch.autograd.grad(value.sum(), exact)


def test_every_case_has_its_contenders():
    for group in ops.GROUPS.values():
        for case in group:
            known = ops.mmd_formulations() if case.op == "MMD" else ops.formulations(case)
            assert {OURS, *case.others} <= set(known)
            assert ops.costs_of(case)[OURS]["both"].slots > 0
            assert ops.title(case).startswith(case.op)
