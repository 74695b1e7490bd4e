"""Random calls of the public functions: shapes, strides, dtypes, values and options, most of them lawful and some not.
A case is its number: the same number makes the same call."""

import random
from collections.abc import Callable
from functools import partial
from math import isqrt, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

import pykernels
from pykernels import reference
from pykernels.reference.wasserstein import sliced_wasserstein as sliced_along

JUNK = ("", "MWS", "exact\0", "панели", None, 3, 2.5, True, float("nan"), -1, 10**30, object())
TAME = ("normal", "narrow", "spread", "equal")
MOST_NUMBERS = 3_000_000  # of what the reference makes for every pair
VALUES = (*TAME * 4, "denormal", "huge", "special", "zero")


class Case(NamedTuple):
    name: str
    call: Callable[..., Any]
    oracle: Callable[..., Any]
    """The reference, of the same arguments."""
    tensors: dict[str, Tensor]
    options: dict[str, Any]
    tame: bool
    """Whether the values are such that results must agree, and not only their kind."""
    lawful: bool
    """Whether nothing was put in that has to be refused."""


class Maker:
    def __init__(self, chance: random.Random, seed: int):
        self.random = chance
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.random.choice(
            (torch.float32, torch.float32, torch.float64, torch.float64, torch.float16)
        )
        self.tame = self.dtype != torch.float16
        self.lawful = True

    def maybe(self, share: float) -> bool:
        return self.random.random() < share

    def size(self, most: int = 40) -> int:
        edge = self.random.choice((1, 2, 3, 4, 5, 8, 15, 16, 17, 33))
        return edge if self.maybe(0.9 if most <= 40 else 0.2) else self.random.randint(1, most)

    def many(self, others: int) -> int:
        """A size that may be several of a kernel's chunks, or tiles; `others` numbers are made for each."""
        size = self.size(self.random.choice((40, 40, 700, 7000)))
        return max(1, min(size, MOST_NUMBERS // max(1, others)))

    def junk(self, lawful: Any, share: float = 0.03) -> Any:
        if not self.maybe(share):
            return lawful
        self.lawful = False
        return self.random.choice(JUNK)

    def batch(self) -> tuple[int, ...]:
        return tuple(self.random.choice((1, 2, 3)) for _ in range(self.random.choice((0, 0, 0, 1, 2))))

    def part_of(self, batch: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts to the batch."""
        kept = batch[self.random.randint(0, len(batch)) :]
        return tuple(1 if self.maybe(0.3) else size for size in kept)

    def tensor(self, *shape: int, positive: bool = False, near: Any = None) -> Tensor:
        """Numbers of one kind; if tame ones, perhaps near to rows of another tensor, as samples are to components."""
        kind = self.random.choice(VALUES)
        numbers = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        largest = torch.finfo(self.dtype).max
        if positive:
            numbers = 0.3 + numbers.abs()
        if kind == "narrow":
            numbers = numbers * 0.05
        elif kind == "spread" and not positive:
            numbers = numbers * 4
        elif kind == "equal":
            numbers = torch.full_like(numbers, 0.5)
        elif kind == "denormal":
            numbers = numbers * torch.finfo(self.dtype).tiny / 8
        elif kind == "huge":
            numbers = numbers * largest / 8
        elif kind == "zero":
            numbers = torch.zeros_like(numbers)
        if kind in TAME and is_matrix(near) and near.shape[-1] == shape[-1] and self.maybe(0.5):
            rows = near.double().reshape(-1, shape[-1])
            numbers = rows[torch.randint(len(rows), shape[:-1], generator=self.generator)] + 0.05 * numbers
        tensor = numbers.to(self.dtype)
        if kind == "special" and tensor.numel():
            for _ in range(self.random.randint(1, 3)):
                place = self.random.randrange(tensor.numel())
                tensor.view(-1)[place] = self.random.choice(
                    (float("inf"), float("-inf"), float("nan"), largest)
                )
        self.tame &= kind in TAME
        return self.laid_out(self.spoilt(tensor))

    def spoilt(self, tensor: Tensor) -> Tensor:
        if not self.maybe(0.02):
            return tensor
        self.lawful = self.tame = False
        change = self.random.choice(
            (
                lambda t: t.long(),
                lambda t: t.to(torch.complex64),
                lambda t: t.double() if t.dtype != torch.float64 else t.float(),
                lambda t: t[..., :0] if t.dim() else t.new_empty(0),
                lambda t: t[..., None],
                lambda t: t.flatten(),
                lambda t: torch.cat([t, t], -1) if t.dim() else t[None],
                lambda t: t.to("meta"),
                lambda t: t.tolist(),
                lambda t: t.to_sparse(),
            )
        )
        return change(tensor)

    def laid_out(self, tensor: Any) -> Any:
        """The same numbers elsewhere: transposed, in every other place, off the alignment, or all in one."""
        if (
            not isinstance(tensor, Tensor)
            or tensor.dim() < 1
            or tensor.is_sparse
            or tensor.device.type == "meta"
        ):
            return tensor
        how = self.random.choice(("plain", "plain", "transposed", "strided", "shifted", "expanded"))
        if how == "transposed" and tensor.dim() >= 2:
            return tensor.mT.contiguous().mT
        if how == "strided":
            wide = tensor.new_full(
                (*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan") if tensor.is_floating_point() else 0
            )
            wide[..., ::2] = tensor
            return wide[..., ::2]
        if how == "shifted":
            flat = tensor.new_zeros(tensor.numel() + 1)
            flat[1:] = tensor.reshape(-1)
            return flat[1:].view(tensor.shape)
        if how == "expanded":
            return tensor[..., :1].expand(tensor.shape)
        return tensor


def is_matrix(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
        and value.dim() >= 2
        and value.numel() > 0
    )


def of_mixture(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    batch, dims = make.batch(), make.size(20)
    rows = make.random.choice((0, make.size(), make.size(), make.many(prod(batch) * dims)))
    n = make.many(prod(batch) * dims * rows)
    loc = make.tensor(*make.part_of(batch), n, dims)
    tensors = {
        "value": make.tensor(*make.part_of(batch), rows, dims, near=loc),
        "loc": loc,
        "scale": make.tensor(*make.random.choice(((), (dims,), (n, 1), (n, dims), (1, 1))), positive=True),
    }
    if make.maybe(0.5):
        tensors["log_weights"] = make.tensor(*make.part_of(batch), make.random.choice((1, n)))
    return tensors, {}


def of_distribution(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    rows, dims = make.size(), make.size(20)
    n = make.many(rows * dims)
    loc = make.tensor(n, dims)
    tensors = {"value": make.tensor(rows, dims, near=loc), "loc": loc}
    return tensors | {"scale": make.tensor(n, dims, positive=True), "logits": make.tensor(n)}, {}


def distribution_log_prob(value: Tensor, loc: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
    return pykernels.DiagonalGaussianMixture(loc, scale, logits).log_prob(value)


def reference_distribution_log_prob(value: Tensor, loc: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
    return reference.gaussian_mixture_log_prob(value, loc, scale, logits.log_softmax(-1))


def of_minibatch(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    dims = make.size(20)
    size = 1 + min(make.many(dims), isqrt(MOST_NUMBERS // dims))
    tensors = {name: make.tensor(size, dims) for name in ("z", "loc")}
    tensors["scale"] = make.tensor(size, dims, positive=True)
    estimator = make.random.choice(("mws", "mss", "hfvae", "batch"))
    return tensors, {
        "dataset_size": make.junk(size + make.random.choice((0, 1, 10**6))),
        "estimator": make.junk(estimator),
    }


def of_aggregate(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, options = of_minibatch(make)
    options["reduction"] = make.junk(make.random.choice(("mean", "none")))
    if make.maybe(0.5):
        options |= {"estimator": "exact", "dataset_size": None}
    return tensors, options


def of_divergence(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, options = of_aggregate(make)
    return tensors, options | {"prior": make.junk(prior_of(make, tensors["loc"]))}


def of_inclusive(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, _ = of_aggregate(make)
    tensors["samples"] = tensors.pop("z")
    return tensors, {"prior": make.junk(prior_of(make, tensors["loc"]))}


def prior_of(make: Maker, loc: Any) -> Any:
    dims = loc.shape[-1] if isinstance(loc, Tensor) and loc.dim() else 1
    dtype = torch.float64 if make.dtype == torch.float64 else torch.float32
    zeros = torch.zeros(dims, dtype=dtype)
    normal = Normal(zeros, torch.ones_like(zeros), validate_args=False)
    if make.maybe(0.3) and dims:
        return MultivariateNormal(zeros, torch.eye(dims, dtype=dtype), validate_args=False)
    return Independent(normal, 1, validate_args=False)


def of_points(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    batch, dims = make.batch(), make.size(10)
    most = isqrt(MOST_NUMBERS // (6 * prod(batch) * dims))
    return {
        name: make.tensor(*make.part_of(batch), 1 + min(make.many(dims), most), dims) for name in ("x", "y")
    }, {}


def of_cauchy(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, options = of_points(make)
    options["method"] = make.junk(make.random.choice(("auto", "direct", "panels")))
    options["unbiased"] = make.maybe(0.5)
    if make.maybe(0.3):
        options["scales"] = make.junk(
            make.random.choice(((1.0,), (0.2, 50.0), (1e-3, 1.0, 1e3), (-1.0,), ()))
        )
        make.lawful &= options["scales"] not in ((-1.0,), ())
    if make.maybe(0.3):
        options["tolerance"] = make.junk(make.random.choice((1e-3, 1e-6, 1e-10)))
        make.tame &= options["tolerance"] == 1e-10
    for name in ("x", "y"):
        if make.maybe(0.2) and isinstance(tensors[name], Tensor) and tensors[name].dim() > 1:
            tensors[f"{name}_weights"] = make.tensor(tensors[name].shape[-2], positive=True)
    return tensors, options


def of_vectors(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, options = of_points(make)
    options |= {"kernel": make.junk(make.random.choice(("cauchy", "gaussian"))), "unbiased": make.maybe(0.5)}
    return tensors, options


def of_slices(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, options = of_points(make)
    options["num_projections"] = make.junk(make.random.choice((1, 3, 128)))
    options["generator"] = torch.Generator().manual_seed(1)
    return tensors, options


def sliced(
    x: Tensor, y: Tensor, num_projections: int, generator: torch.Generator, *, dtype: torch.dtype
) -> Tensor:
    """Along the directions that the function draws in its own dtype."""
    generator.manual_seed(1)
    directions = torch.randn(num_projections, x.shape[-1], generator=generator, dtype=dtype).to(x)
    return sliced_along(x, y, directions / directions.norm(dim=-1, keepdim=True))


def of_log_prob(make: Maker) -> tuple[dict[str, Tensor], dict[str, Any]]:
    n = make.size()
    tensors = {"log_prob": make.tensor(*make.batch(), make.size(), n)}
    return tensors | ({"log_weights": make.tensor(n)} if make.maybe(0.5) else {}), {}


FUNCTIONS = {
    "gaussian_mixture_log_prob": of_mixture,
    "gaussian_mixture_marginal_log_prob": of_mixture,
    "gaussian_mixture_joint_and_marginal_log_prob": of_mixture,
    "responsibility_statistics": of_mixture,
    "DiagonalGaussianMixture": of_distribution,
    "responsibility_statistics_from_log_prob": of_log_prob,
    "minibatch_log_prob": of_minibatch,
    "aggregate_entropy": of_aggregate,
    "exclusive_kl": of_divergence,
    "kl_decomposition": of_divergence,
    "inclusive_kl": of_inclusive,
    "cauchy_mmd": of_cauchy,
    "mmd": of_vectors,
    "sliced_wasserstein": of_slices,
}


def case(number: int) -> Case:
    names = list(FUNCTIONS)
    return case_of(names[number % len(names)], Maker(random.Random(number), number))


def case_of(name: str, make: Maker) -> Case:
    """A call of this function, as the maker's chance will have it."""
    tensors, options = FUNCTIONS[name](make)
    native = torch.float64 if make.dtype == torch.float64 else torch.float32
    call, oracle = getattr(pykernels, name), getattr(reference, name, None)
    if name == "sliced_wasserstein":
        oracle = partial(sliced, dtype=native)
    if name == "DiagonalGaussianMixture":
        call, oracle = distribution_log_prob, reference_distribution_log_prob
    return Case(name, call, oracle, tensors, options, make.tame and make.lawful, make.lawful)
