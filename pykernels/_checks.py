"""Argument checks, in words: what was required, what came, and the likely remedy."""

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

_NATIVE = (torch.float32, torch.float64)
_FLOATS = (*_NATIVE, torch.float16, torch.bfloat16)
_MAX_BATCH_DIMS = 8


def mixture_inputs(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None, value_name: str = "value"
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Checks the arguments of a mixture density and returns them in the one dtype that computes."""
    named = {value_name: value, "loc": loc, "scale": scale}
    if log_weights is not None:
        named["log_weights"] = log_weights
    dtype = _computing_dtype(named)
    _check_mixture_shapes(value, loc, scale, log_weights, value_name=value_name)
    _check_positive(scale)
    if any(tensor.dtype != dtype for tensor in named.values()):
        value, loc, scale = value.to(dtype), loc.to(dtype), scale.to(dtype)
        log_weights = None if log_weights is None else log_weights.to(dtype)
    return value, loc, scale, log_weights


def minibatch_inputs(
    z: Tensor, loc: Tensor, scale: Tensor, dataset_size: int, estimator: str, estimators: Sequence[str]
) -> tuple[tuple[Tensor, Tensor, Tensor], int]:
    """Checks the arguments of a minibatch estimate, and returns the tensors in the one dtype that computes, and the
    size of the data set."""
    if estimator not in estimators:
        raise ValueError(
            f"estimator must be one of {list(estimators)}, but is {estimator!r}: 'hfvae' and 'mss' are unbiased for "
            "the density, the former with less variance"
        )
    z, loc, scale, _ = mixture_inputs(z, loc, scale, None, "z")
    size = loc.shape[-2]
    if z.shape[-2] != size:
        raise ValueError(
            f"z and loc must have equally many rows B, but z has shape {_shape(z)} and loc {_shape(loc)}: point b is "
            "one drawn from encoding b; for other points use gaussian_mixture_joint_and_marginal_log_prob"
        )
    known = _whole_number(dataset_size)
    if known is None:
        raise TypeError(
            f"dataset_size must be an integer, but came as {type(dataset_size).__name__}: it is the number of "
            "encodings that the minibatch was drawn from, len(dataset)"
        )
    if known >= 1 << 63:
        raise ValueError(f"dataset_size must be below 2^63, but is {known}: it is the size of the data set")
    if not 2 <= size <= known:
        raise ValueError(
            f"the minibatch must hold 2 <= B <= dataset_size encodings, but loc has shape {_shape(loc)}, B = {size}, "
            f"and dataset_size is {known}: give the size of the data set that the minibatch was drawn from, and "
            "drop a last batch of one"
        )
    return (z, loc, scale), known


def log_prob_inputs(log_prob: Tensor, log_weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Checks log-densities of all pairs, and returns them in the one dtype that computes."""
    named = {"log_prob": log_prob} | ({} if log_weights is None else {"log_weights": log_weights})
    dtype = _computing_dtype(named)
    if log_prob.dim() < 2 or log_prob.shape[-1] == 0:
        raise ValueError(
            f"log_prob must have shape [*batch, B, n] with n >= 1, but has shape {_shape(log_prob)}: entry b, i is the "
            "log-density of point b under encoding i; a single point is log_prob.unsqueeze(0)"
        )
    if log_weights is not None and not _fits(log_weights.shape[-1:], log_prob.shape[-1:]):
        raise ValueError(
            f"log_weights must broadcast to [*batch, n], but has shape {_shape(log_weights)} and log_prob "
            f"{_shape(log_prob)}: give one per encoding, n = {log_prob.shape[-1]}"
        )
    if log_weights is not None:
        _check_leading([log_prob.shape[:-2], log_weights.shape[:-1]], ("log_prob", "log_weights"))
    return log_prob.to(dtype), None if log_weights is None else log_weights.to(dtype)


def mmd_inputs(
    x: Tensor,
    y: Tensor,
    scales: Sequence[float] | Tensor,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    unbiased: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Checks the arguments of a mean discrepancy; returns the points in the one dtype that computes, and the scales as
    a tensor of float64."""
    named = {"x": x, "y": y}
    named |= {k: t for k, t in (("x_weights", x_weights), ("y_weights", y_weights)) if t is not None}
    if isinstance(scales, Tensor):
        named["scales"] = scales
    dtype = _computing_dtype(named)
    _check_points(x, y)
    for name, points, weights in (("x", x, x_weights), ("y", y, y_weights)):
        count = points.shape[-2]
        if weights is not None and (weights.dim() == 0 or weights.shape[-1] != count):
            raise ValueError(
                f"{name}_weights must have shape [*batch, {count}], one for each point of {name}, but has shape "
                f"{_shape(weights)}: leave it out where all points weigh the same"
            )
        if unbiased and count == 1:
            raise ValueError(
                f"{name} must hold at least two points for the unbiased estimate, but has shape {_shape(points)}: "
                "pass unbiased=False, or more points"
            )
    leading = [t.shape[: -2 if name in ("x", "y") else -1] for name, t in named.items() if name != "scales"]
    _check_leading(leading, [name for name in named if name != "scales"])
    return x.to(dtype), y.to(dtype), _checked_scales(scales)


def sample_inputs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Checks two samples, and returns them in the one dtype that computes."""
    dtype = _computing_dtype({"x": x, "y": y})
    _check_points(x, y)
    _check_leading([t.shape[:-2] for t in (x, y)], ("x", "y"))
    return x.to(dtype), y.to(dtype)


def mmd_weights(name: str, weights: Tensor | None, needed: int) -> None:
    """Checks that none is negative, and that so many of each sample are positive."""
    if weights is None or not _may_be_read(weights):
        return
    smallest, largest = (end.item() for end in weights.detach().aminmax())
    if not 0 <= smallest <= largest < math.inf:  # NaN is not, either
        raise ValueError(
            f"{name} must not be negative, and finite, but reach from {smallest} to {largest}: log-weights go through "
            "softmax"
        )
    positive = int(weights.detach().count_nonzero(-1).min())
    if positive < needed:
        raise ValueError(
            f"{name} must be positive for at least {needed} of the points of a sample, but {positive} are: "
            + ("check how they were made" if positive == 0 else "one point alone takes unbiased=False")
        )


def positive_count(name: str, count: int) -> int:
    whole = _whole_number(count)
    if whole is None or whole < 1:
        raise ValueError(f"{name} must be a positive integer, but is {count!r}")
    return whole


def mmd_options(method: str, methods: Sequence[str], tolerance: float | None) -> None:
    if method not in methods:
        raise ValueError(
            f"method must be one of {list(methods)}, but is {method!r}: 'auto' takes the faster, 'direct' sums over "
            "all pairs, 'panels' takes time in proportion to the number of points"
        )
    if tolerance is not None and not (isinstance(tolerance, (int, float)) and 0 < tolerance < 1):
        raise ValueError(
            f"tolerance must be a number between 0 and 1, an error of the kernel over its value at 0, but is "
            f"{tolerance!r}: leave it out for the accuracy of the dtype"
        )


def mmd_kernel(kernel: str) -> None:
    if kernel not in ("cauchy", "gaussian"):
        raise ValueError(
            f"kernel must be 'cauchy' or 'gaussian', but is {kernel!r}: the dimension-wise kernel is cauchy_mmd"
        )


def mixture_parameters(loc: Tensor, scale: Tensor, logits: Tensor | None) -> None:
    named = {"loc": loc, "scale": scale}
    if logits is not None:
        named["logits"] = logits
    _computing_dtype(named)
    _check_mixture_shapes(loc, loc, scale, logits, "logits")


def points_of_a_mixture(value: Tensor) -> None:
    _computing_dtype({"value": value})


def diagonal_gaussian_parts(mixture: MixtureSameFamily) -> tuple[Categorical, Normal]:
    """The weights, and the Normal of all components and dimensions."""
    came = type(mixture).__name__
    if isinstance(mixture, MixtureSameFamily):
        weights, components = mixture.mixture_distribution, mixture.component_distribution
        came = f"MixtureSameFamily({type(weights).__name__}, {components})"
        if (
            isinstance(components, Independent)
            and isinstance(components.base_dist, Normal)
            and components.reinterpreted_batch_ndims == 1
        ):
            return weights, components.base_dist
    raise TypeError(
        f"mixture must be MixtureSameFamily(Categorical, Independent(Normal, 1)), but is {came}: "
        "give DiagonalGaussianMixture the means, scales and logits themselves"
    )


def _computing_dtype(named: dict[str, Tensor]) -> torch.dtype:
    """float64 if every tensor is, float32 for any mixture of float32 and the half types."""
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} must be a tensor, but came as {type(tensor).__name__}: wrap it with torch.as_tensor"
            )
        if tensor.dtype not in _FLOATS:
            raise TypeError(
                f"{name} must be float16, bfloat16, float32 or float64, but is {_short(tensor.dtype)}: "
                f"convert it with {name}.to(torch.float32)"
            )
        if tensor.layout != torch.strided:
            raise TypeError(
                f"{name} must be a dense tensor, but its layout is {_short(tensor.layout)}: convert it with "
                f"{name}.to_dense()"
            )
    doubles = [name for name, tensor in named.items() if tensor.dtype == torch.float64]
    if doubles and len(doubles) < len(named):
        found = ", ".join(f"{name} is {_short(tensor.dtype)}" for name, tensor in named.items())
        raise TypeError(
            f"float64 does not mix with other dtypes, but {found}: bring all to one dtype, for instance with "
            f".to(torch.float64)"
        )
    if len({tensor.device for tensor in named.values()}) > 1:
        found = ", ".join(f"{name} is on {tensor.device}" for name, tensor in named.items())
        raise ValueError(f"all tensors must be on one device, but {found}: move them with .to(device)")
    return torch.float64 if doubles else torch.float32


