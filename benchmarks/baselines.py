"""Other ways to what `pykernels` computes, each as its users write it.

Those of the mixture's log-density take value [B, D], loc [n, D] and scale [n, D], weigh the components equally, and
return [B]; those of the MMD take x [n, D] and y [m, D], and return the unbiased estimate, but GeomLoss' the biased
one. All are differentiable in every argument.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.utils.checkpoint import checkpoint

Formulation = Callable[[Tensor, Tensor, Tensor], Tensor]
Mmd = Callable[[Tensor, Tensor], Tensor]

CHUNK_ELEMENTS = 1_000_000  # of a [rows, n, D] temporary: near the fastest on a CPU, whose caches it suits
SCALES = (0.2, 0.4, 1.0, 2.0, 4.0, 10.0)  # of the dimension-wise MMD
CHUNK_LOGITS = (1 << 20, 1 << 22, 1 << 40)  # of a [rows, n] temporary; the last takes all rows at once


def dense(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """`torch.distributions` broadcast to [B, n, D], then a log-mean-exp: how the code of Mathieu et al. 2019 and most
    implementations of the total correlation write it."""
    log_prob = Normal(loc, scale).log_prob(value.unsqueeze(-2)).sum(-1)
    return torch.logsumexp(log_prob, -1) - math.log(loc.shape[-2])


def dense_marginals(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The sum over dimensions of the marginals' log-densities, like `dense`."""
    log_prob = Normal(loc, scale).log_prob(value.unsqueeze(-2))
    return (torch.logsumexp(log_prob, -2) - math.log(loc.shape[-2])).sum(-1)


