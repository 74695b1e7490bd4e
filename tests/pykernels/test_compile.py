"""What the compiler treats apart: calls that need no gradient, and one tensor in two places."""

import pytest
import torch

import pykernels

SCALE = torch.rand(7, 2, generator=torch.Generator().manual_seed(0)) + 0.5
FUNCTIONS = {
    "joint": lambda a: pykernels.gaussian_mixture_log_prob(a, a, SCALE),
    "marginal": lambda a: pykernels.gaussian_mixture_marginal_log_prob(a, a, SCALE),
    "both": lambda a: pykernels.gaussian_mixture_joint_and_marginal_log_prob(a, a, SCALE).joint,
    "minibatch": lambda a: pykernels.minibatch_log_prob(a, a, SCALE, 100, "mss").joint,
    "responsibilities": lambda a: torch.stack(list(pykernels.responsibility_statistics(a, a, SCALE))),
    "entropy": lambda a: pykernels.aggregate_entropy(a, a, SCALE),
    "cauchy_mmd": lambda a: pykernels.cauchy_mmd(a, a),
    "mmd": lambda a: pykernels.mmd(a, SCALE),
}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("needs_gradient", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_tensor_in_two_places(name, needs_gradient):
    torch._dynamo.reset()
    points = torch.randn(7, 2).requires_grad_(needs_gradient)
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
    results = [function(points) for function in (compiled, FUNCTIONS[name])]
    torch.testing.assert_close(*results)
    if needs_gradient:
        torch.testing.assert_close(*(torch.autograd.grad(result.sum(), points) for result in results))
