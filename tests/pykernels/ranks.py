"""Calls over 1 to 4 ranks beside those of one process: as a script, prints how they compare, in JSON.

Ranks are forked from one process that has imported everything; none of them has more than one thread.
"""

import json
import math
import os
import sys
import tempfile
import traceback
from functools import partial

import torch
import torch.distributed as dist
from torch.distributions import Independent, MultivariateNormal, Normal

import pykernels
from pykernels import distributed, streaming

POINTS, COMPONENTS, OTHERS, DIMS = 17, 41, 23, 3
SHARES = {
    1: ((17,), (41,), (23,)),
    2: ((17, 0), (30, 11), (0, 23)),
    3: ((0, 10, 7), (20, 0, 21), (1, 0, 22)),
    4: ((5, 2, 0, 10), (1, 0, 20, 20), (1, 0, 20, 2)),
}
"""Of z, of the encodings and x, and of y."""
GROUPED = {"z": 0, "index": 0, "index_of_point": 0, "y": 2, "y_weights": 2}
GROUPED |= dict.fromkeys(("loc", "scale", "log_weights", "x_weights", "index_of_encoding"), 1)


def everything():
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    uniform = partial(torch.rand, generator=generator, dtype=torch.float64)
    return {
        "z": normal(POINTS, DIMS),
        "loc": normal(COMPONENTS, DIMS),
        "scale": 0.3 + uniform(COMPONENTS, DIMS),
        "log_weights": normal(COMPONENTS),
        "y": normal(OTHERS, DIMS),
        "x_weights": uniform(COMPONENTS),
        "y_weights": uniform(OTHERS),
        "shift": normal(DIMS),
        "scales": 0.2 + uniform(4),
        "index": torch.randint(COMPONENTS, (POINTS,), generator=generator),
        "shared": normal(5, DIMS),
        "index_of_point": torch.arange(POINTS),
        "index_of_encoding": torch.arange(COMPONENTS),
    }


def weighed(total, rows):
    """A number that every entry of every row changes differently."""
    rows = torch.stack(rows, -1) if isinstance(rows, tuple) else rows
    rows = rows if rows.dim() == 2 else rows.unsqueeze(1)
    return total((rows.square() * torch.linspace(-1, 2, rows.shape[1], dtype=rows.dtype)).sum(1))


def prior(a):
    return Independent(Normal(a["shift"], torch.ones_like(a["shift"])), 1)


def correlated(a):
    return MultivariateNormal(a["shift"], torch.eye(DIMS, dtype=torch.float64) + 0.5)


def drawn(api, a):
    torch.manual_seed(3)
    return api.inclusive_kl(prior(a), a["loc"], a["scale"], num_samples=9)


def far(api, a, total):
    """A point where no encoding has density, one where only the first two have, and encodings that are absent."""
    z = torch.where((a["index_of_point"] == 2)[:, None], 1e200, a["z"])
    loc = torch.where((a["index_of_encoding"] < 2)[:, None], 1e160 + a["loc"], a["loc"])
    z = torch.where((a["index_of_point"] == 3)[:, None], 1e160 + z, z)
    weights = a["log_weights"].masked_fill(a["index_of_encoding"] % 3 == 2, -math.inf)
    loc = torch.where(weights.isinf()[:, None], math.nan, loc)
    found = api.responsibility_statistics(z, loc, a["scale"], weights)
    return weighed(total, tuple(t.masked_fill(found.log_prob.isinf(), 0) for t in found))


def same_points(api, a, total):
    options = {"same_points": True} if api is distributed else {}
    joint, marginal = api.gaussian_mixture_joint_and_marginal_log_prob(
        a["shared"], a["loc"], a["scale"], a["log_weights"], **options
    )
    return weighed(torch.sum, joint) + weighed(torch.sum, marginal)


