"""What must hold whatever the implementation: closed forms, symmetries, special values, equal bits."""

import math

import pytest
import torch
from torch.distributions import Distribution, Normal

from pykernels import (
    _ops,
    gaussian_mixture_joint_and_marginal_log_prob,
    gaussian_mixture_log_prob,
    gaussian_mixture_marginal_log_prob,
)
from tests.cases import Inputs, dense, gradients, mixture_inputs

TIGHT = {torch.float32: 2e-5, torch.float64: 1e-11}


def close(actual, expected):
    bound = TIGHT[actual.dtype]
    torch.testing.assert_close(actual, expected, rtol=bound, atol=bound)


def test_one_component_is_a_normal(variant, dtype):
    value, loc, scale, _ = mixture_inputs(9, 1, 4, dtype=dtype)
    expected = Normal(loc[0], scale[0]).log_prob(value)
    joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(value, loc, scale)
    close(marginal, expected)
    close(joint, expected.sum(-1))


def test_order_of_components_does_not_matter(variant, dtype):
    inputs = mixture_inputs(9, 40, 4, dtype=dtype)
    order = torch.randperm(40)
    shuffled = Inputs(inputs.value, *(t[order] for t in inputs[1:]))
    for a, b in zip(*(gaussian_mixture_joint_and_marginal_log_prob(*i) for i in (inputs, shuffled))):
        close(a, b)


def test_a_component_given_twice_is_one_of_double_weight(variant, dtype):
    value, loc, scale, weights = mixture_inputs(9, 20, 4, dtype=dtype)
    twice = gaussian_mixture_log_prob(value, loc.repeat(2, 1), scale.repeat(2, 1), weights.repeat(2))
    close(twice, gaussian_mixture_log_prob(value, loc, scale, weights + math.log(2)))


def test_translation_and_dilation(variant, dtype):
    value, loc, scale, weights = mixture_inputs(9, 20, 4, dtype=dtype)
    plain = gaussian_mixture_log_prob(value, loc, scale, weights)
    close(gaussian_mixture_log_prob(value + 2, loc + 2, scale, weights), plain)
    close(gaussian_mixture_log_prob(value * 8, loc * 8, scale * 8, weights), plain - 4 * math.log(8))


def test_weights_are_used_as_given(variant, dtype):
    value, loc, scale, weights = mixture_inputs(9, 20, 4, dtype=dtype)
    close(
        gaussian_mixture_log_prob(value, loc, scale, weights - 3),
        gaussian_mixture_log_prob(value, loc, scale, weights) - 3,
    )
    equal = torch.full((20,), -math.log(20), dtype=dtype)
    close(gaussian_mixture_log_prob(value, loc, scale), gaussian_mixture_log_prob(value, loc, scale, equal))


def test_in_one_dimension_joint_and_marginal_agree(variant, dtype):
    inputs = mixture_inputs(33, 65, 1, dtype=dtype)
    joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    close(joint, marginal.squeeze(-1))
    close(joint, gaussian_mixture_log_prob(*inputs))
    close(marginal, gaussian_mixture_marginal_log_prob(*inputs))


def test_the_density_integrates_to_one(variant, dtype):
    _, loc, scale, _ = mixture_inputs(1, 9, 2, dtype=dtype)
    axis = torch.linspace(-12, 12, 161, dtype=dtype)
    grid = torch.cartesian_prod(axis, axis)
    mass = gaussian_mixture_log_prob(grid, loc, scale.clamp(min=0.4)).exp().sum() * (24 / 160) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-4 if dtype == torch.float32 else 1e-10)


def test_small_integers(variant, dtype):
    """Unit scale, one component, D = 2: a hand-made table, the gradients integers."""
    value = torch.tensor([[0, 0], [1, 2], [-3, 4]], dtype=dtype, requires_grad=True)
    loc = torch.zeros(1, 2, dtype=dtype, requires_grad=True)
    scale = torch.ones(1, 2, dtype=dtype, requires_grad=True)
    log_prob = gaussian_mixture_log_prob(value, loc, scale)
    bound = 16 * torch.finfo(dtype).eps

    def table(entries):
        return torch.tensor(entries, dtype=dtype)

    def same(actual, expected):
        torch.testing.assert_close(actual, table(expected), rtol=bound, atol=bound)

    same(log_prob + math.log(2 * math.pi), [0.0, -2.5, -12.5])
    log_prob.sum().backward()
    same(value.grad, [[0, 0], [-1, -2], [3, -4]])
    same(loc.grad, [[-2, 6]])
    same(scale.grad, [[1 + 9 - 3, 4 + 16 - 3]])