def dense_both(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Joint log-density less the sum of the marginal ones, the integrand of the total correlation."""
    log_prob = Normal(loc, scale).log_prob(value.unsqueeze(-2))
    count = math.log(loc.shape[-2])
    joint = torch.logsumexp(log_prob.sum(-1), -1) - count
    return joint - (torch.logsumexp(log_prob, -2) - count).sum(-1)


def dense_responsibilities(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log-density, and logarithms of perplexity and collision count of the responsibilities, all in one sum."""
    log_prob = Normal(loc, scale).log_prob(value.unsqueeze(-2)).sum(-1)
    density = torch.logsumexp(log_prob, -1)
    log_r = log_prob - density.unsqueeze(-1)
    entropy = -(log_r.exp() * log_r).sum(-1)
    return density - math.log(loc.shape[-2]) + entropy - torch.logsumexp(2 * log_r, -1)


def chunked(elements: int = CHUNK_ELEMENTS, formulation: Formulation = dense) -> Formulation:
    """`dense` by chunks of rows, recomputed in the backward pass: what is done when `dense` runs out of memory."""

    def log_prob(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        parts = value.split(max(1, elements // loc.numel()))
        return torch.cat([checkpoint(formulation, part, loc, scale, use_reentrant=False) for part in parts])

    return log_prob


def matrix_product(logits: int) -> Formulation:
    """The square expanded, so that one matrix product does the work: the trick of `torch.cdist` and of GEMM-based
    kernel density estimators. It cancels badly where scales are small beside locations."""

    def log_prob(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        n, dims = loc.shape
        precision = scale.square().reciprocal()
        factors = torch.cat([-0.5 * precision, loc * precision], -1).T
        constant = -(0.5 * loc.square() * precision + scale.log()).sum(-1)
        features = torch.cat([value.square(), value], -1).split(max(1, logits // n))
        parts = [torch.logsumexp(torch.addmm(constant, part, factors), -1) for part in features]
        return torch.cat(parts) - (math.log(n) + 0.5 * dims * math.log(2 * math.pi))

    return log_prob


def compiled(formulation: Formulation = dense) -> Formulation:
    """`dense` under `torch.compile`, which fuses the temporaries away where it can; for one shape."""
    return torch.compile(formulation, fullgraph=True, dynamic=False)


def keops(value: Tensor, loc: Tensor, scale: Tensor, backend: str = "auto") -> Tensor:
    """KeOps' symbolic reduction, as in its tutorial on Gaussian mixtures; it compiles once for each D."""
    from pykeops.torch import LazyTensor

    n, dims = loc.shape
    z, m, inverse = LazyTensor(value[:, None, :]), LazyTensor(loc[None]), LazyTensor(scale.reciprocal()[None])
    log_scale = LazyTensor(scale.log().sum(-1)[None, :, None])
    log_prob = -0.5 * (((z - m) * inverse) ** 2).sum(-1) - log_scale
    return log_prob.logsumexp(1, backend=backend).squeeze(-1) - (
        math.log(n) + 0.5 * dims * math.log(2 * math.pi)
    )


def dense_minibatch(estimator: str, dataset_size: int, rows: Tensor | None = None) -> Formulation:
    """Joint less the sum of the marginals of a minibatch estimate, the integrand of the total correlation, as the code
    of Chen et al. 2018 has it: all [B, B, D] log-densities, and for stratified sampling (and equation 11b) a [B, B]
    matrix of log-weights beside them. But the weights are where the formulas say. Only of `rows`, if given."""

    def integrand(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        size, n = len(z), dataset_size
        chosen = torch.arange(size, device=z.device) if rows is None else rows
        log_prob = Normal(loc, scale).log_prob(z[chosen].unsqueeze(1))
        if estimator == "mws":
            constant = math.log(n * size)
            joint = torch.logsumexp(log_prob.sum(2), 1) - constant
            return joint - (torch.logsumexp(log_prob, 1) - constant).sum(1)
        others = size - 1
        following = (n - others) / (n * others) if estimator == "mss" else (n - 1) / (n * others)
        weights = z.new_full((size, size), 1 / others if estimator == "mss" else following)
        weights.view(-1)[:: size + 1] = 1 / n
        weights.view(-1)[1 :: size + 1] = following
        weights[-1, 0] = following
        log_weights = weights.log()[chosen]
        joint = torch.logsumexp(log_weights + log_prob.sum(2), 1)
        return joint - torch.logsumexp(log_weights.unsqueeze(2) + log_prob, 1).sum(1)

    return integrand


def dense_mmd(x: Tensor, y: Tensor) -> Tensor:
    """The dimension-wise MMD of `pykernels.cauchy_mmd` from three [n, n, D] tensors of squared distances, as the code
    of Mathieu et al. 2019 has it."""
    n, m = len(x), len(y)
    within_x, within_y, across = ((a[:, None] - b).square() for a, b in ((x, x), (y, y), (x, y)))
    other_x, other_y = (1 - torch.eye(count, device=x.device)[..., None] for count in (n, m))
    total = x.new_zeros(())
    for scale in SCALES:
        total = total + (other_x * (scale / (scale + within_x))).sum() / (n * (n - 1))
        total = total + (other_y * (scale / (scale + within_y))).sum() / (m * (m - 1))
        total = total - 2 * (scale / (scale + across)).sum() / (n * m)
    return total


def chunked_mmd(x: Tensor, y: Tensor) -> Tensor:
    """`dense_mmd` by chunks of rows, recomputed in the backward pass, so that more points fit into memory."""

    def part(rows: Tensor, columns: Tensor) -> Tensor:
        squared = (rows[:, None] - columns).square()
        return sum((scale / (scale + squared)).sum() for scale in SCALES)

    def total(a: Tensor, b: Tensor) -> Tensor:
        rows = max(1, CHUNK_ELEMENTS // b.numel())
        return sum(checkpoint(part, chunk, b, use_reentrant=False) for chunk in a.split(rows))

    return _of_totals(total, x, y)


def compiled_mmd() -> Mmd:
    """`dense_mmd` under `torch.compile`, for one shape."""
    return torch.compile(dense_mmd, fullgraph=True, dynamic=False)


def keops_mmd(x: Tensor, y: Tensor, backend: str = "auto") -> Tensor:
    """A symbolic reduction over dimensions and points."""
    from pykeops.torch import LazyTensor

    def total(a: Tensor, b: Tensor) -> Tensor:
        squared = (LazyTensor(a[:, None, :]) - LazyTensor(b[None])) ** 2
        kernel = sum(scale / (squared + scale) for scale in SCALES)
        return kernel.sum(-1).sum(1, backend=backend).sum()

    return _of_totals(total, x, y)


def geomloss_mmd(variance: float, backend: str) -> Mmd:
    """GeomLoss' kernel norm of whole vectors, which is half of the biased MMD² of a Gaussian kernel."""
    from geomloss import SamplesLoss

    half = SamplesLoss("gaussian", blur=math.sqrt(variance), backend=backend)
    return lambda x, y: 2 * half(x, y)


def _of_totals(total: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate from the sums over all pairs, of which those of a point with itself are known."""
    n, m = len(x), len(y)
    own = len(SCALES) * x.shape[1]
    within = (total(x, x) - own * n) / (n * (n - 1)) + (total(y, y) - own * m) / (m * (m - 1))
    return within - 2 * total(x, y) / (n * m)