def minibatch(api, a, scale, estimator):
    mean = distributed.mean if api is distributed else partial(torch.mean, dim=0)
    found = api.minibatch_log_prob(a["loc"] + 1, a["loc"], scale, 99, estimator)
    return sum(weighed(mean, d) for d in found)


def undefined(api, a, total):
    """A dimension with an infinite point: no number, and no slope there."""
    x = torch.cat(
        [a["loc"], torch.where((a["index_of_encoding"] == 40)[:, None], math.inf, a["loc"])[:, :1]], 1
    )
    y = torch.cat([a["y"], a["y"][:, :1]], 1)
    value = api.cauchy_mmd(x, y, method="panels")
    assert value.isnan()
    return api.cauchy_mmd(x[:, 1:3], y[:, 1:3], method="panels")


def streamed(api, a, total):
    """Each rank's encodings come in blocks."""
    z, mixture = a["shared"], (a["loc"], a["scale"])
    if api is pykernels:
        return weighed(torch.sum, api.gaussian_mixture_log_prob(z, *mixture))
    blocks = list(zip(*(t.split(8) for t in mixture)))
    own = streaming.gaussian_mixture_log_prob(z, blocks, num_components=COMPONENTS)
    return weighed(torch.sum, api.logsumexp(own))


CASES = {
    "log_prob": lambda api, a, total: weighed(
        total, api.gaussian_mixture_log_prob(a["z"], a["loc"], a["scale"])
    ),
    "log_prob, weighted": lambda api, a, total: weighed(
        total, api.gaussian_mixture_log_prob(a["z"], a["loc"], a["scale"], a["log_weights"])
    ),
    "marginal_log_prob": lambda api, a, total: weighed(
        total, api.gaussian_mixture_marginal_log_prob(a["z"], a["loc"], a["scale"])
    ),
    "joint_and_marginal_log_prob": lambda api, a, total: sum(
        weighed(total, d)
        for d in api.gaussian_mixture_joint_and_marginal_log_prob(a["z"], a["loc"], a["scale"])
    ),
    "responsibility_statistics": lambda api, a, total: weighed(
        total, api.responsibility_statistics(a["z"], a["loc"], a["scale"], a["log_weights"])
    ),
    "far points and absent encodings": far,
    "the same points everywhere": same_points,
    "streamed": streamed,
    "inclusive_kl": lambda api, a, total: api.inclusive_kl(prior(a), a["loc"], a["scale"], samples=a["z"]),
    "inclusive_kl by point": lambda api, a, total: weighed(
        total, api.inclusive_kl(prior(a), a["loc"], a["scale"], samples=a["z"], reduction="none")
    ),
    "inclusive_kl, drawn": lambda api, a, total: drawn(api, a),
    "aggregate_entropy": lambda api, a, total: api.aggregate_entropy(a["z"], a["loc"], a["scale"]),
    "exclusive_kl": lambda api, a, total: api.exclusive_kl(a["z"], a["loc"], a["scale"], prior(a)),
    "exclusive_kl by point": lambda api, a, total: weighed(
        total, api.exclusive_kl(a["z"], a["loc"], a["scale"], prior(a), reduction="none")
    ),
    "kl_decomposition": lambda api, a, total: sum(
        factor * term
        for factor, term in enumerate(
            api.kl_decomposition(a["z"], a["loc"], a["scale"], prior(a), index=a["index"]), 1
        )
    ),
    "kl_decomposition of own draws": lambda api, a, total: sum(
        factor * term
        for factor, term in enumerate(
            api.kl_decomposition(a["loc"] + 1, a["loc"], a["scale"], correlated(a)), 1
        )
    ),
    "minibatch_log_prob": lambda api, a, total: minibatch(api, a, a["scale"], "hfvae"),
    "minibatch_log_prob, mss": lambda api, a, total: minibatch(api, a, a["scales"][:DIMS], "mss"),
    "aggregate_entropy of a minibatch": lambda api, a, total: api.aggregate_entropy(
        a["loc"] + 1, a["loc"], a["scale"], estimator="mws", dataset_size=99
    ),
    "exclusive_kl of a minibatch": lambda api, a, total: api.exclusive_kl(
        a["loc"] + 1, a["loc"], a["scale"], correlated(a), estimator="batch", dataset_size=99
    ),
    "kl_decomposition of a minibatch": lambda api, a, total: sum(
        factor * term
        for factor, term in enumerate(
            api.kl_decomposition(
                a["loc"] + 1, a["loc"], a["scale"], prior(a), estimator="hfvae", dataset_size=99
            ),
            1,
        )
    ),
    "cauchy_mmd": lambda api, a, total: api.cauchy_mmd(a["loc"], a["y"], (0.5, 1.0), method="panels"),
    "cauchy_mmd, given weights": lambda api, a, total: api.cauchy_mmd(
        a["loc"], a["y"], y_weights=a["y_weights"].detach(), unbiased=False, method="panels"
    ),
    "cauchy_mmd by scales": lambda api, a, total: api.cauchy_mmd(
        a["loc"], a["y"], a["scales"], method="panels"
    ),
    "cauchy_mmd, partly undefined": undefined,
    "cauchy_mmd, weighted": lambda api, a, total: api.cauchy_mmd(
        a["loc"],
        a["y"],
        a["scales"],
        x_weights=a["x_weights"],
        y_weights=a["y_weights"],
        method="panels",
    ),
    "cauchy_mmd, biased": lambda api, a, total: api.cauchy_mmd(
        a["loc"], a["y"], a["scales"], unbiased=False, x_weights=a["x_weights"], method="panels"
    ),
    "cauchy_mmd of all pairs": lambda api, a, total: api.cauchy_mmd(
        a["loc"], a["y"], a["scales"], y_weights=a["y_weights"], method="direct"
    ),
    "cauchy_mmd that reaches far": lambda api, a, total: api.cauchy_mmd(1e4 * a["loc"], a["y"], a["scales"]),
    "mmd": lambda api, a, total: api.mmd(a["loc"], a["y"], scales=a["scales"]),
    "mmd, gaussian and biased": lambda api, a, total: api.mmd(a["loc"], a["y"], "gaussian", unbiased=False),
}