@pytest.mark.parametrize("sample", ["absent", "far", "near", "infinite"])
def test_a_sample_of_components_may_say_anything(variant, dtype, sample):
    """A kernel may look at a few components, evenly spread, to learn where a row's exponents will lie."""
    inputs = mixture_inputs(19, 1100, 2, dtype=dtype)
    few = torch.zeros(1100, dtype=torch.bool).index_fill_(0, torch.arange(0, 1100, 34), True)
    with torch.no_grad():
        if sample == "absent":
            inputs.log_weights[few] = -math.inf
            inputs.loc[few] = math.nan
        elif sample == "infinite":
            inputs.loc[few] = math.inf
        else:
            inputs.loc[few if sample == "far" else ~few] += 1e4
    kept = (
        Inputs(inputs.value, *(t[~few] for t in inputs[1:])) if sample in ("absent", "infinite") else inputs
    )
    for actual, expected in zip(gaussian_mixture_joint_and_marginal_log_prob(*inputs), dense(kept)):
        close(actual, expected)
    close(gaussian_mixture_log_prob(*inputs), dense(kept)[0])


def without(tensor, index):
    return torch.cat([tensor[:index], tensor[index + 1 :]]).detach().requires_grad_()


@pytest.mark.parametrize("bad", ["inf", "-inf", "max"])
def test_a_row_of_minus_infinity_contributes_no_gradient(variant, dtype, bad):
    inputs = mixture_inputs(6, 40, 3, dtype=dtype)
    with torch.no_grad():
        inputs.value[2, 1] = torch.finfo(dtype).max if bad == "max" else float(bad)
    for output, function in enumerate((gaussian_mixture_log_prob, gaussian_mixture_marginal_log_prob)):
        result = function(*inputs)
        assert result[2].min() == -math.inf
        grads = torch.autograd.grad(result.sum(), inputs.tensors())
        if output == 0:
            rest = Inputs(without(inputs.value, 2), *inputs[1:])
            expected = torch.autograd.grad(function(*rest).sum(), rest.tensors())
            assert (grads[0][2] == 0).all()
            for actual, wanted in zip(grads[1:], expected[1:]):
                close(actual, wanted)
        assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("function", [gaussian_mixture_log_prob, gaussian_mixture_marginal_log_prob])
def test_a_nan_row_makes_nan_gradients_where_it_reaches(variant, dtype, function):
    inputs = mixture_inputs(6, 40, 1, dtype=dtype)
    with torch.no_grad():
        inputs.value[2] = math.nan
    result = function(*inputs).reshape(-1)
    assert result.isnan().tolist() == [row == 2 for row in range(6)]
    in_value, *in_components = torch.autograd.grad(result.sum(), inputs.tensors())
    assert in_value.isnan().reshape(-1).tolist() == [row == 2 for row in range(6)]
    assert all(g.isnan().all() for g in in_components)


@pytest.mark.parametrize("loc", [0.0, math.nan, math.inf])
def test_a_component_of_no_weight_is_absent(variant, dtype, loc):
    inputs = mixture_inputs(6, 40, 3, dtype=dtype)
    with torch.no_grad():
        inputs.log_weights[7] = -math.inf
        inputs.loc[7] = loc
    rest = Inputs(inputs.value, *(without(t, 7) for t in inputs[1:]))
    results = [tuple(gaussian_mixture_joint_and_marginal_log_prob(*i)) for i in (inputs, rest)]
    for actual, wanted in zip(*results):
        close(actual, wanted)
    grads, expected = gradients(results[0], inputs), gradients(results[1], rest)
    close(grads[0], expected[0])
    for actual, wanted in zip(grads[1:], expected[1:]):
        assert (actual[7] == 0).all()
        close(without(actual, 7).detach(), wanted)


def test_with_no_component_present_all_is_minus_infinity_and_no_gradient(variant, dtype):
    inputs = mixture_inputs(6, 40, 3, weights_shape=(), dtype=dtype)
    with torch.no_grad():
        inputs.log_weights.fill_(-math.inf)
    results = tuple(gaussian_mixture_joint_and_marginal_log_prob(*inputs))
    assert all((r == -math.inf).all() for r in results)
    assert all((g == 0).all() for g in gradients(results, inputs))


