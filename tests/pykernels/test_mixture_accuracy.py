"""Values and gradients against the dense float64 oracle, at awkward sizes, shapes and memory layouts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pykernels
from pykernels import _launch, reference
from tests.cases import EDGES, Inputs, dense, gradients, mixture_inputs
from tests.tolerance import assert_accurate


def both(inputs):
    return tuple(pykernels.gaussian_mixture_joint_and_marginal_log_prob(*inputs))


def joint_only(inputs):
    return (pykernels.gaussian_mixture_log_prob(*inputs),)


def marginal_only(inputs):
    return (pykernels.gaussian_mixture_marginal_log_prob(*inputs),)


FORMS = {"both": (both, [0, 1]), "joint": (joint_only, [0]), "marginal": (marginal_only, [1])}


def check(inputs: Inputs, form: str = "both", oracle_inputs: Inputs | None = None) -> None:
    """Value and every gradient; `oracle_inputs` are the float64 equals of `inputs` where layouts matter."""
    function, outputs = FORMS[form]
    exact = inputs.to(torch.float64) if oracle_inputs is None else oracle_inputs
    plain = exact.to(inputs.value.dtype)
    actual, expected, broadcast = (function(inputs), dense(exact), dense(plain))
    expected, broadcast = ([result[i] for i in outputs] for result in (expected, broadcast))
    size = 1 + max((o.detach().abs().max().item() for o in expected if o.numel()), default=0)
    for a, e, b in zip(actual, expected, broadcast):
        assert_accurate(a, e, b, size)
    grads = gradients(actual, inputs), gradients(expected, exact), gradients(broadcast, plain)
    for a, e, b in zip(*grads):
        assert a.is_contiguous()
        # The rounding of an exponent of this size scales the responsibilities that all gradients are made of.
        assert_accurate(a, e, b, size * (1 + e.abs().max().item() if e.numel() else 1))


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("place", ["rows", "components", "dims"])
def test_sizes_around_lanes_and_tiles(variant, dtype, place, size):
    sizes = {"rows": 5, "components": 6, "dims": 3} | {place: size}
    check(mixture_inputs(**sizes, dtype=dtype))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (129, 257, 2), (33, 129, 50)])
def test_each_function_with_equal_weights(variant, dtype, form, sizes):
    check(mixture_inputs(*sizes, weighted=False, dtype=dtype), form)


SCALE_SHAPES = [(), (1,), (3,), (7, 1), (1, 3), (1, 1), (7, 3), (2, 7, 3), (4, 1, 1, 3), (4, 2, 7, 1)]
WEIGHT_SHAPES = [(), (1,), (7,), (2, 7), (4, 1, 1)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale_shape", SCALE_SHAPES)
def test_scale_of_every_broadcast_shape(variant, dtype, form, scale_shape):
    check(mixture_inputs(scale_shape=scale_shape, dtype=dtype), form)
    check(mixture_inputs(scale_shape=scale_shape, loc_batch=(4, 2), dtype=dtype), form)


@pytest.mark.parametrize("weights_shape", WEIGHT_SHAPES)
def test_log_weights_of_every_broadcast_shape(variant, dtype, weights_shape):
    check(mixture_inputs(weights_shape=weights_shape, dtype=dtype))
    check(mixture_inputs(weights_shape=weights_shape, value_batch=(4, 1), dtype=dtype))


@pytest.mark.parametrize(
    ("value_batch", "loc_batch"),
    [((2,), ()), ((), (2,)), ((3, 1), (2,)), ((1,), (3, 2)), ((2, 1, 2), (1, 3, 1))],
)
def test_batch_broadcasting(variant, dtype, value_batch, loc_batch):
    check(mixture_inputs(value_batch=value_batch, loc_batch=loc_batch, dtype=dtype))
    check(
        mixture_inputs(17, 33, 2, value_batch=value_batch, loc_batch=loc_batch, scale_shape=(), dtype=dtype)
    )


def _transposed(t):
    return t.mT.contiguous().mT if t.dim() > 1 else t


def _strided(t):
    return torch.stack([t, t + 1], -1)[..., 0]


def _misaligned(t):
    return torch.cat([t.new_zeros(1), t.reshape(-1)])[1:].view(t.shape)


def _reversed_in_memory(t):
    return t.flip(0).contiguous().flip(0) if t.dim() else t


@pytest.mark.parametrize("layout", [_transposed, _strided, _misaligned, _reversed_in_memory])
def test_memory_layouts(variant, dtype, layout):
    source = mixture_inputs(19, 37, 5, dtype=dtype)
    laid_out = Inputs(*(layout(t.detach()).requires_grad_() for t in source))
    check(laid_out, oracle_inputs=source.to(torch.float64))
    for tensor, original in zip(laid_out, source):
        assert torch.equal(tensor, original)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 20)),
    seed=st.integers(0, 1000),
    log_spread=st.floats(-3, 3),
    shift=st.floats(-5, 5),
)
def test_any_shape_and_spread(sizes, seed, log_spread, shift):
    inputs = mixture_inputs(*sizes, seed=seed)
    stretched = Inputs(
        *((t.detach() * 10**log_spread + shift).requires_grad_() for t in inputs[:2]),
        (inputs.scale.detach() * 10**log_spread).requires_grad_(),
        inputs.log_weights,
    )
    expected = dense(stretched)
    for name in _launch.variants():
        with _launch.use_variant(name):
            for a, e in zip(both(stretched), expected):
                assert_accurate(a, e, a, 1)


@pytest.mark.parametrize("components, dims", [(300, 10), (300, 50), (900, 1), (900, 2)])
def test_narrow_components_far_from_the_origin(variant, components, dims):
    """Posteriors as VAEs have them, where the expanded square loses 0.01 to 1.5 nat in float32."""
    loc = 3 * torch.randn(components, dims)
    scale = torch.full((components, dims), 0.01)
    value = loc[:200] + 0.01 * torch.randn(200, dims)
    inputs = Inputs(*(t.requires_grad_() for t in (value, loc, scale)), None)
    exact = inputs.to(torch.float64)
    for form in ("joint", "marginal"):
        function, outputs = FORMS[form]
        results = function(inputs), [dense(exact)[i] for i in outputs], [dense(inputs)[i] for i in outputs]
        grads = gradients(results[0], inputs), gradients(results[1], exact), gradients(results[2], inputs)
        for actual, expected, broadcast in (*zip(*results), *zip(*grads)):
            assert_accurate(actual, expected, broadcast, 0)


@pytest.mark.parametrize("dims", [10, 50])
@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("product", [2.0, 7.9, 8.1, 16.0])
def test_both_sides_of_the_guard(variant, dims, scale, product):
    """Where the largest |loc| / scale decides between two forms of the CUDA loop, at 8 / sqrt(log2(e) / 2)."""
    loc = (2 * torch.rand(300, dims) - 1) * product * scale / 0.8493218
    value = loc[:200] + scale * torch.randn(200, dims)
    inputs = Inputs(*(t.requires_grad_() for t in (value, loc, torch.full((300, dims), scale))), None)
    exact = inputs.to(torch.float64)
    function, outputs = FORMS["joint"]
    results = function(inputs), [dense(exact)[i] for i in outputs], [dense(inputs)[i] for i in outputs]
    grads = gradients(results[0], inputs), gradients(results[1], exact), gradients(results[2], inputs)
    for actual, expected, broadcast in (*zip(*results), *zip(*grads)):
        assert_accurate(actual, expected, broadcast, expected.abs().max().item())


def _far_first_components(inputs):
    inputs.loc[:700, 1] += 30


def _far_last_components(inputs):
    inputs.loc[400:, 1] += 30


def _far_rows(inputs):
    inputs.value[::3, 2] += 40


def _heavy_components(inputs):
    inputs.log_weights[900:] += 200


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "change", [_far_first_components, _far_last_components, _far_rows, _heavy_components]
)
def test_sums_that_turn_out_large_or_small_late(variant, dtype, form, change):
    """Exponents some hundred bits from 0, met before or after those that outweigh them."""
    inputs = mixture_inputs(20, 1100, 3, dtype=dtype)
    with torch.no_grad():
        change(inputs)
    check(inputs, form)


@pytest.mark.parametrize("form", FORMS)
def test_sums_that_grow_with_every_component(variant, dtype, form):
    """From exponents of some thousand bits under 0, in too few components for a sample of them to tell."""
    inputs = mixture_inputs(20, 300, 3, dtype=dtype)
    with torch.no_grad():
        inputs.loc[:, 1] += torch.linspace(40, 0, 300)
    check(inputs, form)


@pytest.mark.parametrize("name", [n for n in reference.__all__ if n.startswith("gaussian")])
def test_the_reference_differentiates_itself(name):
    """Its public functions go through torch's autograd, and agree with its gradients in closed form."""
    inputs = mixture_inputs(40, 50, 4, loc_batch=(2,), scale_shape=(4,))
    results = [getattr(module, name)(*inputs) for module in (reference, pykernels)]
    by_autograd, by_formula = (
        gradients(result if isinstance(result, tuple) else (result,), inputs) for result in results
    )
    torch.testing.assert_close(by_autograd, by_formula, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("elements", [1, 64, 300])
def test_the_reference_gives_the_same_in_small_tiles(monkeypatch, elements):
    monkeypatch.setattr(reference.mixture, "TILE_ELEMENTS", elements)
    with _launch.use_variant(_launch.REFERENCE):
        check(mixture_inputs(9, 11, 3, loc_batch=(2,), scale_shape=(3,)))
        check(mixture_inputs(9, 11, 3, weighted=False))