def compared(function, rank, size):
    """The largest error, of 1 + |reference|, between ranks and one process, value and gradients, and the bytes sent
    each way."""
    whole = everything()
    alone = {k: t.clone().requires_grad_(t.is_floating_point()) for k, t in whole.items()}
    mine = {
        k: (t.split(SHARES[size][GROUPED[k]])[rank] if k in GROUPED else t)
        .clone()
        .requires_grad_(t.is_floating_point())
        for k, t in whole.items()
    }
    expected = function(pykernels, alone, torch.sum)
    expected.backward()
    with Counted() as forward:
        value = function(distributed, mine, lambda rows: distributed.mean(rows) * POINTS)
    with Counted() as backward:
        value.backward()
    differences = [error(value.detach(), expected.detach())]
    for name, tensor in alone.items():
        own = mine[name].grad
        if tensor.grad is None:
            assert own is None, name
            continue
        own = torch.zeros_like(mine[name]) if own is None else own.clone()
        if name in GROUPED:
            expected = tensor.grad.split(SHARES[size][GROUPED[name]])[rank]
        else:
            expected = tensor.grad
            dist.all_reduce(own)
        differences.append(error(own, expected))
    worst = torch.cat([d.reshape(-1) for d in differences]).max()
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return worst.item(), forward.bytes, backward.bytes