@pytest.mark.parametrize(
    ("name", "entry"),
    [("value", math.nan), ("value", math.inf), ("loc", math.nan), ("loc", -math.inf), ("scale", math.nan),
     ("scale", math.inf), ("scale", 0.0), ("log_weights", math.inf), ("log_weights", math.nan)],
)  # fmt: skip
def test_values_are_those_of_the_composition_of_torch_operations(variant, dtype, name, entry):
    inputs = mixture_inputs(6, 40, 3, dtype=dtype)
    with torch.no_grad():
        getattr(inputs, name).view(-1)[5] = entry
    validate = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        results = gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    finally:
        Distribution.set_default_validate_args(validate)
    for actual, expected in zip(results, dense(inputs)):
        bound = TIGHT[dtype]
        torch.testing.assert_close(actual, expected, rtol=bound, atol=bound, equal_nan=True)


@pytest.mark.parametrize("shapes", [{}, {"loc_batch": (1,), "weights_shape": (1, 1, 7)}])
def test_batches_of_points_of_one_mixture_are_one_problem(variant, dtype, shapes, monkeypatch):
    inputs = mixture_inputs(value_batch=(3, 2), dtype=dtype, **shapes)
    calls = []
    launch = _ops.mixture_log_prob
    monkeypatch.setattr(_ops, "mixture_log_prob", lambda *a: calls.append(a[0].shape) or launch(*a))
    folded = gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    assert [math.prod(shape[:-2]) for shape in calls] == [1]
    apart = [
        gaussian_mixture_joint_and_marginal_log_prob(points, *inputs[1:])
        for points in inputs.value.flatten(0, 1)
    ]
    apart = [torch.stack(parts).reshape(f.shape) for f, parts in zip(folded, zip(*apart))]
    torch.testing.assert_close(list(folded), apart)
    torch.testing.assert_close(gradients(folded, inputs), gradients(apart, inputs))


@pytest.mark.parametrize("batches", [{}, {"value_batch": (2,)}, {"loc_batch": (2, 1)}])
def test_no_rows_give_an_empty_result_and_zero_gradients(variant, dtype, batches):
    inputs = mixture_inputs(0, 7, 3, scale_shape=(3,), dtype=dtype, **batches)
    joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    batch = batches.get("value_batch", batches.get("loc_batch", ()))
    assert joint.shape == (*batch, 0) and marginal.shape == (*batch, 0, 3)
    assert all((g == 0).all() for g in gradients((joint, marginal), inputs))


def test_an_empty_batch(variant, dtype):
    inputs = mixture_inputs(4, 7, 3, value_batch=(0, 2), dtype=dtype)
    joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    assert joint.shape == (0, 2, 4) and marginal.shape == (0, 2, 4, 3)
    assert all((g == 0).all() for g in gradients((joint, marginal), inputs))


@pytest.mark.parametrize("scale_shape", [None, (), (5,), (3001, 1)])
def test_equal_bits_for_any_number_of_threads_and_from_run_to_run(
    variant, dtype, one_and_two_threads, scale_shape
):
    rows = 33 if variant == "reference" else 257  # enough to make every variant use its threads
    inputs = mixture_inputs(rows, 3001, 5, scale_shape=scale_shape, dtype=dtype)

    def run():
        results = tuple(gaussian_mixture_joint_and_marginal_log_prob(*inputs))
        return *results, *gradients(results, inputs)

    one, two = one_and_two_threads(run)
    for tensors in zip(one, two, run()):
        assert all(torch.equal(tensors[0], other) for other in tensors[1:])


def test_no_number_among_later_components(variant, dtype):
    inputs = mixture_inputs(9, 1100, 3, dtype=dtype)
    others = gaussian_mixture_joint_and_marginal_log_prob(*inputs).marginal[:, ::2]
    with torch.no_grad():
        inputs.loc[1000, 1] = math.nan
    joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    assert joint.isnan().all() and marginal[:, 1].isnan().all()
    torch.testing.assert_close(marginal[:, ::2], others)


