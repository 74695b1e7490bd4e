"""The MMD against sums over all pairs in extended precision, its laws, and points that reach far."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from pykernels import cauchy_mmd, mmd
from pykernels.reference.mmd import DEFAULT_SCALES, default_tolerance
from pykernels.reference.mmd_panels import panel_rule
from tests.cases import EDGES

ERROR = {torch.float32: 1e-6, torch.float64: 1e-12}  # of |MMD²| + D kappa(0) / n
SLOPE_ERROR = {torch.float32: 4e-6, torch.float64: 1e-11}  # of the largest slope
KAPPA_0 = len(DEFAULT_SCALES)


def samples(n, m, dims, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(size, dims, generator=generator, dtype=torch.float64) for size in (n, m))
    return x.to(dtype), (1.2 * y + 0.1).to(dtype)


def pairs(x, y, scales=DEFAULT_SCALES, unbiased=True, weights=(None, None)):
    """Equation 10 as it stands, and its gradients, in numpy's longest floating point."""
    points = [t.detach().numpy().astype(np.longdouble) for t in (x, y)]
    masses = [
        np.ones(len(p), np.longdouble) if w is None else w.detach().numpy().astype(np.longdouble)
        for p, w in zip(points, weights)
    ]
    masses = [u / u.sum() for u in masses]
    value, slopes = np.longdouble(0), [np.zeros_like(p) for p in points]
    for (i, p), (j, q) in product(enumerate(points), repeat=2):
        factor = masses[i][:, None] * masses[j][None]
        sign = 1
        if i != j:
            sign = -1
        elif unbiased:
            np.fill_diagonal(factor, 0)
            factor = factor / (1 - (masses[i] ** 2).sum())
        for d in range(p.shape[1]):
            t = p[:, None, d] - q[None, :, d]
            value += sign * (factor * sum(s / (s + t * t) for s in scales)).sum()
            slopes[i][:, d] += 2 * sign * (factor * sum(-2 * s * t / (s + t * t) ** 2 for s in scales)).sum(1)
    return float(value), [torch.from_numpy(s.astype(np.float64)) for s in slopes]


def check(x, y, **options):
    leaves = [t.detach().requires_grad_() for t in (x, y)]
    value = cauchy_mmd(*leaves, **options)
    weights = options.pop("x_weights", None), options.pop("y_weights", None)
    expected, slopes = pairs(
        x, y, options.get("scales", DEFAULT_SCALES), options.get("unbiased", True), weights
    )
    size = abs(expected) + x.shape[1] * KAPPA_0 / min(len(x), len(y))
    assert abs(value.item() - expected) <= max(
        ERROR[x.dtype] * size, torch.finfo(x.dtype).eps * abs(expected)
    )
    for actual, wanted in zip(torch.autograd.grad(value, leaves), slopes):
        assert (actual - wanted).abs().max() <= SLOPE_ERROR[x.dtype] * wanted.abs().max()


@pytest.mark.parametrize("size", EDGES)
def test_sizes_around_lanes_and_tiles(variant, dtype, size):
    unbiased = size > 1
    check(*samples(size, 37, 3, dtype), unbiased=unbiased)
    check(*samples(150, size, 2, dtype), unbiased=unbiased)
    check(*samples(33, 140, size if size < 100 else 5, dtype))


