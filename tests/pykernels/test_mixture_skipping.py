"""Large problems take another way through the forward pass: leaves of components are left out for the rows they cannot
matter to. The results must not show it."""

import math

import pytest
import torch

from pykernels import _launch, gaussian_mixture_joint_and_marginal_log_prob, gaussian_mixture_log_prob

COMPONENTS, ROWS = 20_000, 2_048  # large enough for the probe to be asked


def dense_log_prob(value, loc, scale, log_weights=None):
    """The definition in float64, a few rows at a time."""
    loc, scale = loc.double(), scale.double().expand(loc.shape)
    weights = -math.log(len(loc)) if log_weights is None else log_weights.double()
    normal = torch.distributions.Normal(loc, scale, validate_args=False)
    return torch.stack([torch.logsumexp(normal.log_prob(z).sum(-1) + weights, 0) for z in value.double()])


def clustered(dims, sigma, dtype=torch.float32):
    loc = torch.randn(COMPONENTS, dims, dtype=dtype)
    nearest = torch.randint(COMPONENTS, (ROWS,))
    return (
        loc[nearest] + sigma * torch.randn(ROWS, dims, dtype=dtype),
        loc,
        torch.full((), sigma, dtype=dtype),
    )


def check(value, loc, scale, log_weights=None, rows=slice(0, None, 61)):
    actual = gaussian_mixture_log_prob(value, loc, scale, log_weights)[rows].double()
    expected = dense_log_prob(value[rows], loc, scale, log_weights)
    tolerance = 1e-10 if value.dtype == torch.float64 else 2e-6
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.fixture(params=[name for name in _launch.variants() if name != _launch.REFERENCE])
def kernel(request):
    with _launch.use_variant(request.param):
        yield request.param


@pytest.mark.parametrize("sigma", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("dims", [3, 10])
def test_narrow_and_wide_components(kernel, dims, sigma):
    check(*clustered(dims, sigma))


def test_every_row_where_nothing_is_left_out(kernel, dtype):
    """Of rows that are summed side by side, some meet what they are near to in the first components, some in the last:
    what one still waits for must not cost another what it has."""
    loc = torch.randn(12_000, 10, dtype=dtype)
    value = loc[torch.randint(12_000, (400,))] + 0.2 * torch.randn(400, 10, dtype=dtype)
    problem = value, loc, torch.tensor(0.2, dtype=dtype)
    expected = dense_log_prob(*problem)
    for log_prob in (
        gaussian_mixture_log_prob(*problem),
        gaussian_mixture_joint_and_marginal_log_prob(*problem).joint,
    ):
        torch.testing.assert_close(log_prob.double(), expected, rtol=1e-6, atol=1e-5)


def test_double_precision(kernel):
    check(*clustered(4, 0.02, torch.float64))


def test_weights_and_absent_components(kernel):
    value, loc, scale = clustered(6, 0.05)
    log_weights = torch.randn(COMPONENTS)
    loc[::7], log_weights[::7] = math.nan, -math.inf
    expected_loc = torch.where(log_weights.isinf().unsqueeze(-1), torch.zeros(()), loc)
    actual = gaussian_mixture_log_prob(value, loc, scale, log_weights)[::64].double()
    # Rows beside absent components are far from everything: their densities are as small as -1e6 nats.
    expected = dense_log_prob(value[::64], expected_loc, scale, log_weights)
    torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-6, equal_nan=True)


def test_a_component_of_nan_reaches_every_row(kernel):
    value, loc, scale = clustered(6, 0.05)
    loc[12_345, 2] = math.nan
    assert gaussian_mixture_log_prob(value, loc, scale).isnan().all()


def test_rows_of_infinity_and_nan_keep_to_themselves(kernel):
    value, loc, scale = clustered(6, 0.05)
    value[64, 1], value[128, 0], value[192] = math.inf, math.nan, 1e15
    check(value, loc, scale)


def test_all_components_alike(kernel):
    value, loc, scale = clustered(6, 0.05)
    check(value, torch.zeros_like(loc), scale)


def test_one_dimension_varies(kernel):
    value, loc, scale = clustered(6, 0.01)
    loc[:, 1:], value[:, 1:] = 0.5, 0.5
    check(value, loc, scale)


def test_scales_of_every_size(kernel):
    value, loc, _ = clustered(6, 0.05)
    check(value, loc, torch.logspace(-3, 1, COMPONENTS).unsqueeze(-1))


def test_one_and_two_threads_give_equal_bits(kernel):
    inputs = clustered(10, 0.05)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(gaussian_mixture_log_prob(*inputs))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_a_batch_of_problems(kernel):
    value, loc, scale = clustered(6, 0.05)
    batched = gaussian_mixture_log_prob(torch.stack((value, value.flip(0))), loc, scale)
    assert torch.equal(batched[0], gaussian_mixture_log_prob(value, loc, scale))
    assert torch.equal(batched[1], gaussian_mixture_log_prob(value.flip(0), loc, scale))