def test_no_gradient_of_a_huge_density(variant, dtype):
    """Rows side by side, one of which alone has a gradient."""
    value = torch.tensor([[50.0]] + 15 * [[0.0]], dtype=dtype, requires_grad=True)
    loc = torch.tensor([[50.0], [0.0]], dtype=dtype, requires_grad=True)
    scale = torch.tensor([[1.0], [0.01]], dtype=dtype, requires_grad=True)
    log_weights = torch.tensor([0.0, 800.0], dtype=dtype, requires_grad=True)
    inputs = Inputs(value, loc, scale, log_weights)
    marginal = gaussian_mixture_marginal_log_prob(*inputs)
    of_value, of_loc, of_scale, of_weights = torch.autograd.grad(marginal[0].sum(), tuple(inputs))
    assert of_value.eq(0).all() and of_loc.eq(0).all()
    close(of_scale.flatten(), torch.tensor([-1, 0], dtype=dtype))
    close(of_weights, torch.tensor([1, 0], dtype=dtype))


def test_subnormal_numbers_are_left_alone(variant, one_and_two_threads):
    """The kernels take them as 0; nobody else shall."""
    inputs, tiny = mixture_inputs(600, 600, 3, dtype=torch.float32), torch.full((100_000,), 1e-40)

    def run():
        gradients(tuple(gaussian_mixture_joint_and_marginal_log_prob(*inputs)), inputs)
        return tiny / 2

    assert all(result.ne(0).all() for result in one_and_two_threads(run))


def test_far_narrow_components_keep_their_gradient(variant):
    """Pruning goes by what reaches the gradient, which a narrow component multiplies by 1 / scale."""
    loc = torch.zeros(65, 1, dtype=torch.float64, requires_grad=True)
    scale = torch.full((65, 1), 1e-12, dtype=torch.float64)
    log_weights = torch.full((65,), -72.6, dtype=torch.float64)
    scale[-1], log_weights[-1] = 1, 0
    value = torch.full((1, 1), 1e-12, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(gaussian_mixture_log_prob(value, loc, scale, log_weights), loc)
    responsibility = math.exp(-72.6 - 0.5) / 1e-12  # beside the wide component
    torch.testing.assert_close(gradient[0].item(), responsibility / 1e-12, rtol=1e-9, atol=0)


def test_a_scale_beyond_the_square_root_of_the_range(variant):
    value, loc = torch.tensor([[10.0]]), torch.tensor([[0.0]], requires_grad=True)
    scale = torch.tensor([[1e-20]], requires_grad=True)
    at_loc = gaussian_mixture_log_prob(torch.zeros(1, 1), loc, scale)
    torch.testing.assert_close(at_loc.item(), 45.132763, rtol=1e-6, atol=0)
    far = gaussian_mixture_log_prob(value, loc, scale)
    assert far.item() == -math.inf
    assert torch.autograd.grad(far, (loc, scale)) == (torch.zeros(1, 1), torch.zeros(1, 1))


def test_an_absent_component_has_no_gradient_beside_a_row_of_nan(variant):
    loc = torch.zeros(2, 1, requires_grad=True)
    log_weights = torch.tensor([0, -math.inf])
    log_prob = gaussian_mixture_log_prob(torch.tensor([[math.nan]]), loc, torch.ones(()), log_weights)
    (gradient,) = torch.autograd.grad(log_prob, loc)
    assert gradient[0].isnan() and gradient[1] == 0


def test_a_point_out_of_reach_gives_nothing_even_to_an_infinite_gradient(variant):
    value, loc, scale, _ = mixture_inputs(4, 5, 3, weighted=False)
    value = value.detach().index_fill(0, torch.tensor(0), math.inf).requires_grad_()
    result = gaussian_mixture_log_prob(value, loc, scale)
    upstream = torch.ones_like(result).index_fill(0, torch.tensor(0), math.inf)
    gradient, of_loc = torch.autograd.grad(result, (value, loc), upstream)
    assert gradient[0].eq(0).all() and gradient.isfinite().all() and of_loc.isfinite().all()


def test_many_components_of_one_size(variant):
    """A sum of 50,000 terms that are all alike, as hard on rounding as sums can be."""
    loc = torch.randn(50_000, 1, dtype=torch.float64)
    value = torch.randn(7, 1, dtype=torch.float64)
    expected = gaussian_mixture_log_prob(value, loc, torch.tensor(2.0, dtype=torch.float64))
    result = gaussian_mixture_log_prob(value.float(), loc.float(), torch.tensor(2.0))
    torch.testing.assert_close(result, expected.float(), rtol=0, atol=4e-6)
