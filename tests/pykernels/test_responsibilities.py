"""Statistics of the responsibilities: closed forms, bounds, the dense formulas, and the contract of every operator."""

import math

import pytest
import torch
from torch.func import grad, vmap

from pykernels import (
    gaussian_mixture_log_prob,
    reference,
    responsibility_statistics,
    responsibility_statistics_from_log_prob,
)
from tests.cases import Inputs, gradients, mixture_inputs
from tests.tolerance import assert_accurate

OP = torch.ops.pykernels
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def dense(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """By the definitions, from responsibilities of every pair."""
    value, loc, scale, log_weights = inputs
    z, m, s = value.unsqueeze(-2), loc.unsqueeze(-3), scale.expand(loc.shape).unsqueeze(-3)
    log_normal = (-0.5 * ((z - m) / s) ** 2 - s.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    n = loc.shape[-2]
    log_weights = torch.full((n,), -math.log(n), dtype=z.dtype) if log_weights is None else log_weights
    weighted = log_normal + log_weights.expand(*log_weights.shape[:-1], n).unsqueeze(-2)
    log_prob = torch.logsumexp(weighted, -1)
    log_r = weighted - log_prob.unsqueeze(-1)
    return log_prob, (-(log_r.exp() * log_r).sum(-1)).exp(), 1 / log_r.exp().square().sum(-1)


def check(inputs: Inputs) -> None:
    exact, results = inputs.to(torch.float64), tuple(responsibility_statistics(*inputs))
    forms = results, dense(exact), dense(inputs)
    exponent = 1 + forms[1][0].abs().max().item()  # its rounding scales the responsibilities
    for actual, expected, broadcast in zip(*forms):
        assert_accurate(actual, expected, broadcast, exponent * expected.abs().max().item())
    of = [gradients(form, given) for form, given in zip(forms, (inputs, exact, inputs))]
    size = max(o.abs().max().item() for o in forms[1][1:])
    for actual, expected, broadcast in zip(*of):
        # The gradient of 1 / sum r^2 is made of terms as large as its square.
        assert_accurate(actual, expected, broadcast, exponent * (size * size + expected.abs().max().item()))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 17, 33, 129, 513])
@pytest.mark.parametrize("place", ["rows", "components", "dims"])
def test_sizes_around_lanes_and_tiles(variant, dtype, place, size):
    check(mixture_inputs(**{"rows": 5, "components": 6, "dims": 3} | {place: size}, dtype=dtype))


@pytest.mark.parametrize("shapes", [{}, {"scale_shape": ()}, {"weights_shape": ()}, {"scale_shape": (7, 1)}])
def test_without_weights_and_with_shared_ones(variant, dtype, shapes):
    check(mixture_inputs(dtype=dtype, **shapes))
    check(mixture_inputs(dtype=dtype, weighted=False, scale_shape=shapes.get("scale_shape")))


def test_several_splits_and_chunks(variant, dtype):
    rows = 3 if variant in ("reference", "emulated") else 40
    inputs = mixture_inputs(rows, 5000, 4, dtype=dtype)
    with torch.no_grad():  # where each split finds its own largest exponents
        inputs.loc[::2] *= 20
        inputs.value[::3] *= 20
    check(inputs)


@pytest.mark.parametrize("n", [1, 2, 40, 3000])
def test_as_many_as_are_alike(variant, dtype, n):
    """Components that coincide share every point equally, whatever others there are that nobody reaches."""
    loc = torch.cat([torch.zeros(n, 2), torch.full((70, 2), 1e4)]).to(dtype)
    value = torch.randn(9, 2, dtype=dtype)
    _, perplexity, collisions = responsibility_statistics(value, loc, torch.ones((), dtype=dtype))
    bound = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for result in (perplexity, collisions):
        torch.testing.assert_close(result, torch.full_like(result, n), rtol=bound, atol=bound)


def test_weights_alone_decide_where_components_coincide(variant, dtype):
    weights = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=dtype)
    loc = torch.zeros(4, 3, dtype=dtype)
    result = responsibility_statistics(
        torch.ones(2, 3, dtype=dtype), loc, torch.ones((), dtype=dtype), weights.log()
    )
    torch.testing.assert_close(result.perplexity, torch.full((2,), 2**1.75, dtype=dtype))
    torch.testing.assert_close(result.collision_count, torch.full((2,), 1 / 0.34375, dtype=dtype))


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_bounds_and_the_density(variant, dtype, spread):
    inputs = mixture_inputs(40, 300, 3, dtype=dtype)
    value, loc, scale, weights = (t.detach() for t in inputs)
    arguments = spread * value, spread * loc, scale, weights
    log_prob, perplexity, collisions = responsibility_statistics(*arguments)
    torch.testing.assert_close(log_prob, gaussian_mixture_log_prob(*arguments))
    assert (collisions > 1 - 1e-6).all() and (perplexity < 300 * (1 + 1e-5)).all()
    assert (collisions < perplexity * (1 + 1e-5)).all()


