"""What only a GPU has: streams, graphs, devices, and sizes that would take the emulator days."""

import math
from functools import partial

import pytest
import torch

import pykernels
from pykernels import _launch
from tests.cases import mixture_inputs
from tests.pykernels.test_mmd import samples

pytestmark = pytest.mark.gpu


def mixture(rows=300, components=400, dims=10, dtype=torch.float32, **options):
    return mixture_inputs(rows, components, dims, dtype=dtype, **options).tensors()


def points(**options):
    return mmd_samples(700, 600, 5)


def minibatch(z, loc, scale, log_weights):
    return pykernels.minibatch_log_prob(z, loc, scale, 1000, "mss")


OPS = {
    "joint": (pykernels.gaussian_mixture_log_prob, mixture),
    "joint, many dimensions": (pykernels.gaussian_mixture_log_prob, partial(mixture, dims=40)),
    "joint, few rows": (pykernels.gaussian_mixture_log_prob, partial(mixture, rows=3, dims=2)),
    "marginals": (pykernels.gaussian_mixture_marginal_log_prob, mixture),
    "both, shared": (
        pykernels.gaussian_mixture_joint_and_marginal_log_prob,
        partial(mixture, value_batch=(3,), scale_shape=()),
    ),
    "minibatch": (minibatch, partial(mixture, rows=90, components=90, weights_shape=())),
    "responsibilities": (pykernels.responsibility_statistics, mixture),
    "direct": (partial(pykernels.cauchy_mmd, method="direct"), points),
    "panels": (partial(pykernels.cauchy_mmd, method="panels"), points),
    "MMD of vectors": (pykernels.mmd, points),
}
"""Function and what makes its inputs, of a seed if it takes one."""


def results_and_gradients(op, inputs):
    """Those of some combination of the results; of an input without any, zeros."""
    results = op(*inputs)
    results = [results] if isinstance(results, torch.Tensor) else list(results)
    loss = sum(result.sin().sum() for result in results)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    return [*results, *gradients]


@pytest.fixture(params=OPS)
def op_and_inputs(request, gpu):
    op, make = OPS[request.param]
    return op, make, make()


