"""Minibatch estimates: their formulas to the letter, what they estimate, and the contract of every operator."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal
from torch.func import grad, vmap

import pykernels
from pykernels import _launch, minibatch_log_prob, reference
from pykernels.reference.minibatch import ESTIMATORS, pair_weights
from tests.cases import Inputs, gradients, mixture_inputs
from tests.tolerance import assert_accurate

OP = torch.ops.pykernels
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def weight(estimator: str, size: int, n: int, b: int, i: int) -> float:
    """What encoding i weighs at point b, of a minibatch of `size` out of n: specification, section 4."""
    others = size - 1
    if estimator == "batch":
        return 1 / size
    if estimator == "mws":
        return 1 / (n * size)
    if i == b:
        return 1 / n
    if estimator == "hfvae":
        return (n - 1) / (n * others)
    return (n - others) / (n * others) if i == (b + 1) % size else 1 / others


def literal(inputs, n, estimator):
    """Number by number, each density a sum of products."""
    z, loc, scale = (t.tolist() for t in inputs)
    size, dims = len(z), len(z[0])
    joint, marginal = [], []
    for b in range(size):
        total, of_dim = 0.0, [0.0] * dims
        for i in range(size):
            w, product = weight(estimator, size, n, b, i), 1.0
            for d in range(dims):
                u = (z[b][d] - loc[i][d]) / scale[i][d]
                density = math.exp(-u * u / 2) / (scale[i][d] * math.sqrt(2 * math.pi))
                of_dim[d] += w * density
                product *= density
            total += w * product
        joint.append(math.log(total))
        marginal.append([math.log(q) for q in of_dim])
    return [torch.tensor(numbers, dtype=torch.float64) for numbers in (joint, marginal)]


def dense(inputs, n, estimator):
    """The same by broadcasting, differentiable and in the inputs' own dtype."""
    z, loc, scale = inputs[:3]
    size = z.shape[-2]
    own, following, other = (weight(estimator, size, n, 0, i % size) for i in (0, 1, 2 if size > 2 else 1))
    row = torch.arange(size)
    log_weights = torch.full((size, size), math.log(other), dtype=z.dtype)
    log_weights[row, (row + 1) % size], log_weights[row, row] = math.log(following), math.log(own)
    log_normal = -0.5 * ((z.unsqueeze(-2) - loc.unsqueeze(-3)) / scale.unsqueeze(-3)) ** 2
    log_normal = log_normal - scale.unsqueeze(-3).log() - 0.5 * math.log(2 * math.pi)
    marginal = torch.logsumexp(log_normal + log_weights.unsqueeze(-1), -2)
    return torch.logsumexp(log_normal.sum(-1) + log_weights, -1), marginal


def minibatch(size, dims=3, **options) -> Inputs:
    return mixture_inputs(size, size, dims, weighted=False, **options)


def run(inputs, n, estimator):
    return tuple(minibatch_log_prob(*inputs[:3], n, estimator))


@each_estimator
@pytest.mark.parametrize(
    ("size", "dims", "n"), [(2, 1, 2), (2, 3, 50), (3, 2, 3), (9, 2, 1000), (37, 3, 60_000)]
)
def test_formulas_to_the_letter(variant, estimator, size, dims, n):
    inputs = [t.detach() for t in minibatch(size, dims)[:3]]
    for actual, expected in zip(run(inputs, n, estimator), literal(inputs, n, estimator)):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@each_estimator
@pytest.mark.parametrize("size", [2, 3, 8, 9, 16, 17, 33, 129, 300])
def test_values_and_gradients_around_lanes_and_tiles(variant, dtype, estimator, size):
    inputs = minibatch(size, dtype=dtype)
    exact = inputs.to(torch.float64)
    forms = run(inputs, 5000, estimator), dense(exact, 5000, estimator), dense(inputs, 5000, estimator)
    largest = 1 + max(result.abs().max().item() for result in forms[1])
    for actual, expected, broadcast in zip(*forms):
        assert_accurate(actual, expected, broadcast, largest)
    of = gradients(forms[0], inputs), gradients(forms[1], exact), gradients(forms[2], inputs)
    for actual, expected, broadcast in zip(*of):
        assert_accurate(actual, expected, broadcast, largest * (1 + expected.abs().max().item()))