def data_parallel(rank, size):
    """The largest error of the gradients that DistributedDataParallel leaves in a network."""
    torch.manual_seed(1)
    network = torch.nn.Linear(4, 2 * DIMS).double()
    data = torch.randn(COMPONENTS, 4, dtype=torch.float64)
    standard = _standard(DIMS, torch.float64)

    def loss(network, data, api, mean):
        loc, scale = network(data).chunk(2, 1)
        z = loc + scale.exp()
        return mean(z.square().sum(1)) + 3 * api.exclusive_kl(z, loc, scale.exp(), standard)

    loss(network, data, pykernels, torch.mean).backward()
    expected = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    own = data.split(SHARES[size][1])[rank]
    wrapped = torch.nn.parallel.DistributedDataParallel(network)
    (size * loss(wrapped, own, distributed, distributed.mean)).backward()
    pairs = zip(network.parameters(), expected)
    return max(error(p.grad, gradient).max().item() for p, gradient in pairs)


def refused(rank, size):
    """What the ranks say where the last one's scale is negative, where D differs, and at a second derivative."""
    scale = torch.tensor(-1.0 if rank == size - 1 else 1.0)
    calls = (
        lambda: distributed.gaussian_mixture_log_prob(torch.ones(2, 2), torch.ones(3, 2), scale),
        lambda: distributed.cauchy_mmd(torch.ones(2, 2 + rank), torch.ones(3, 2 + rank)),
        lambda: distributed.cauchy_mmd(torch.ones(int(rank == 0), 2), torch.ones(3, 2)),
        lambda: distributed.mmd(torch.ones(0, 2), torch.ones(3, 2)),
        lambda: distributed.exclusive_kl(*(torch.ones(0, 2),) * 3, _standard(2)),
        lambda: distributed.kl_decomposition(
            *(torch.ones(2, 2),) * 3, _standard(2), index=torch.tensor([0, 99])
        ),
        lambda: distributed.exclusive_kl(*(torch.ones(2, 2),) * 3, _standard(2), dataset_size=99),
        lambda: distributed.minibatch_log_prob(
            torch.ones(1, 2), torch.ones(2, 2), torch.tensor(1.0), 99, "mws"
        ),
        lambda: _second_derivative(lambda loc: distributed.aggregate_entropy(loc, loc, torch.tensor(1.0))),
        lambda: _second_derivative(lambda x: distributed.cauchy_mmd(x, x + 1, method="panels")),
    )
    said = []
    for call in calls:
        try:
            said.append(repr(call()))
        except (ValueError, NotImplementedError) as found:
            said.append(str(found))
    everyone = [None] * size
    dist.all_gather_object(everyone, said)
    return everyone


def _standard(dims, dtype=torch.float32):
    return Independent(Normal(torch.zeros(dims, dtype=dtype), torch.ones(dims, dtype=dtype)), 1)


def _second_derivative(function):
    x = torch.ones(2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    gradient.sum().backward()


def error(actual, expected):
    return (actual - expected).abs() / (1 + expected.abs())


class Counted:
    """How many bytes the collectives within are given."""

    def __enter__(self):
        self.bytes, self.real = 0, dist.all_reduce
        dist.all_reduce = self.counted
        return self

    def __exit__(self, *exception):
        dist.all_reduce = self.real

    def counted(self, tensor, *arguments, **options):
        self.bytes += tensor.nbytes
        return self.real(tensor, *arguments, **options)


def main(results):
    for size in SHARES:
        ranks = []
        with tempfile.TemporaryDirectory() as folder:
            for rank in range(size):
                if (child := os.fork()) == 0:
                    of_rank(rank, size, f"{folder}/meeting", results)
                ranks.append(child)
            statuses = [os.waitpid(child, 0)[1] for child in ranks]
        if any(statuses):
            sys.exit(f"of {size} ranks some failed: {statuses}")


def of_rank(rank, size, meeting, results):
    status = 1
    try:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
        found = {name: compared(case, rank, size) for name, case in CASES.items()}
        found["data_parallel"] = data_parallel(rank, size), 0, 0
        said = refused(rank, size) if size > 1 else []
        if rank == 0:
            with open(results, "a") as file:
                print(json.dumps({"size": size, "found": found, "refused": said}), file=file)
        dist.barrier()
        dist.destroy_process_group()
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
