"""Every public function in a CUDA graph, as far as that shows without a GPU: see tests/recordable.py."""

from functools import partial

import pytest
import torch
from torch.distributions import Independent, Normal

import pykernels
from tests.recordable import Recordable


def leaf(*shape, dtype=torch.float32):
    return torch.empty(shape, device="meta", dtype=dtype).requires_grad_()


def mixture(op, rows=5, dtype=torch.float32):
    inputs = [leaf(*shape, dtype=dtype) for shape in ((rows, 3), (7, 3), (7, 3), (7,))]
    return inputs, op(*inputs)


def of_points(op, n=20, m=30):
    inputs = [leaf(n, 3), leaf(m, 3)]
    return inputs, op(*inputs)


def standard_normal():
    factors = Normal(torch.empty(3, device="meta"), torch.empty(3, device="meta"), validate_args=False)
    return Independent(factors, 1)


def minibatch(z, loc, scale, log_weights):
    return pykernels.minibatch_log_prob(z, loc, scale, 100, "mss")


def decomposition(z, loc, scale, log_weights):
    index = torch.zeros(len(z), dtype=torch.int64, device="meta")
    return pykernels.kl_decomposition(z, loc, scale, standard_normal(), index=index)


def drawn_kl(z, loc, scale, log_weights):
    return pykernels.inclusive_kl(standard_normal(), loc, scale, log_weights, num_samples=9)


def weighted_mmd(x, y):
    return pykernels.cauchy_mmd(x, y, x_weights=x[:, 0], y_weights=y[:, 0])


def density_of_draws(z, loc, scale, log_weights):
    density = pykernels.DiagonalGaussianMixture(loc, scale, log_weights, validate_args=False)
    return density.log_prob(density.sample((5,)))


CASES = {
    "joint": partial(mixture, pykernels.gaussian_mixture_log_prob),
    "joint, half": partial(mixture, pykernels.gaussian_mixture_log_prob, dtype=torch.bfloat16),
    "marginals": partial(mixture, pykernels.gaussian_mixture_marginal_log_prob),
    "joint and marginals": partial(mixture, pykernels.gaussian_mixture_joint_and_marginal_log_prob),
    "minibatch": partial(mixture, minibatch, rows=7),
    "responsibilities": partial(mixture, pykernels.responsibility_statistics),
    "responsibilities, reference": partial(mixture, pykernels.reference.responsibility_statistics),
    "inclusive KL": partial(mixture, drawn_kl),
    "decomposition": partial(mixture, decomposition),
    "distribution": partial(mixture, density_of_draws),
    "dimension-wise MMD": partial(of_points, pykernels.cauchy_mmd),
    "dimension-wise MMD, weighted": partial(of_points, weighted_mmd),
    "MMD of vectors": partial(of_points, pykernels.mmd),
    "sliced Wasserstein": partial(of_points, pykernels.sliced_wasserstein),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_waited_for_or_copied(case):
    with Recordable():
        inputs, results = CASES[case]()
        results = [results] if isinstance(results, torch.Tensor) else results
        gradients = torch.autograd.grad(sum(t.sum() for t in results), inputs, allow_unused=True)
    assert any(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("draw", [lambda t: t.max().item(), lambda t: torch.normal(t, t), lambda t: t[t > 0]])
def test_the_check_sees_what_waits(draw):
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), Recordable():
        draw(torch.empty(3, device="meta"))


def test_the_check_sees_a_copy():
    with pytest.raises(AssertionError, match="copies"), Recordable():
        torch.zeros(3).to("meta")