@pytest.mark.parametrize("method", ["auto", "direct", "panels"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_every_method_and_estimate(variant, dtype, method, unbiased, weighted):
    x, y = samples(300, 210, 4, dtype)
    weights = {"x_weights": torch.rand(300), "y_weights": torch.rand(210)} if weighted else {}
    weights = {name: weight.to(dtype) for name, weight in weights.items()}
    check(x, y, unbiased=unbiased, method=method, **weights)


SCALES = [
    (1.0,),
    (0.01, 0.1, 1.0),
    (50.0, 200.0),
    (1e-4, 1.0, 1e4),
    (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0, 400.0),
]


@pytest.mark.parametrize("method", ["auto", "direct"])
@pytest.mark.parametrize("scales", SCALES)
def test_any_scales(variant, dtype, scales, method):
    check(*samples(200, 300, 2, dtype), scales=scales, method=method)


def heavy_tails(n):
    return torch.distributions.StudentT(torch.tensor(3.0, dtype=torch.float64)).sample((n, 2))


FAR = {
    "offset": lambda n: torch.randn(n, 2, dtype=torch.float64) + 1e4,
    "clusters": lambda n: torch.randn(n, 2, dtype=torch.float64) + 1e5 * torch.randn(n, 2).sign(),
    "duplicates": lambda n: torch.randn(n, 2, dtype=torch.float64).round(),
    "heavy tails": heavy_tails,
    "spread out": lambda n: 1e5 * torch.randn(n, 2, dtype=torch.float64),
    "sparse": lambda n: torch.randn(n, 2).double() * torch.where(torch.rand(n, 2) < 0.8, 0.05**0.5, 1.0),
}


@pytest.mark.parametrize("method", ["auto", "direct", "panels"])
@pytest.mark.parametrize("kind", FAR)
def test_points_that_reach_far(variant, dtype, kind, method):
    x, y = (FAR[kind](n).to(dtype) for n in (400, 300))
    check(x, y, method=method)


@pytest.mark.parametrize("method", ["direct", "panels"])
def test_sums_of_many_equal_numbers(variant, dtype, method):
    """Where rounding errors add up instead of averaging out; counts of the few numbers there are know the slopes."""
    count = 2000
    x, y = (t.round() for t in torch.randn(2, count, 1, dtype=torch.float64))
    leaf = x.to(dtype).requires_grad_()
    (slope,) = torch.autograd.grad(cauchy_mmd(leaf, y.to(dtype), method=method), leaf)
    numbers = torch.arange(-6.0, 7.0, dtype=torch.float64)
    shares = (x == numbers).double().sum(0) / (count - 1) - (y == numbers).double().mean(0)
    t = x - numbers
    expected = 2 / count * sum(-2 * s * t / (s + t * t) ** 2 for s in DEFAULT_SCALES) @ shares
    assert (slope[:, 0] - expected).abs().max() <= SLOPE_ERROR[dtype] * expected.abs().max()


@pytest.mark.parametrize("method", ["auto", "direct", "panels"])
@pytest.mark.parametrize("outlier", [1e6, 1e19, 1e30, 3e38])
def test_one_outlier(variant, dtype, outlier, method):
    x, y = samples(300, 200, 2, dtype)
    x[7, 1], y[9, 1] = outlier, -outlier  # farther apart than a number can be
    check(x, y, method=method)


@pytest.mark.parametrize("method", ["auto", "direct", "panels"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_number_in_no_number_out(variant, dtype, bad, method):
    x, y = samples(300, 200, 3, dtype)
    x[7, 1] = bad
    x.requires_grad_()
    value = cauchy_mmd(x, y, method=method)
    assert value.isnan()
    (slope,) = torch.autograd.grad(value, x)
    assert slope.isnan().all(0).tolist() == [False, True, False]
    assert slope[:, ::2].isfinite().all()


@pytest.mark.parametrize("method", ["direct", "panels"])
def test_a_sample_against_itself(variant, dtype, method):
    x, _ = samples(500, 1, 3, dtype)
    assert abs(cauchy_mmd(x, x, unbiased=False, method=method).item()) <= 1e-8
    t = x.double()[:, None] - x.double()
    within = sum(s / (s + t * t) for s in DEFAULT_SCALES).mean((0, 1))
    closed = (2 * (within - KAPPA_0) / 499).sum().item()
    assert cauchy_mmd(x, x, method=method).item() == pytest.approx(
        closed, rel=1e-6 if dtype == torch.float32 else 1e-11
    )


def test_laws(variant, dtype):
    x, y = samples(300, 200, 3, dtype)
    value = cauchy_mmd(x, y)
    near = pytest.approx(value.item(), abs=10 * ERROR[dtype])
    assert cauchy_mmd(y, x).item() == near
    assert cauchy_mmd(x.flip(0), y).item() == near
    assert cauchy_mmd(x[:, [2, 0, 1]], y[:, [2, 0, 1]]).item() == near
    assert cauchy_mmd(4 * x, 4 * y, [16 * s for s in DEFAULT_SCALES]).item() == near
    assert sum(cauchy_mmd(x[:, [d]], y[:, [d]]).item() for d in range(3)) == near
    assert cauchy_mmd(x, y, unbiased=False) > 0


def test_the_unbiased_estimate_has_mean_zero(variant):
    count = 300 if variant == "emulated" else 2000
    draws = torch.randn(count, 2, 40, 2, dtype=torch.float64)
    values = cauchy_mmd(draws[:, 0], draws[:, 1], method="panels")
    error = values.std() / count**0.5
    assert values.mean().abs() < 3 * error
    assert 0.45 < (values < 0).double().mean() < 0.7  # the law is skewed: more than half are below its mean


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scales", [DEFAULT_SCALES, (1.0,), (0.01, 0.1, 1.0), (50.0, 200.0)])
def test_the_bound_of_interpolation_is_kept_and_sharp(dtype, scales):
    tolerance = default_tolerance(dtype)
    width, order = panel_rule(scales, tolerance)
    bound = 2 / len(scales) * sum(1 / math.sinh(order * math.asinh(2 * s**0.5 / width)) for s in scales)
    assert bound <= tolerance
    # A coarse rule of the same family, whose error rounding does not hide.
    coarse, half = 8, width
    bound = sum(1 / math.sinh(coarse * math.asinh(s**0.5 / half)) for s in scales)
    angle = np.pi * (np.arange(coarse) + 0.5) / coarse
    nodes, points = half * np.cos(angle), half * np.linspace(-1, 1, 401)
    cardinal = np.array([np.prod([(points - b) / (a - b) for b in nodes if b != a], axis=0) for a in nodes])
    worst = 0.0
    for shift in np.linspace(-2, 2, 41) * half:
        kappa = [sum(s / (s + (at - shift) ** 2) for s in scales) for at in (nodes, points)]
        worst = max(worst, np.abs(kappa[0] @ cardinal - kappa[1]).max())
    assert 0.2 * bound < worst <= bound * (1 + 1e-9)


@pytest.mark.parametrize("method, n, m, dims", [("auto", 5000, 4000, 6), ("direct", 700, 600, 2)])
def test_equal_bits_for_any_number_of_threads(variant, dtype, one_and_two_threads, method, n, m, dims):
    x, y = (t.requires_grad_() for t in samples(n, m, dims, dtype))

    def run():
        value = cauchy_mmd(x, y, method=method)
        return [value, *torch.autograd.grad(value, (x, y))]

    for first, second, again in zip(*one_and_two_threads(run), run()):
        assert torch.equal(first, second)
        assert torch.equal(first, again)


def test_memory_layouts_and_batches(variant, dtype):
    x, y = samples(120, 90, 4, dtype)
    expected = cauchy_mmd(x, y)
    wide = torch.zeros(121, 9, dtype=dtype)
    wide[1:, 1::2] = x
    same = pytest.approx(expected.item(), abs=ERROR[dtype])
    assert cauchy_mmd(wide[1:, 1::2], y.mT.contiguous().mT).item() == same
    batched = cauchy_mmd(torch.stack([x, 2 * x]).unsqueeze(1), torch.stack([y, y, 3 * y]))
    assert batched.shape == (2, 3)
    assert batched[0, 0].item() == same
    assert batched[1, 2].item() == pytest.approx(cauchy_mmd(2 * x, 3 * y).item(), abs=ERROR[dtype])
    assert cauchy_mmd(x.new_zeros(0, 5, 2), x.new_zeros(4, 2)).shape == (0,)


def dense_vectors(x, y, scales, kernel="cauchy", unbiased=True):
    def sums(a, b, same):
        q = (a.double()[:, None] - b.double()).square().sum(-1)
        k = sum(s / (s + q) if kernel == "cauchy" else (-q / (2 * s)).exp() for s in scales)
        if same and unbiased:
            return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))
        return k.mean()

    return sums(x, x, True) + sums(y, y, True) - 2 * sums(x, y, False)


@pytest.mark.parametrize("kernel", ["cauchy", "gaussian"])
@pytest.mark.parametrize("unbiased", [True, False])
def test_whole_vectors(dtype, kernel, unbiased):
    x, y = samples(40, 60, 3, dtype)
    scales = [2 * 3 * f for f in (0.1, 0.2, 0.5, 1, 2, 5)]
    expected = dense_vectors(x, y, scales, kernel, unbiased)
    assert mmd(x, y, kernel, unbiased=unbiased).item() == pytest.approx(expected.item(), abs=1e-7)
    if dtype == torch.float64:
        leaves = [t[:6].detach().requires_grad_() for t in (x, y)]
        assert torch.autograd.gradcheck(lambda a, b: mmd(a, b, kernel, unbiased=unbiased), leaves)


@pytest.mark.parametrize("kind", FAR)
def test_whole_vectors_that_reach_far(dtype, kind):
    x, y = (FAR[kind](n).to(dtype).requires_grad_() for n in (700, 600))  # several tiles of each
    value, expected = mmd(x, y, scales=DEFAULT_SCALES), dense_vectors(x, y, DEFAULT_SCALES)
    assert value.item() == pytest.approx(expected.item(), abs=ERROR[dtype] * KAPPA_0 / 600 * 10)
    slopes = [torch.autograd.grad(v, (x, y)) for v in (value, expected)]
    for actual, wanted in zip(*slopes):
        assert (actual - wanted).abs().max() <= SLOPE_ERROR[dtype] * wanted.abs().max()