@pytest.mark.parametrize("entry", [0.0, math.inf, math.nan])
def test_a_component_absent_and_a_point_out_of_reach_or_no_number(variant, dtype, entry):
    inputs = mixture_inputs(6, 40, 3, dtype=dtype)
    with torch.no_grad():
        inputs.log_weights[7], inputs.loc[7] = -math.inf, math.nan
        inputs.value[2] = entry
    rest = Inputs(inputs.value, *(torch.cat([t[:7], t[8:]]).detach() for t in inputs[1:]))
    results = tuple(responsibility_statistics(*inputs))
    bound = {torch.float32: 1e-4, torch.float64: 1e-11}[dtype]
    for actual, wanted in zip(results, dense(rest)):
        torch.testing.assert_close(actual, wanted, rtol=bound, atol=bound, equal_nan=True)
    assert results[1].isnan().tolist() == [row == 2 and entry != 0 for row in range(6)]
    of_value, *of_components = gradients(results, inputs)
    assert of_value.isnan().any(-1).tolist() == [row == 2 and math.isnan(entry) for row in range(6)]
    assert all(g[7].eq(0).all() for g in of_components)
    if entry == math.inf:
        assert of_value[2].eq(0).all() and all(g.isfinite().all() for g in of_components)


def test_a_weight_of_infinity_leaves_shares_undefined(variant, dtype):
    value, loc, scale, weights = (t.detach() for t in mixture_inputs(3, 9, 2, dtype=dtype))
    weights[4] = math.inf
    log_prob, perplexity, collisions = responsibility_statistics(value, loc, scale, weights)
    assert log_prob.eq(math.inf).all() and perplexity.isnan().all() and collisions.isnan().all()


SHAPES = [
    {},
    {"scale_shape": (), "weights_shape": ()},
    {"loc_batch": (2,), "scale_shape": (3,), "weighted": False},
]


@pytest.mark.parametrize("shapes", SHAPES)
def test_first_and_second_derivatives(variant, shapes):
    inputs = tuple(mixture_inputs(4, 5, 3, **shapes))
    assert torch.autograd.gradcheck(responsibility_statistics, inputs)
    assert torch.autograd.gradgradcheck(responsibility_statistics, inputs)
    for output in range(3):
        assert torch.autograd.gradcheck(
            lambda *inputs, output=output: responsibility_statistics(*inputs)[output], inputs
        )


def test_second_derivatives_tile_by_tile(monkeypatch):
    monkeypatch.setattr(reference.mixture, "TILE_ELEMENTS", 7)
    inputs = mixture_inputs(4, 5, 2, scale_shape=(2,))
    assert torch.autograd.gradgradcheck(responsibility_statistics, tuple(inputs))
    by_itself = tuple(reference.responsibility_statistics(*inputs))
    torch.testing.assert_close(by_itself, dense(inputs))
    torch.testing.assert_close(gradients(by_itself, inputs), gradients(dense(inputs), inputs))


def total(*inputs):
    return sum(result.sin().sum() for result in responsibility_statistics(*inputs))


def test_batches_vmap_and_func_grad(variant):
    value, loc, scale, weights = (
        t.detach() for t in mixture_inputs(4, 6, 3, loc_batch=(3,), scale_shape=(3,))
    )
    derivative = grad(total, argnums=(0, 1, 2, 3))
    mapped = vmap(derivative, in_dims=(None, 0, None, None))(value, loc, scale, weights)
    for actual, expected in zip(mapped, zip(*(derivative(value, one, scale, weights) for one in loc))):
        torch.testing.assert_close(actual, torch.stack(expected))
    batched = responsibility_statistics(value, loc, scale, weights)
    many_points = responsibility_statistics(value.expand(2, 3, 4, 3), loc[0], scale, weights)
    for result, folded in zip(batched, many_points):
        assert result.shape == (3, 4) and folded.shape == (2, 3, 4)
        torch.testing.assert_close(folded[1, 2], result[0])


@compiles
def test_compile_without_graph_breaks():
    torch._dynamo.reset()
    compiled = torch.compile(responsibility_statistics, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in ((4, 5, 3), (6, 9, 2)):
        inputs = mixture_inputs(*sizes, scale_shape=sizes[-1:])
        results = [tuple(f(*inputs)) for f in (compiled, responsibility_statistics)]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*(gradients(r, inputs) for r in results))