def _check_mixture_shapes(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    weights_name: str = "log_weights",
    value_name: str = "value",
) -> None:
    for name, tensor, form in ((value_name, value, "[*batch, B, D]"), ("loc", loc, "[*batch, n, D]")):
        if tensor.dim() < 2:
            raise ValueError(
                f"{name} must have shape {form}, but has shape {_shape(tensor)}: "
                f"a single point or component is {name}.reshape(1, -1)"
            )
    components, dims = loc.shape[-2:]
    if components == 0:
        raise ValueError(
            f"loc must hold at least one component (n >= 1), but has shape {_shape(loc)}: "
            "an empty mixture has no density; check how loc was selected"
        )
    if dims == 0:
        raise ValueError(
            f"loc must have at least one dimension (D >= 1), but has shape {_shape(loc)}: "
            "for data of one dimension use loc.unsqueeze(-1)"
        )
    if value.shape[-1] != dims:
        raise ValueError(
            f"{value_name} and loc must have the same last dimension D, but {value_name} has shape {_shape(value)} "
            f"and loc {_shape(loc)}: both end in the dimension of the space, [*batch, B, D] and [*batch, n, D]"
        )
    if not _fits(scale.shape[-2:], (components, dims)):
        raise ValueError(
            f"scale must broadcast to loc, but scale has shape {_shape(scale)} and loc {_shape(loc)}: "
            "one scale per component is [n, 1], one per dimension [D], one for all []"
        )
    if log_weights is not None and not _fits(log_weights.shape[-1:], (components,)):
        raise ValueError(
            f"{weights_name} must broadcast to [*batch, n], but has shape {_shape(log_weights)} and loc "
            f"{_shape(loc)}: give one per component, n = {components}"
        )
    weights_batch = () if log_weights is None else log_weights.shape[:-1]
    batches = value.shape[:-2], loc.shape[:-2], scale.shape[:-2], weights_batch
    _check_leading(batches, (value_name, "loc", "scale", weights_name))