@each_estimator
@pytest.mark.parametrize(("size", "dims"), [(1100, 2), (600, 17)])
def test_many_tiles(variant, dtype, estimator, size, dims):
    if variant in (_launch.EMULATED, _launch.REFERENCE):
        size //= 4  # and still many
    inputs = minibatch(size, dims, dtype=dtype)
    exact = inputs.to(torch.float64)
    results, expected = run(inputs, 70_000, estimator), dense(exact, 70_000, estimator)
    bound = {torch.float32: 1e-4, torch.float64: 1e-11}[dtype]
    of = gradients(results, inputs), gradients(expected, exact)
    for actual, wanted in zip((*results, *of[0]), (*expected, *of[1])):
        torch.testing.assert_close(actual.double(), wanted, rtol=bound, atol=bound)


@each_estimator
def test_narrow_encodings_of_one_dimension_that_overlap_little(variant, estimator):
    """As a VAE has them: a point's own encoding outweighs all others, whatever these weigh."""
    loc = 3 * torch.randn(200, 5)
    scale = torch.full((200, 5), 0.01)
    inputs = Inputs(*(t.requires_grad_() for t in (loc + scale * torch.randn(200, 5), loc, scale)), None)
    exact = inputs.to(torch.float64)
    forms = run(inputs, 10**6, estimator), dense(exact, 10**6, estimator), dense(inputs, 10**6, estimator)
    of = [gradients(form, given) for form, given in zip(forms, (inputs, exact, inputs))]
    for actual, expected, broadcast in (*zip(*forms), *zip(*of)):
        assert_accurate(actual, expected, broadcast, 0)


@pytest.mark.parametrize(("estimator", "total"), [("mws", 1 / 50), ("mss", 1), ("hfvae", 1), ("batch", 1)])
@pytest.mark.parametrize("size", [2, 3, 10, 50])
def test_weights_of_a_row_sum_to_what_the_formula_says(variant, estimator, total, size):
    """With one encoding for all, the density is its density times that sum."""
    loc = torch.zeros(size, 2, dtype=torch.float64)
    z = torch.randn(size, 2, dtype=torch.float64)
    joint, marginal = minibatch_log_prob(z, loc, loc + 1, 50, estimator)
    expected = Normal(loc, 1.0).log_prob(z) + math.log(total)
    torch.testing.assert_close(marginal, expected)
    torch.testing.assert_close(joint, expected.sum(-1) - math.log(total))
    own, following, other = pair_weights(estimator, size, 50)
    assert math.isclose(own + following + (size - 2) * other, total)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("estimator", ["hfvae", "mss"])
def test_the_density_is_unbiased_given_a_point_and_its_encoding(variant, estimator, size):
    """The others being drawn without replacement: the mean over every ordered choice of them."""
    loc, scale = torch.randn(5, 2, dtype=torch.float64), 0.5 + torch.rand(5, 2, dtype=torch.float64)
    point = loc[2] + scale[2] * torch.randn(2, dtype=torch.float64)
    choices = [(2, *others) for others in itertools.permutations([0, 1, 3, 4], size - 1)]
    chosen = torch.tensor(choices)
    z = point.expand(len(choices), size, 2)
    joint, marginal = minibatch_log_prob(z, loc[chosen], scale[chosen], 5, estimator)
    exact = pykernels.gaussian_mixture_joint_and_marginal_log_prob(point[None], loc, scale)
    torch.testing.assert_close(joint[:, 0].exp().mean(), exact.joint[0].exp())
    torch.testing.assert_close(marginal[:, 0].exp().mean(0), exact.marginal[0].exp())
    biased = minibatch_log_prob(z, loc[chosen], scale[chosen], 5, "batch").joint[:, 0].exp().mean()
    assert size == 5 or (biased - exact.joint[0].exp()).abs() > 1e-3 * biased


def test_equation_11b_is_the_mean_of_the_stratified_estimate_over_the_place_of_the_odd_one(variant):
    z, loc, scale = (t.detach() for t in minibatch(6)[:3])
    densities = []
    for shift in range(5):  # the others of row 0 in every cyclic order
        order = torch.tensor([0, *((torch.arange(5) + shift) % 5 + 1)])
        joint, marginal = minibatch_log_prob(z[order], loc[order], scale[order], 40, "mss")
        densities.append(torch.cat([joint[:1], marginal[0]]).exp())
    joint, marginal = minibatch_log_prob(z, loc, scale, 40, "hfvae")
    torch.testing.assert_close(torch.stack(densities).mean(0), torch.cat([joint[:1], marginal[0]]).exp())


