"""Blocks of encodings give what all of them at once give."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pykernels
from pykernels import streaming
from tests.cases import mixture_inputs

NAMES = (
    "gaussian_mixture_log_prob",
    "gaussian_mixture_marginal_log_prob",
    "gaussian_mixture_joint_and_marginal_log_prob",
)

ONE = torch.tensor(1.0)


def total(densities):
    densities = densities if isinstance(densities, tuple) else (densities,)
    return sum((d * torch.linspace(-1, 2, d.numel(), dtype=d.dtype).view(d.shape)).sum() for d in densities)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [True, False])
def test_values_and_gradients_are_those_of_all_at_once(name, weighted):
    inputs = mixture_inputs(rows=6, components=40, weighted=weighted)
    expected = total(getattr(pykernels, name)(*inputs))
    gradients = torch.autograd.grad(expected, inputs.tensors())
    leaves = [
        [part.detach().requires_grad_() for part in t.split([17, 0, 22, 1])] for t in inputs.tensors()[1:]
    ]
    value = inputs.value.detach().requires_grad_()
    found = total(getattr(streaming, name)(value, list(zip(*leaves))))
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    of_blocks = [
        torch.cat([torch.zeros_like(t) if t.grad is None else t.grad for t in part]) for part in leaves
    ]
    torch.testing.assert_close((value.grad, *of_blocks), gradients, rtol=1e-12, atol=1e-12)


def test_an_encoder_gets_the_gradient_of_all_its_blocks():
    network, data, z = torch.nn.Linear(3, 4).double(), torch.randn(30, 3).double(), torch.randn(5, 2).double()

    class Encoded:
        def __iter__(self):
            return (encoded(batch) for batch in data.split(7))

    def encoded(batch):
        loc, log_scale = network(batch).chunk(2, 1)
        return loc, log_scale.exp()

    pykernels.gaussian_mixture_log_prob(z, *encoded(data)).mean().backward()
    expected = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    streaming.gaussian_mixture_log_prob(z, Encoded()).mean().backward()
    torch.testing.assert_close([p.grad for p in network.parameters()], expected, rtol=1e-12, atol=1e-12)


def test_float32_is_merged_without_loss():
    """A thousand blocks round once."""
    loc, scale, z = torch.randn(1000, 3), torch.tensor(0.5), torch.randn(20, 3)
    found = streaming.gaussian_mixture_log_prob(z, [(row, scale) for row in loc.split(1)])
    expected = pykernels.gaussian_mixture_log_prob(z.double(), loc.double(), scale.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_a_point_where_nothing_has_density_gives_no_gradient():
    z = torch.tensor([[0.0], [1e30]], requires_grad=True)
    loc = torch.zeros(2, 1, requires_grad=True)
    found = streaming.gaussian_mixture_log_prob(z, [(row, torch.tensor(1.0)) for row in loc.split(1)])
    found[1].backward()
    assert found[1] == -torch.inf and not z.grad.any()


@pytest.mark.parametrize(
    ("blocks", "kind", "complaint"),
    [
        (iter([]), TypeError, "blocks must be iterable again and again, but is list_iterator"),
        ([], ValueError, "blocks must hold at least one encoding"),
        ([(torch.zeros(1, 2), ONE), (torch.zeros(1, 2), ONE, ONE)], ValueError, "all blocks must have log-weights"),
        ([(torch.zeros(1, 3), ONE)], ValueError, "same last dimension"),
    ],
)  # fmt: skip
def test_what_is_refused(blocks, kind, complaint):
    with pytest.raises(kind, match=complaint):
        streaming.gaussian_mixture_log_prob(torch.zeros(1, 2), blocks)


def test_blocks_that_change_are_refused():
    z = torch.zeros(1, 2, requires_grad=True)
    blocks = [(torch.zeros(3, 2), ONE)]
    found = streaming.gaussian_mixture_log_prob(z, blocks)
    blocks.append(blocks[0])
    with pytest.raises(ValueError, match="3 encodings at first and 6 in the backward pass"):
        found.backward()


def test_the_second_derivative_is_refused():
    z = torch.ones(1, 2, requires_grad=True)
    found = streaming.gaussian_mixture_log_prob(z, [(torch.zeros(3, 2), ONE)])
    (gradient,) = torch.autograd.grad(found, z, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiated once"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ((torch.zeros(5, 3), torch.ones(5, 3)), "for each block, but gave a Tensor: one block"),
        ({"loc": torch.zeros(5, 3)}, "but gave a str: one block alone is [(loc, scale)]"),
        ([(torch.zeros(5, 3), 1.0)], "but gave (Tensor, float)"),
        ([(torch.zeros(5, 3),)], "but gave (Tensor)"),
        (None, "blocks must be iterable, but is NoneType"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_blocks(blocks, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        streaming.gaussian_mixture_log_prob(torch.zeros(4, 3), blocks)


SCRIPT = """
import resource, sys
import torch
from pykernels import streaming

DIMS, BLOCK = 10, 4096

class Blocks:
    def __init__(self, components):
        self.components = components

    def __iter__(self):
        with open(sys.argv[1], "rb") as file:
            for first in range(0, self.components, BLOCK):
                data = bytearray(file.read(4 * DIMS * min(BLOCK, self.components - first)))
                yield torch.frombuffer(data, dtype=torch.float32).view(-1, DIMS), torch.tensor(0.5)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def step(components):
    value = torch.zeros(2, DIMS, requires_grad=True)
    streaming.gaussian_mixture_log_prob(value, Blocks(components)).sum().backward()
    return value.grad.tolist()

step(20_000)
before = peak()
gradient = step(int(sys.argv[2]))
print([peak() - before, gradient])
"""


def test_memory_does_not_grow_with_the_number_of_encodings(tmp_path):
    """Read block by block, and mapped: the gradient is the same."""
    n, dims = 737_280, 10
    path, home = tmp_path / "loc", Path(pykernels.__file__).parents[1]
    loc = torch.from_file(str(path), shared=True, size=n * dims).view(n, dims)
    torch.randn(n, dims, out=loc)
    command = [sys.executable, "-c", SCRIPT, path, str(n)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=home)
    grown, gradient = json.loads(result.stdout)
    assert grown < path.stat().st_size / 4
    value = torch.zeros(2, dims, requires_grad=True)
    blocks = [(part, torch.tensor(0.5)) for part in loc.split(100_000)]
    streaming.gaussian_mixture_log_prob(value, blocks).sum().backward()
    torch.testing.assert_close(value.grad.tolist(), gradient, rtol=1e-4, atol=1e-6)