def _check_points(x: Tensor, y: Tensor) -> None:
    for name, tensor, form in (("x", x, "[*batch, n, D]"), ("y", y, "[*batch, m, D]")):
        if tensor.dim() < 2:
            raise ValueError(
                f"{name} must have shape {form}, but has shape {_shape(tensor)}: "
                f"points of one dimension are {name}.unsqueeze(-1)"
            )
        if 0 in tensor.shape[-2:]:
            raise ValueError(
                f"{name} must hold at least one point of at least one dimension, but has shape {_shape(tensor)}: "
                "check how the points were selected"
            )
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"x and y must have the same last dimension D, but x has shape {_shape(x)} and y {_shape(y)}: "
            "both end in the dimension of the space"
        )


def _checked_scales(scales: Sequence[float] | Tensor) -> Tensor:
    tensor = scales if isinstance(scales, Tensor) else torch.tensor(scales, dtype=torch.float64, device="cpu")
    if tensor.dim() != 1 or len(tensor) == 0:
        raise ValueError(
            f"scales must be a list of at least one number, but has shape {_shape(tensor)}: "
            "a single scale s is (s,)"
        )
    if not isinstance(scales, Tensor) and not all(0 < s < math.inf for s in scales):
        raise ValueError(
            f"scales must be positive and finite (they are squared lengths), but are {tuple(scales)}"
        )
    if _may_be_read(tensor) and not 0 < tensor.detach().min().item():
        raise ValueError(
            f"scales must be positive (they are squared lengths), but are {tensor.tolist()}: a parameter that may be "
            "negative goes through softplus"
        )
    return tensor.double()


