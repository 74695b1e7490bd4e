"""One to four ranks have the value and the gradients of one process, and send what is stated."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Independent, Normal

import pykernels
from pykernels import _launch, distributed
from tests import needs
from tests.pykernels import ranks
from tests.pykernels.ranks import CASES, COMPONENTS, DIMS, OTHERS, POINTS, SHARES

pytestmark = needs.gloo
POINT, MEAN = DIMS + 1, 2  # numbers for a point and one for it; a sum with its count
NODES = 24 * 16  # panels that hold these points, and the nodes of each
PANELS = 3 * DIMS + 2 * DIMS * NODES
SENT = {
    "log_prob": (POINTS * (DIMS + 2) + MEAN, POINTS * POINT),
    "marginal_log_prob": (POINTS * 3 * DIMS + MEAN, POINTS * 2 * DIMS),
    "joint_and_marginal_log_prob": (POINTS * (3 * DIMS + 2) + 2 * MEAN, POINTS * (2 * DIMS + 1)),
    "responsibility_statistics": (POINTS * (DIMS + 4) + MEAN, POINTS * (DIMS + 3)),
    "the same points everywhere": (5 * 2 * (DIMS + 1), 0),
    "inclusive_kl": (POINTS * (DIMS + 2) + MEAN, POINTS * POINT),
    "exclusive_kl": (POINTS * (DIMS + 2) + MEAN, POINTS * POINT),
    "kl_decomposition": (POINTS * (3 * DIMS + 4) + 5, POINTS * (2 * DIMS + 2)),
    "kl_decomposition of own draws": (COMPONENTS * (3 * DIMS + 2) + 5, COMPONENTS * (2 * DIMS + 1)),
    "minibatch_log_prob": (COMPONENTS * 3 * DIMS + 2 * MEAN, COMPONENTS * POINT),
    "exclusive_kl of a minibatch": (COMPONENTS * 3 * DIMS + MEAN, COMPONENTS * POINT),
    "streamed": (5 * 2, 0),
    "cauchy_mmd": (PANELS, 0),
    "cauchy_mmd by scales": (PANELS, 0),
    "cauchy_mmd, weighted": (PANELS + 4, 2),
    "mmd": ((COMPONENTS + OTHERS) * DIMS + 1, (COMPONENTS + OTHERS) * DIMS),
}
"""Numbers, forward and backward, beside two to four counts for each rank: the table in docs/scale.md."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each number of ranks found."""
    results = tmp_path_factory.mktemp("ranks") / "results"
    command = [sys.executable, "-W", "error", ranks.__file__, results]
    subprocess.run(command, check=True, timeout=600)
    rows = map(json.loads, Path(results).read_text().splitlines())
    return {row["size"]: row for row in rows}


@pytest.mark.parametrize("size", SHARES)
@pytest.mark.parametrize("case", [*CASES, "data_parallel"])
def test_values_and_gradients_are_those_of_one_process(found, size, case):
    error, _, _ = found[size]["found"][case]
    assert error <= 1e-12


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("case", SENT)
def test_what_is_sent(found, size, case):
    forward, backward = SENT[case]
    kinds = {"streamed": 0, "minibatch": 2, "mmd": 4}
    counts = next((count for kind, count in kinds.items() if kind in case), 3) * size
    assert found[size]["found"][case][1:] == [8 * (forward + counts), 8 * backward]


@pytest.mark.parametrize("size", [2, 3])
def test_what_one_rank_refuses_raises_on_all(found, size):
    every = found[size]["refused"]
    assert "scale must be positive" in every[-1][0]
    assert all(said[0].startswith(f"rank {size - 1} refused its arguments") for said in every[:-1])
    expected = (
        "the number of dimensions D must be the same on all ranks, but is [2, 3",
        "x must hold at least 2 point(s), on all ranks together, but holds 1",
        "x must hold at least 2 point(s), on all ranks together, but holds 0",
        "loc must hold at least one component on some rank",
        f"index must be at least 0 and below {2 * size}",
        f"dataset_size must be the number of encodings {2 * size} where the estimator is 'exact'",
        "z must have a row for each of loc's",
        "what is computed from shards or from blocks can be differentiated once",
        "what is computed from shards or from blocks can be differentiated once",
    )
    for said in every:
        assert all(found.startswith(start) for found, start in zip(said[1:], expected, strict=True))


def shared_call(reach, add_up):
    x = torch.linspace(0, reach, 10, dtype=torch.float64)[:, None]
    scales = torch.ones(1, dtype=torch.float64)
    share = [0.0, float(reach)], [10.0, 10.0], [0.0, 0.0], add_up
    return _launch.cauchy_mmd(x, x + 0, None, None, scales, True, "panels", 1e-7, [False] * 5, share)


@needs.kernels
def test_what_goes_wrong_while_ranks_add_up_is_raised():
    def broken(address, count):
        raise ConnectionError("rank 1 is gone")

    with pytest.raises(ConnectionError, match="rank 1 is gone"):
        shared_call(1, broken)
    with pytest.raises(RuntimeError, match="reach over too many panels"):
        shared_call(1e6, lambda address, count: None)


def test_without_a_process_group_there_is_one_process():
    z, loc, scale = torch.randn(3, 5, 2).unbind()
    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    inputs = z, loc, scale.abs(), prior
    assert distributed.exclusive_kl(*inputs).equal(pykernels.exclusive_kl(*inputs))
    assert distributed.cauchy_mmd(z, loc).equal(pykernels.cauchy_mmd(z, loc))
    assert distributed.mean(z).equal(z.mean(0)) and distributed.logsumexp(z) is z
