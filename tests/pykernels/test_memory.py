"""No [B, n] and no [B, n, D] tensor: forward, backward, twice backward."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pykernels import _launch, mmd
from pykernels.reference import minibatch, mixture, mixture_gradients, responsibilities, wasserstein

SCRIPT = """
import resource, sys
import torch
from pykernels import _launch, gaussian_mixture_joint_and_marginal_log_prob

def step(rows, components):
    inputs = [torch.randn(rows, 1), torch.randn(components, 1), torch.tensor(0.5)]
    inputs = [t.requires_grad_() for t in inputs]
    outputs = gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    torch.autograd.grad(sum(o.sum() for o in outputs), inputs)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

with _launch.use_variant(sys.argv[1]):
    step(1000, 1000)
    before = peak()
    step(3000, 20000)
    print(peak() - before)
"""


@pytest.mark.parametrize("variant", _launch.variants()[:-1], indirect=True)
def test_the_peak_of_a_process_with_compiled_kernels(variant):
    # From where this package came: in a source tree, Python would find the one without compiled kernels.
    home = Path(_launch.__file__).parents[1]
    command = [sys.executable, "-c", SCRIPT, variant]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=home)
    assert int(result.stdout) < 3000 * 20000, "a quarter of one float32 [B, n]"


class _LargestResult(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [
            t.untyped_storage().nbytes() // t.itemsize for t in tree_leaves(result) if torch.is_tensor(t)
        ]
        self.elements = max(self.elements, *sizes, 0)
        return result


def test_the_largest_result_of_an_operation_in_the_reference(monkeypatch):
    monkeypatch.setattr(mixture, "TILE_ELEMENTS", 1000)
    rows, components, dims = 90, 110, 4
    inputs = torch.randn(rows, dims), torch.randn(components, dims), torch.ones(1, 1), None
    with _LargestResult() as largest:
        outputs = mixture.mixture_log_prob(*inputs, True, True)
        cotangents = [torch.ones_like(o) for o in outputs]
        first = mixture_gradients.mixture_log_prob_backward(
            *cotangents, None, *outputs, *inputs, [True] * 3 + [False]
        )
        mixture_gradients.mixture_log_prob_double_backward(first, *cotangents, None, *outputs, *inputs)
        statistics = responsibilities.mixture_statistics(*inputs)
        of_statistics = torch.ones(2, rows)
        mixture_gradients.mixture_log_prob_backward(
            statistics[1], None, of_statistics, statistics[0], None, *inputs, [True] * 3 + [False]
        )
        paired = inputs[0], inputs[0] + 1, *inputs[2:], True, True, minibatch.pair_weights("mss", rows, 500)
        mixture.mixture_log_prob(*paired)
    assert largest.elements <= max(1000, components * dims)


def test_the_reference_saves_no_tile_for_autograd(monkeypatch):
    monkeypatch.setattr(mixture, "TILE_ELEMENTS", 1000)
    inputs = [t.requires_grad_() for t in (torch.randn(90, 4), torch.randn(110, 4), torch.ones(1, 1))]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        mixture.gaussian_mixture_log_prob(*inputs)
        responsibilities.responsibility_statistics(*inputs)
        minibatch.minibatch_log_prob(inputs[0], inputs[0] + 1, inputs[2], 500, "hfvae")
    assert max(saved, default=0) <= 110 * 4


def test_mmd_and_projections_save_no_tile_for_autograd(monkeypatch):
    monkeypatch.setattr(sys.modules["pykernels.reference.mmd"], "TILE_ELEMENTS", 1000)
    monkeypatch.setattr(wasserstein, "CHUNK_ELEMENTS", 1000)
    x, y = torch.randn(90, 4, requires_grad=True), torch.randn(110, 4)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        mmd(x, y)
        wasserstein.sliced_wasserstein(x, y, torch.randn(100, 4))
    assert max(saved) <= 110 * 6