def _check_leading(batches: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    if not any(batches):
        return
    try:
        batch = torch.broadcast_shapes(*batches)
    except RuntimeError:
        found = ", ".join(f"{name} has {list(shape)}" for name, shape in zip(names, batches) if shape)
        raise ValueError(
            f"the leading batch dimensions must broadcast together, but {found}: insert dimensions of size 1 "
            "with unsqueeze where an argument should be shared"
        ) from None
    if len(batch) > _MAX_BATCH_DIMS:
        raise ValueError(
            f"at most {_MAX_BATCH_DIMS} batch dimensions are supported, but the arguments broadcast to "
            f"{len(batch)}: merge some with flatten"
        )


def _check_positive(scale: Tensor) -> None:
    if not _may_be_read(scale):
        return
    smallest = scale.detach().min().item()
    if not smallest > 0:  # NaN is not, either
        raise ValueError(
            f"scale must be positive (it is a standard deviation), but its smallest element is {smallest}: "
            "a log-variance goes through (0.5 * logvar).exp(), a raw output through softplus; "
            "torch.distributions.Distribution.set_default_validate_args(False) turns this check off"
        )


def _may_be_read(tensor: Tensor) -> bool:
    """Whether reading the data neither waits for a device nor breaks a trace, and the user wants it checked."""
    if not Distribution._validate_args or torch.compiler.is_compiling():
        return False
    traced = type(tensor) not in (Tensor, torch.nn.Parameter) or torch._C._are_functorch_transforms_active()
    return not traced and tensor.device.type == "cpu" and tensor.numel() > 0


def _whole_number(number: object) -> int | None:
    """As an int, from numpy's integers too; None if it is no integer."""
    if isinstance(number, int):
        return number
    if isinstance(number, Tensor):
        return None  # a GPU would have to be waited for
    try:
        return operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        return None


def _fits(shape: torch.Size, target: tuple[int, ...]) -> bool:
    """Whether the trailing dimensions `shape` broadcast to `target` without enlarging it."""
    return all(size in (1, wanted) for size, wanted in zip(reversed(shape), reversed(target)))


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _short(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")