@pytest.mark.parametrize("n", [64, 65, 60_000])
@pytest.mark.parametrize("width", [0.01, 0.3, 3.0])
def test_the_entropy_estimate_never_exceeds_its_bound(variant, n, width):
    loc = torch.randn(64, 4, dtype=torch.float64)
    scale = width * (0.5 + torch.rand(64, 4, dtype=torch.float64))
    z = loc + scale * torch.randn(64, 4, dtype=torch.float64)
    own = Normal(loc, scale).log_prob(z).sum(-1)
    for estimator in ("hfvae", "mss"):
        joint, _ = minibatch_log_prob(z, loc, scale, n, estimator)
        assert (-joint <= math.log(n) - own + 1e-12).all()
        tight = width == 0.01  # where nothing overlaps, the bound is what comes out
        assert ((math.log(n) - own + joint).max() < 1e-6) == tight


@pytest.mark.parametrize("estimator", ["hfvae", "batch"])
def test_the_whole_data_set_as_its_own_minibatch_is_exact(variant, dtype, estimator):
    inputs = minibatch(40, dtype=dtype)
    exact = pykernels.gaussian_mixture_joint_and_marginal_log_prob(*inputs)
    for actual, expected in zip(run(inputs, 40, estimator), exact):
        torch.testing.assert_close(actual, expected)


@each_estimator
@pytest.mark.parametrize("scale_shape", [None, (), (5, 1), (3,)])
def test_first_and_second_derivatives(variant, estimator, scale_shape):
    inputs = tuple(minibatch(5, scale_shape=scale_shape)[:3])

    def function(*inputs):
        return run(inputs, 9, estimator)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    for output in range(2):
        assert torch.autograd.gradcheck(lambda *inputs, output=output: function(*inputs)[output], inputs)


def test_second_derivatives_tile_by_tile(monkeypatch):
    monkeypatch.setattr(reference.mixture, "TILE_ELEMENTS", 7)
    assert torch.autograd.gradgradcheck(lambda *inputs: run(inputs, 9, "mss"), tuple(minibatch(5, 2)[:3]))


@each_estimator
def test_the_reference_by_itself(estimator):
    inputs = minibatch(7)
    by_itself = tuple(reference.minibatch_log_prob(*inputs[:3], 20, estimator))
    torch.testing.assert_close(by_itself, run(inputs, 20, estimator))
    torch.testing.assert_close(gradients(by_itself, inputs), gradients(run(inputs, 20, estimator), inputs))


@pytest.mark.parametrize("asked", range(3))
def test_only_what_requires_a_gradient_gets_one(variant, asked):
    inputs = [t.detach() for t in minibatch(20)[:3]]
    inputs[asked].requires_grad_()
    expected = torch.autograd.grad(sum(o.sum() for o in dense(inputs, 30, "mss")), inputs[asked])
    sum(o.sum() for o in run(inputs, 30, "mss")).backward()
    assert [t.grad is not None for t in inputs] == [i == asked for i in range(3)]
    torch.testing.assert_close(inputs[asked].grad, expected[0])


@each_estimator
def test_batches_vmap_and_func_grad(variant, estimator):
    z, loc, scale = (
        t.detach() for t in minibatch(9, value_batch=(2, 1), loc_batch=(3,), scale_shape=(3,))[:3]
    )

    def loss(z, loc, scale):
        joint, marginal = minibatch_log_prob(z, loc, scale, 100, estimator)
        return (joint + marginal.sin().sum(-1)).sum()

    joint, marginal = minibatch_log_prob(z, loc, scale, 100, estimator)
    one_by_one = [minibatch_log_prob(a, b, scale, 100, estimator) for a in z[:, 0] for b in loc]
    torch.testing.assert_close(joint.flatten(0, 1), torch.stack([one.joint for one in one_by_one]))
    torch.testing.assert_close(marginal.flatten(0, 1), torch.stack([one.marginal for one in one_by_one]))
    derivative = grad(loss, argnums=(0, 1, 2))
    mapped = vmap(derivative, in_dims=(None, 0, None))(z[0, 0], loc, scale)
    for actual, expected in zip(mapped, zip(*(derivative(z[0, 0], one, scale) for one in loc))):
        torch.testing.assert_close(actual, torch.stack(expected))