def test_opcheck(variant):
    value, loc, scale, weights = (
        t.detach() for t in mixture_inputs(4, 6, 3, loc_batch=(2,), weights_shape=(1, 6))
    )
    tensors = value.expand(2, 4, 3), loc, scale, weights
    torch.library.opcheck(OP.responsibility_statistics.default, tensors)
    log_prob, log2, *_ = OP.responsibility_statistics(*tensors)
    statistics = torch.randn(2, 2, 4, dtype=torch.float64)
    for mask in ([True] * 4, [True, False, True, False]):
        backward = torch.randn_like(log_prob), None, log2, None, None, None, *tensors, mask, statistics
        torch.library.opcheck(OP.mixture_log_prob_backward.default, backward)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, at its first jvp
def test_forward_mode_says_what_to_do():
    inputs = tuple(t.detach() for t in mixture_inputs())
    with pytest.raises(NotImplementedError, match="use reverse mode"):
        torch.func.jvp(total, inputs, inputs)


def test_half_inputs(variant):
    inputs = mixture_inputs(dtype=torch.float32).to(torch.bfloat16)
    results, wide = responsibility_statistics(*inputs), inputs.to(torch.float32)
    expected = responsibility_statistics(*wide)
    torch.testing.assert_close(tuple(results), tuple(expected), rtol=0, atol=0)
    for actual, wanted in zip(gradients(tuple(results), inputs), gradients(tuple(expected), wide)):
        torch.testing.assert_close(actual, wanted.to(torch.bfloat16), rtol=0, atol=0)


def test_equal_bits_for_any_number_of_threads_and_from_run_to_run(variant, dtype, one_and_two_threads):
    inputs = mixture_inputs(33 if variant in ("reference", "emulated") else 257, 3001, 5, dtype=dtype)

    def results():
        found = tuple(responsibility_statistics(*inputs))
        return *found, *gradients(found, inputs)

    one, two = one_and_two_threads(results)
    for tensors in zip(one, two, results()):
        assert all(torch.equal(tensors[0], other) for other in tensors[1:])


@pytest.mark.parametrize("weighted", [True, False])
def test_any_other_encoder_by_its_log_densities(dtype, weighted):
    inputs = mixture_inputs(9, 30, 3, dtype=dtype, weighted=weighted)
    value, loc, scale, weights = inputs
    log_prob = torch.distributions.Normal(loc, scale).log_prob(value.unsqueeze(-2)).sum(-1)
    results = tuple(responsibility_statistics_from_log_prob(log_prob, weights))
    torch.testing.assert_close(results, dense(inputs))
    torch.testing.assert_close(
        gradients(results, inputs), gradients(dense(inputs), inputs), rtol=1e-4, atol=1e-4
    )


def test_log_densities_of_minus_infinity():
    log_prob = torch.tensor([[0.0, 0.0, -math.inf], [-math.inf] * 3], requires_grad=True)
    _, perplexity, collisions = responsibility_statistics_from_log_prob(log_prob, torch.zeros(3))
    torch.testing.assert_close(perplexity, torch.tensor([2.0, math.nan]), equal_nan=True)
    torch.testing.assert_close(collisions, torch.tensor([2.0, math.nan]), equal_nan=True)
    (gradient,) = torch.autograd.grad(perplexity[0] + collisions[0], log_prob)
    torch.testing.assert_close(gradient[0], torch.zeros(3))


def test_a_point_without_density_gives_no_gradient():
    log_prob = torch.randn(4, 3, dtype=torch.float64)
    log_prob[1] = -math.inf
    log_prob[2, 0] = -math.inf
    log_prob.requires_grad_()
    weights = torch.randn(3, dtype=torch.float64, requires_grad=True)
    results = responsibility_statistics_from_log_prob(log_prob, weights)
    assert (
        results.log_prob[1] == -math.inf
        and results.perplexity[1].isnan()
        and results.collision_count[1].isnan()
    )
    others = [0, 2, 3]
    found = torch.autograd.grad(sum(r[others].sum() for r in results), (log_prob, weights))
    alone = log_prob.detach()[others].requires_grad_()
    by_themselves = responsibility_statistics_from_log_prob(alone, weights)
    expected = torch.autograd.grad(sum(r.sum() for r in by_themselves), (alone, weights))
    torch.testing.assert_close(found[0][others], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    assert not found[0][1].any()
    mean = responsibility_statistics_from_log_prob(log_prob, weights).log_prob.sum()
    assert not torch.autograd.grad(mean, log_prob)[0][1].any()
