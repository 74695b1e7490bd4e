"""What only a GPU has: streams, graphs, devices, and sizes that would take the emulator days."""

import pytest
import torch

import pykernels
from pykernels import _launch
from tests.cases import mixture_inputs
from tests.pykernels.test_mmd import samples

pytestmark = pytest.mark.gpu


def density_and_gradients(inputs):
    """Without a copy from the CPU, which would wait, and which a graph cannot hold."""
    joint, marginal = pykernels.gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    loss = joint.sin().sum() + marginal.cos().sum()
    return [joint, marginal, *torch.autograd.grad(loss, inputs.tensors())]


def test_work_goes_to_the_current_stream(gpu):
    inputs = mixture_inputs(300, 400, 10, dtype=torch.float32)
    expected = density_and_gradients(inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        busy = torch.randn(4096, 4096)
        late = [t.detach() * (1 + 0 * (busy @ busy).sum()) for t in inputs]  # ready only on this stream
        late = type(inputs)(*(t.requires_grad_() for t in late))
        results = density_and_gradients(late)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(results, expected, rtol=0, atol=0)


def test_a_graph_captures_forward_and_backward(gpu):
    inputs = mixture_inputs(100, 300, 4, dtype=torch.float32)
    density_and_gradients(inputs)  # a capture must not meet first-call set-up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = density_and_gradients(inputs)
    fresh = mixture_inputs(100, 300, 4, dtype=torch.float32, seed=7)
    with torch.no_grad():
        for static, new in zip(inputs, fresh):
            static.copy_(new)
    graph.replay()
    torch.testing.assert_close(captured, density_and_gradients(fresh), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_for_the_device(gpu):
    inputs = mixture_inputs(50, 60, 3, dtype=torch.float32)
    previous = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        density_and_gradients(inputs)
    finally:
        torch.cuda.set_sync_debug_mode(previous)


def test_a_device_that_is_not_the_current_one(gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU only")
    inputs = mixture_inputs(30, 40, 5)
    other = type(inputs)(*(t.detach().to("cuda:1").requires_grad_() for t in inputs))
    results = density_and_gradients(other)
    assert all(t.device.index == 1 for t in results)
    torch.testing.assert_close([t.to(gpu) for t in results], density_and_gradients(inputs), rtol=0, atol=0)


@pytest.mark.parametrize(("rows", "components", "dims"), [(70_000, 70_000, 2), (1 << 20, 4096, 20)])
def test_more_pairs_than_32_bits_count(gpu, rows, components, dims):
    value, loc = torch.randn(rows, dims), torch.randn(components, dims)
    scale = 0.5 + torch.rand(components, dims)
    result = pykernels.gaussian_mixture_log_prob(value, loc, scale)
    some = torch.tensor([0, rows // 2, rows - 1])
    with _launch.use_variant(_launch.REFERENCE):
        arguments = (t.double().cpu() for t in (value[some], loc, scale))
        expected = pykernels.gaussian_mixture_log_prob(*arguments)
    torch.testing.assert_close(result[some].double().cpu(), expected, rtol=1e-5, atol=1e-5)


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
def test_an_mmd_goes_to_the_current_stream(gpu, method):
    x, y = mmd_samples(3000, 2000, 10)
    expected = mmd_and_slopes(x, y, method)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        busy = torch.randn(4096, 4096)
        late = [(t.detach() * (1 + 0 * (busy @ busy).sum())).requires_grad_() for t in (x, y)]
        results = mmd_and_slopes(*late, method)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(results, expected, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["direct", "panels"])
def test_a_graph_captures_an_mmd_whatever_its_points(gpu, method):
    x, y = mmd_samples(700, 600, 5)
    mmd_and_slopes(x, y, method)  # a capture must not meet first-call set-up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = mmd_and_slopes(x, y, method)
    with torch.no_grad():  # other dimensions reach far now
        for t in (x, y):
            t.copy_(t.roll(1, 1))
    graph.replay()
    torch.testing.assert_close(captured, mmd_and_slopes(x, y, method), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_an_mmd_waits_for_nothing(gpu):
    x, y = mmd_samples(700, 600, 5)
    previous = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        mmd_and_slopes(x, y)
    finally:
        torch.cuda.set_sync_debug_mode(previous)


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