@compiles
@each_estimator
def test_compile_without_graph_breaks(estimator):
    torch._dynamo.reset()
    compiled = torch.compile(minibatch_log_prob, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (4, 6):
        inputs = minibatch(size)
        results = [tuple(f(*inputs[:3], 50, estimator)) for f in (compiled, minibatch_log_prob)]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*(gradients(r, inputs) for r in results))


def test_opcheck(variant):
    z, loc, scale = (t.detach() for t in minibatch(9, loc_batch=(2,), scale_shape=(1, 1, 3))[:3])
    z = z.expand(2, 9, 3)
    arguments = z, loc, scale, None, True, True, True, "mss", 50
    torch.library.opcheck(OP.mixture_log_prob.default, arguments)
    outputs = OP.mixture_log_prob(*arguments)
    size = len(outputs) // 2
    joint, marginal = outputs[:size], outputs[size:]
    slopes = (joint[2], marginal[2]) if size == 3 else (None, None)
    cotangents = [torch.randn_like(o) for o in (joint[0], marginal[0])]
    for mask in ([True, True, True, False], [False, True, False, False]):
        backward = *cotangents, joint[1], marginal[1], *slopes, z, loc, scale, None, mask, None, "mss", 50
        torch.library.opcheck(OP.mixture_log_prob_backward.default, backward)


@each_estimator
def test_memory_layouts(variant, dtype, estimator):
    source = minibatch(19, 5, dtype=dtype)
    layouts = (
        lambda t: t.mT.contiguous().mT,
        lambda t: torch.stack([t, t + 1], -1)[..., 0],
        lambda t: torch.cat([t.new_zeros(1), t.reshape(-1)])[1:].view(t.shape),
    )
    expected = run(source, 40, estimator)
    expected_gradients = gradients(expected, source)
    for layout in layouts:
        laid_out = Inputs(*(layout(t.detach()).requires_grad_() for t in source[:3]), None)
        actual = run(laid_out, 40, estimator)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        torch.testing.assert_close(gradients(actual, laid_out), expected_gradients)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_inputs_compute_in_float32_and_keep_their_gradients_dtype(variant, half):
    inputs = minibatch(9, dtype=torch.float32).to(half)
    results, wide = run(inputs, 30, "hfvae"), inputs.to(torch.float32)
    expected = run(wide, 30, "hfvae")
    torch.testing.assert_close(results, expected, rtol=0, atol=0)
    for actual, wanted in zip(gradients(results, inputs), gradients(expected, wide)):
        torch.testing.assert_close(actual, wanted.to(half), rtol=0, atol=0)


@each_estimator
def test_equal_bits_for_any_number_of_threads_and_from_run_to_run(
    variant, dtype, estimator, one_and_two_threads
):
    inputs = minibatch(90 if variant in ("reference", "emulated") else 1500, dtype=dtype)

    def results():
        found = run(inputs, 5000, estimator)
        return *found, *gradients(found, inputs)

    one, two = one_and_two_threads(results)
    for tensors in zip(one, two, results()):
        assert all(torch.equal(tensors[0], other) for other in tensors[1:])


@each_estimator
@pytest.mark.parametrize("entry", [math.inf, math.nan])
def test_a_point_out_of_reach_and_one_that_is_no_number(variant, dtype, estimator, entry):
    inputs = minibatch(20, dtype=dtype)
    with torch.no_grad():
        inputs.value[7, 1] = entry
    results = run(inputs, 30, estimator)
    for actual, expected in zip(results, dense(inputs, 30, estimator)):
        torch.testing.assert_close(actual, expected, equal_nan=True)
    of_value, *of_encodings = gradients(results[:1], inputs)
    if entry == math.inf:
        assert all(g.isfinite().all() for g in (of_value, *of_encodings)) and of_value[7].eq(0).all()
    else:
        assert of_value.isnan().any(-1).tolist() == [row == 7 for row in range(20)]
        assert all(g.isnan().all() for g in of_encodings)


def test_an_empty_batch_of_minibatches(variant, dtype):
    inputs = minibatch(4, value_batch=(0,), dtype=dtype)
    joint, marginal = results = run(inputs, 9, "hfvae")
    assert joint.shape == (0, 4) and marginal.shape == (0, 4, 3)
    assert all((g == 0).all() for g in gradients(results, inputs))
