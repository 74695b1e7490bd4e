"""Derivatives and transforms of the MMD: gradcheck, torch.func, torch.compile, opcheck, autocast; the refusals."""

import math

import pytest
import torch
from torch.distributions import Distribution
from torch.func import grad, jvp, vmap

from pykernels import cauchy_mmd
from tests.pykernels.test_mmd import samples

compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def leaves(n=9, m=7, dims=2, weighted=True):
    x, y = samples(n, m, dims)
    scales = torch.tensor([0.5, 2.0], dtype=torch.float64)
    weights = [torch.rand(n, dtype=torch.float64) + 0.1, torch.rand(m, dtype=torch.float64) + 0.1]
    return [t.requires_grad_() for t in (x, y, scales, *(weights if weighted else ()))]


def function(method, unbiased=True):
    def call(x, y, scales, u=None, v=None):
        return cauchy_mmd(x, y, scales, x_weights=u, y_weights=v, unbiased=unbiased, method=method)

    return call


@pytest.mark.parametrize("method", ["direct", "panels"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_first_and_second_derivatives(variant, method, unbiased, weighted):
    inputs = leaves(5, 4, weighted=weighted)
    assert torch.autograd.gradcheck(function(method, unbiased), inputs)
    assert torch.autograd.gradgradcheck(function(method, unbiased), inputs)


def test_only_what_requires_a_gradient_gets_one(variant):
    for asked in range(5):
        inputs = [t.detach() for t in leaves()]
        inputs[asked].requires_grad_()
        function("auto")(*inputs).backward()
        assert [t.grad is not None for t in inputs] == [i == asked for i in range(5)]


def test_gradients_of_points_shared_by_a_batch(variant, dtype):
    x, y = samples(40, 30, 3, dtype)
    many = torch.stack([y, y + 0.5])
    x, many = x.requires_grad_(), many.requires_grad_()
    shared = torch.autograd.grad(cauchy_mmd(x, many).sum(), (x, many))
    each = [torch.autograd.grad(cauchy_mmd(x, z), x)[0] for z in many.detach()]
    torch.testing.assert_close(shared[0], sum(each), rtol=1e-5, atol=1e-6)
    assert shared[1].shape == many.shape


def test_vmap_and_grad(variant):
    x, y = samples(20, 15, 2)
    xs = torch.stack([x, x + 1, 2 * x])
    one_by_one = torch.stack([cauchy_mmd(each, y) for each in xs])
    torch.testing.assert_close(vmap(cauchy_mmd, (0, None))(xs, y), one_by_one)
    slopes = vmap(grad(cauchy_mmd), (0, None))(xs, y)
    expected = torch.stack([grad(cauchy_mmd)(each, y) for each in xs])
    torch.testing.assert_close(slopes, expected)
    by_hand = x.clone().requires_grad_()
    (of_first,) = torch.autograd.grad(cauchy_mmd(by_hand, y), by_hand)
    torch.testing.assert_close(slopes[0], of_first)


@compiles
def test_compiles_whole(variant, dtype):
    x, y = (t.requires_grad_() for t in samples(150, 140, 3, dtype))
    compiled = torch.compile(lambda a, b: cauchy_mmd(a, b) + a.sum(), fullgraph=True, backend="aot_eager")
    for a, b in zip(
        *(torch.autograd.grad(f(x, y), (x, y)) for f in (compiled, lambda a, b: cauchy_mmd(a, b) + a.sum()))
    ):
        assert torch.equal(a, b)


def test_opcheck(variant):
    x, y, scales = (t.detach() for t in leaves(weighted=False))
    options = True, "auto", 1e-7, [True, True, False, False, True]
    op = torch.ops.pykernels.cauchy_mmd.default
    torch.library.opcheck(op, (x, y, None, None, scales, *options))
    slopes = op(x, y, None, None, scales, *options)[1:]
    backward = torch.ops.pykernels.cauchy_mmd_backward.default
    torch.library.opcheck(
        backward, (torch.ones((), dtype=x.dtype), slopes, x, y, None, None, scales, *options)
    )


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_types_compute_in_float32(variant, half):
    x, y = (t.to(half).requires_grad_() for t in samples(30, 40, 3))
    value = cauchy_mmd(x, y)
    assert value.dtype == torch.float32
    assert value == cauchy_mmd(x.float(), y.float())
    assert all(g.dtype == half for g in torch.autograd.grad(value, (x, y)))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, in jvp
def test_forward_mode_and_third_order_say_what_to_do():
    x, y = samples(9, 7, 2)
    with pytest.raises(NotImplementedError, match="reverse mode"):
        jvp(lambda a: cauchy_mmd(a, y), (x,), (x,))
    x.requires_grad_()
    (first,) = torch.autograd.grad(cauchy_mmd(x, y), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="twice"):
        second.sum().backward()


def weighted(x, y, first, others, **options):
    weights = torch.full((len(x),), float(others), dtype=x.dtype)
    weights[0] = first
    return cauchy_mmd(x, y, x_weights=weights, **options)


WRONG = [
    (lambda x, y: cauchy_mmd(x[0], y), r"x must have shape .*\[2\]"),
    (lambda x, y: cauchy_mmd(x, y[:, :1]), "same last dimension"),
    (lambda x, y: cauchy_mmd(x[:1], y), "unbiased"),
    (lambda x, y: cauchy_mmd(x[:0], y), "at least one"),
    (lambda x, y: cauchy_mmd(x, y, ()), "scales"),
    (lambda x, y: cauchy_mmd(x, y, (1.0, -1.0)), "scales must be positive"),
    (lambda x, y: cauchy_mmd(x, y, method="fast"), "method"),
    (lambda x, y: cauchy_mmd(x, y, tolerance=0.0), "tolerance"),
    (lambda x, y: cauchy_mmd(x, y, x_weights=torch.ones(3, dtype=x.dtype)), "x_weights"),
    (lambda x, y: weighted(x, y, 0, 0), "x_weights must be positive for at least 2 .* but 0 are"),
    (
        lambda x, y: weighted(x, y, 0, 0, unbiased=False),
        "x_weights must be positive for at least 1 .* but 0 are",
    ),
    (lambda x, y: weighted(x, y, 1, 0), "but 1 are: one point alone takes unbiased=False"),
    (
        lambda x, y: weighted(x, y, -1, 1),
        "x_weights must not be negative, and finite, but reach from -1.0 to 1.0",
    ),
    (lambda x, y: weighted(x, y, 1, math.nan), "x_weights must not be negative"),
    (lambda x, y: weighted(x, y, 1, math.inf), "x_weights must not be negative, and finite"),
]


@pytest.mark.parametrize("call, message", WRONG)
def test_errors_name_the_argument(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(*samples(9, 7, 2))
    assert cauchy_mmd(*samples(1, 7, 2), unbiased=False) > 0
    assert weighted(*samples(9, 7, 2), 1, 0, unbiased=False) > 0


def test_weights_are_read_only_where_that_is_cheap_and_wanted():
    x, y = samples(9, 7, 2)
    signed = torch.linspace(-1, 2, 9, dtype=x.dtype)
    mapped = vmap(lambda w: cauchy_mmd(x, y, x_weights=w))(signed.expand(2, 9))
    Distribution.set_default_validate_args(False)
    try:
        torch.testing.assert_close(mapped[0], cauchy_mmd(x, y, x_weights=signed))
    finally:
        Distribution.set_default_validate_args(True)
