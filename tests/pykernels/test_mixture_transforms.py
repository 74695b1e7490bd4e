"""Derivatives and transforms: gradcheck, torch.func, torch.compile, opcheck, autocast; and the refusals."""

import pytest
import torch
from torch.func import grad, hessian, jacrev, jvp, vjp, vmap

import pykernels
from pykernels import _launch, reference
from tests.cases import gradients, mixture_inputs

FUNCTIONS = [
    pykernels.gaussian_mixture_log_prob,
    pykernels.gaussian_mixture_marginal_log_prob,
    pykernels.gaussian_mixture_joint_and_marginal_log_prob,
]
OP = torch.ops.pykernels
# The compiler's own habit, in tracing any autograd.Function.
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def log_prob_sum(*inputs):
    joint, marginal = pykernels.gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    return (joint + marginal.sin().sum(-1)).sum()


def plain(**options):
    return [t.detach() for t in mixture_inputs(4, 6, 3, **options)]


SHAPES = [
    {},
    {"scale_shape": (), "weights_shape": ()},
    {"scale_shape": (5, 1), "value_batch": (2,)},
    {"loc_batch": (2,), "scale_shape": (3,), "weighted": False},
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shapes", SHAPES)
def test_first_and_second_derivatives(variant, function, shapes):
    inputs = mixture_inputs(4, 5, 3, **shapes)
    assert torch.autograd.gradcheck(function, tuple(inputs))
    assert torch.autograd.gradgradcheck(function, tuple(inputs))


def test_second_derivatives_tile_by_tile(monkeypatch):
    monkeypatch.setattr(reference.mixture, "TILE_ELEMENTS", 7)
    assert torch.autograd.gradgradcheck(FUNCTIONS[2], tuple(mixture_inputs(4, 5, 2, scale_shape=(2,))))


def test_second_derivatives_stay_finite_at_the_edges():
    value, loc, scale, weights = mixture_inputs(4, 5, 3)
    with torch.no_grad():
        value[1] = torch.inf
        weights[2], loc[2] = -torch.inf, torch.nan
    log_prob = pykernels.gaussian_mixture_log_prob(value, loc, scale, weights)
    first = torch.autograd.grad(log_prob.sum(), (value, loc, scale, weights), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (value, loc, scale, weights))
    assert all(g.isfinite().all() for g in second)
    assert (second[1][2] == 0).all() and (second[0][1] == 0).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_only_what_requires_a_gradient_gets_one(variant, function):
    for asked in range(4):
        inputs = plain()
        inputs[asked].requires_grad_()
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert all(o.requires_grad for o in outputs)
        sum(o.sum() for o in outputs).backward()
        assert [t.grad is not None for t in inputs] == [i == asked for i in range(4)]
    assert not any(o.requires_grad for o in function(*plain()))


def test_a_gradient_through_one_of_both_outputs(variant):
    inputs = mixture_inputs()
    both = pykernels.gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    for output, function in zip(both, FUNCTIONS):
        kept = torch.autograd.grad(output.sum(), inputs.tensors(), retain_graph=True)
        torch.testing.assert_close(kept, torch.autograd.grad(function(*inputs).sum(), inputs.tensors()))


def test_func_grad(variant):
    inputs = plain(scale_shape=(3,))
    required = [t.clone().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(log_prob_sum(*required), required)
    torch.testing.assert_close(grad(log_prob_sum, argnums=(0, 1, 2, 3))(*inputs), expected)


MAPPED = [
    (0, None, None, None),
    (None, 1, None, None),
    (None, None, 0, None),
    (0, 2, None, 0),
    (1, 0, 0, None),
]


def _mapped(in_dims, scale_shape):
    """Three copies of everything, stacked where mapped; and the list of the copies."""
    copies = [plain(seed=seed, scale_shape=scale_shape) for seed in range(3)]
    copies = [
        [c if d is not None else first for c, d, first in zip(copy, in_dims, copies[0])] for copy in copies
    ]
    stacked = [
        copies[0][i] if d is None else torch.stack([c[i] for c in copies], d) for i, d in enumerate(in_dims)
    ]
    return stacked, copies


@pytest.mark.parametrize("in_dims", MAPPED)
@pytest.mark.parametrize("scale_shape", [(), (6, 3), (6, 1)])
def test_vmap_of_value_and_gradient(variant, in_dims, scale_shape):
    stacked, copies = _mapped(in_dims, scale_shape)
    for function in (log_prob_sum, grad(log_prob_sum, argnums=(0, 1, 2, 3))):
        actual = vmap(function, in_dims=in_dims)(*stacked)
        expected = [function(*copy) for copy in copies]
        if isinstance(actual, tuple):
            for a, *e in zip(actual, *expected):
                torch.testing.assert_close(a, torch.stack(e))
        else:
            torch.testing.assert_close(actual, torch.stack(expected))


def test_vmap_in_vmap_and_over_a_batch(variant):
    value, loc, scale, weights = plain()
    values, locs = torch.stack([value, value + 1]), torch.stack([loc, loc - 1, loc + 2])
    function = pykernels.gaussian_mixture_log_prob
    nested = vmap(vmap(function, in_dims=(None, 0, None, None)), in_dims=(0, None, None, None))
    expected = function(values.unsqueeze(1), locs, scale, weights)
    torch.testing.assert_close(nested(values, locs, scale, weights), expected)


def test_jacobian_and_hessian_by_reverse_mode(variant):
    value, loc, scale, weights = plain()

    def in_loc(module):
        return lambda loc: module.gaussian_mixture_log_prob(value, loc, scale, weights)

    expected = torch.autograd.functional.jacobian(in_loc(reference), loc)
    torch.testing.assert_close(jacrev(in_loc(pykernels))(loc), expected)
    expected = torch.autograd.functional.hessian(lambda loc: in_loc(reference)(loc).sum(), loc)
    actual = jacrev(jacrev(lambda loc: in_loc(pykernels)(loc).sum()))(loc)
    torch.testing.assert_close(actual, expected)


def test_cotangents_may_be_mapped_and_broadcast(variant):
    inputs = plain()
    output, pull = vjp(pykernels.gaussian_mixture_log_prob, *inputs)
    cotangents = torch.randn(3, *output.shape, dtype=output.dtype)
    expected = [torch.stack(g) for g in zip(*map(pull, cotangents))]
    for actual, wanted in zip(vmap(pull)(cotangents), expected):
        torch.testing.assert_close(actual, wanted)


def test_batched_cotangents_in_reverse_mode(variant):
    inputs = mixture_inputs()
    output = pykernels.gaussian_mixture_log_prob(*inputs)
    cotangents = torch.eye(output.numel(), dtype=output.dtype)
    batched = torch.autograd.grad(output, inputs, cotangents, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(output, inputs, c, retain_graph=True) for c in cotangents]
    for actual, *expected in zip(batched, *one_by_one):
        torch.testing.assert_close(actual, torch.stack(expected))


@compiles
@pytest.mark.parametrize("function", FUNCTIONS)
def test_compile_without_graph_breaks(function):
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in ((4, 5, 3), (6, 9, 2)):
        inputs = mixture_inputs(*sizes, scale_shape=sizes[-1:])
        results = [f(*inputs) for f in (compiled, function)]
        results = [r if isinstance(r, tuple) else (r,) for r in results]
        torch.testing.assert_close(*map(list, results))
        torch.testing.assert_close(*(gradients(r, inputs) for r in results))


@compiles
def test_compiled_double_backward_refuses():
    torch._dynamo.reset()
    inputs = mixture_inputs()
    result = torch.compile(FUNCTIONS[0], fullgraph=True, backend="aot_eager")(*inputs)
    with pytest.raises(RuntimeError, match="double backward"):
        first = torch.autograd.grad(result.sum(), inputs.loc, create_graph=True)
        torch.autograd.grad(first[0].sum(), inputs.loc)


@pytest.mark.parametrize("asked", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    "shapes", [{}, {"loc_batch": (2,), "scale_shape": (1, 1, 3), "weights_shape": (1, 6)}]
)
def test_opcheck(variant, asked, shapes):
    value, loc, scale, weights = (t.detach() for t in mixture_inputs(4, 6, 3, **shapes))
    value = value.expand(*loc.shape[:-2], 4, 3)
    for slopes in (False, True):
        arguments = value, loc, scale, weights, *asked, slopes
        torch.library.opcheck(OP.mixture_log_prob.default, arguments)
    outputs = OP.mixture_log_prob(*arguments)
    size = 3 if _launch.gives_slopes(value) else 2
    assert len(outputs) == size * sum(asked)
    results = iter(outputs)
    joint, marginal = ([next(results) for _ in range(size)] if a else [None] * size for a in asked)
    in_base_2 = joint[1], marginal[1]
    slopes = (joint[2], marginal[2]) if size == 3 else (None, None)
    cotangents = [None if o is None else torch.randn_like(o) for o in in_base_2]
    for mask in ([True] * 4, [True, False, True, False], [True, False, False, False]):
        arguments = *cotangents, *in_base_2, *slopes, value, loc, scale, weights, mask
        torch.library.opcheck(OP.mixture_log_prob_backward.default, arguments)
    transposed = [None if c is None else c.mT.contiguous().mT if c.dim() > 1 else c for c in cotangents]
    arguments = *transposed, *arguments[2:]
    torch.library.opcheck(OP.mixture_log_prob_backward.default, arguments)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_inputs_compute_in_float32_and_keep_their_gradients_dtype(variant, half):
    inputs = mixture_inputs(dtype=torch.float32).to(half)
    joint, _ = results = pykernels.gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    wide = inputs.to(torch.float32)
    expected = pykernels.gaussian_mixture_joint_and_marginal_log_prob(*wide)
    assert joint.dtype == torch.float32
    torch.testing.assert_close(tuple(results), tuple(expected), rtol=0, atol=0)
    for actual, wanted in zip(gradients(results, inputs), gradients(expected, wide)):
        assert actual.dtype == half
        torch.testing.assert_close(actual, wanted.to(half), rtol=0, atol=0)


def test_half_and_float32_mix(variant):
    value, loc, scale, weights = (t.detach() for t in mixture_inputs(dtype=torch.float32))
    mixed = pykernels.gaussian_mixture_log_prob(value, loc.bfloat16(), scale.half(), weights)
    wide = pykernels.gaussian_mixture_log_prob(value, loc.bfloat16().float(), scale.half().float(), weights)
    assert torch.equal(mixed, wide)


def test_autocast_returns_float32(variant):
    inputs = mixture_inputs(dtype=torch.float32)
    weight = torch.eye(3).requires_grad_()
    with torch.autocast(inputs.value.device.type, torch.bfloat16):
        projected = inputs.value @ weight
        result = pykernels.gaussian_mixture_log_prob(projected, *inputs[1:])
    assert projected.dtype == torch.bfloat16 and result.dtype == torch.float32
    result.sum().backward()
    assert weight.grad.dtype == torch.float32
    rounded = inputs.value.detach().bfloat16().float()
    expected = pykernels.gaussian_mixture_log_prob(rounded, *inputs[1:])
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, at its first jvp
def test_forward_mode_says_what_to_do():
    value, loc, scale, weights = plain()
    with pytest.raises(NotImplementedError, match="use reverse mode"):
        jvp(lambda loc: log_prob_sum(value, loc, scale, weights), (loc,), (loc,))
    with pytest.raises(NotImplementedError, match="use reverse mode"):
        hessian(lambda loc: log_prob_sum(value, loc, scale, weights))(loc)
    if torch.__version__ < "2.12":
        pytest.skip("forward mode passes no checkpoint before torch 2.12")
    tangent = jvp(
        lambda loc: reference.gaussian_mixture_log_prob(value, loc, scale, weights), (loc,), (loc,)
    )[1]
    assert tangent.isfinite().all()


def test_third_order_says_what_to_do():
    inputs = mixture_inputs()
    first = torch.autograd.grad(log_prob_sum(*inputs), inputs.loc, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), inputs.loc, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="differentiated twice, not three times"):
        torch.autograd.grad(second.sum(), inputs.loc)


def test_variants_are_the_ones_the_machine_runs():
    assert _launch.current_variant() in _launch.variants()
    before = _launch.current_variant()
    with _launch.use_variant(_launch.REFERENCE):
        assert _launch.current_variant() == _launch.REFERENCE
    assert _launch.current_variant() == before