def test_work_goes_to_the_current_stream(op_and_inputs):
    op, _, inputs = op_and_inputs
    expected = results_and_gradients(op, inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        busy = torch.randn(4096, 4096)
        # Ready only on this stream, after some milliseconds.
        late = [(t.detach() * (1 + 0 * (busy @ busy).sum())).requires_grad_() for t in inputs]
        results = results_and_gradients(op, late)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(results, expected, rtol=0, atol=0)


def test_a_graph_captures_values_and_gradients(op_and_inputs):
    op, make, inputs = op_and_inputs
    results_and_gradients(op, inputs)  # a capture must not meet first-call set-up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results_and_gradients(op, inputs)
    # Of points other dimensions reach far now.
    fresh = [t.detach().roll(1, -1) if t.dim() else t.detach() for t in make(seed=7)]
    fresh = [t.requires_grad_() for t in fresh]
    with torch.no_grad():
        for static, new in zip(inputs, fresh, strict=True):
            static.copy_(new)
    for _ in range(2):
        graph.replay()
        torch.testing.assert_close(captured, results_and_gradients(op, fresh), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_for_the_device(op_and_inputs):
    op, _, inputs = op_and_inputs
    previous = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results_and_gradients(op, inputs)
    finally:
        torch.cuda.set_sync_debug_mode(previous)


def test_a_repeat_gives_the_same_bits(op_and_inputs):
    op, _, inputs = op_and_inputs
    first, second = (results_and_gradients(op, inputs) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_device_that_is_not_the_current_one(op_and_inputs, gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU only")
    op, _, inputs = op_and_inputs
    other = [t.detach().to("cuda:1").requires_grad_() for t in inputs]
    results = results_and_gradients(op, other)
    assert torch.cuda.current_device() == gpu.index and all(t.device.index == 1 for t in results)
    torch.testing.assert_close(
        [t.to(gpu) for t in results], results_and_gradients(op, inputs), rtol=0, atol=0
    )


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_inputs_compute_in_float32(op_and_inputs, half):
    op, _, inputs = op_and_inputs
    rounded = [t.detach().clamp(-1e3, 1e3).to(half) for t in inputs]
    found = results_and_gradients(op, [t.clone().requires_grad_() for t in rounded])
    expected = results_and_gradients(op, [t.float().requires_grad_() for t in rounded])
    results, gradients = found[: -len(inputs)], found[-len(inputs) :]
    torch.testing.assert_close(results, expected[: -len(inputs)], rtol=0, atol=0)
    assert all(gradient.dtype == half for gradient in gradients)
    wanted = [gradient.to(half) for gradient in expected[-len(inputs) :]]
    torch.testing.assert_close(gradients, wanted, rtol=0, atol=0)


@pytest.mark.parametrize(("rows", "components", "dims"), [(70_000, 70_000, 2), (1 << 20, 4096, 20)])
def test_more_pairs_than_32_bits_count(gpu, rows, components, dims):
    value, loc = torch.randn(rows, dims), torch.randn(components, dims)
    scale = 0.5 + torch.rand(components, dims)
    some = torch.tensor([0, rows // 2, rows - 1])
    inputs = [t.requires_grad_() for t in (value, loc, scale)]
    joint, marginal = pykernels.gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    gradients = torch.autograd.grad(joint[some].sum() + marginal[some].sum(), inputs)
    with _launch.use_variant(_launch.REFERENCE):
        exact = [t.detach().double().cpu().requires_grad_() for t in (value[some], loc, scale)]
        expected = pykernels.gaussian_mixture_joint_and_marginal_log_prob(*exact)
        wanted = torch.autograd.grad(sum(t.sum() for t in expected), exact)
    for result, exact_result in zip((joint, marginal), expected):
        torch.testing.assert_close(result[some].double().cpu(), exact_result, rtol=1e-5, atol=1e-5)
    for actual, slope in zip((gradients[0][some], *gradients[1:]), wanted):
        assert (actual.double().cpu() - slope).abs().max() <= 1e-4 * slope.abs().max()


def test_more_pairs_of_a_minibatch_than_32_bits_count(gpu):
    size = 50_000
    z, loc, scale = torch.randn(size, 2), torch.randn(size, 2), 0.5 + torch.rand(size, 2)
    joint, _ = pykernels.minibatch_log_prob(z, loc, scale, 10 * size, "hfvae")
    some = [0, size // 2, size - 1]
    log_prob = (
        torch.distributions.Normal(loc.double(), scale.double())
        .log_prob(z[some].double().unsqueeze(1))
        .sum(2)
    )
    others = (10 * size - 1) / (10 * size * (size - 1))
    weights = torch.full((3, size), math.log(others), dtype=torch.float64)
    weights[[0, 1, 2], some] = -math.log(10 * size)
    torch.testing.assert_close(joint[some].double(), (log_prob + weights).logsumexp(1), rtol=1e-5, atol=1e-5)


def test_more_numbers_than_32_bits_count(gpu):
    """Of the marginals, of which all batch elements are alike: one in memory."""
    value = torch.randn(1 << 20, 40).expand(52, -1, -1)
    loc, scale = torch.randn(2, 40), 0.5 + torch.rand(2, 40)
    result = pykernels.gaussian_mixture_marginal_log_prob(value, loc, scale)
    assert result.numel() > 1 << 31
    assert result[0].equal(result[-1]) and result[0].equal(result[26])


def mmd_and_slopes(x, y, method="panels"):
    value = pykernels.cauchy_mmd(x, y, method=method)
    return [value, *torch.autograd.grad(value, (x, y))]


def mmd_samples(n, m, dims):
    """One dimension reaches too far for panels."""
    points = [t.cuda() for t in samples(n, m, dims, torch.float32)]
    for t in points:
        t[:, 0] *= 1e6
    return [t.requires_grad_() for t in points]


@pytest.mark.parametrize("method", ["direct", "panels"])
@pytest.mark.parametrize("dims", [1, 50])
def test_a_large_mmd(gpu, method, dims):
    x, y = (t.cuda().requires_grad_() for t in samples(60_000, 50_000, dims, torch.float32))
    value, *slopes = mmd_and_slopes(x, y, method)
    with _launch.use_variant(_launch.REFERENCE):
        exact = [t.detach().cpu().double().requires_grad_() for t in (x, y)]
        expected = mmd_and_slopes(*exact)
    assert value.item() == pytest.approx(
        expected[0].item(), abs=1e-6 * (expected[0].item() + dims * 6 / 50_000)
    )
    for actual, wanted in zip(slopes, expected[1:]):
        assert (actual.cpu() - wanted).abs().max() <= 4e-6 * wanted.abs().max()


def test_an_mmd_of_more_numbers_than_32_bits_count(gpu):
    x = torch.randn(1 << 16, 1 << 15).expand(2, -1, -1)  # one sample in memory
    value = pykernels.cauchy_mmd(x, x[..., :3, :], unbiased=False)
    assert value[0] == value[1]
    parts = [slice(first, first + 4096) for first in range(0, 1 << 15, 4096)]
    total = sum(pykernels.cauchy_mmd(x[0, :, d], x[0, :3, d], unbiased=False).item() for d in parts)
    assert value[0].item() == pytest.approx(total, rel=1e-5)
