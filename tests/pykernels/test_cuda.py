"""What only a GPU has: streams, graphs, devices, and sizes that would take the emulator days."""

import pytest
import torch

import pykernels
from pykernels import _launch
from tests.cases import mixture_inputs

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
