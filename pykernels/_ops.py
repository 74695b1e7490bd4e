"""The operators torch sees: schemas, and fake kernels that give shapes for tracing. They carry no autograd of
their own: the public functions are the way in.

Inputs are aligned (see `reference.mixture.align`): equally many batch dimensions, then [B, D], [n, D],
[1 or n, 1 or D] and [1 or n]. The densities asked for come joint before marginal, each in nats and then in base 2,
for the backward pass: the kernels' own numbers, free of a conversion's rounding (the reference's own are nats). If
slopes are asked for and the kernel gives them, they follow: the derivative with respect to value, [*batch, B, D]. A
gradient not asked for is an empty tensor of shape [0]: torch.autograd.grad's is_grads_batched cannot map an
operator that returns a list. An estimator's weights depend on the pair (see `reference.minibatch`), and go by its name
and the size of the data set. `grad_statistics` is described in `reference.mixture_gradients`.

Those of the MMD are aligned, too: equally many batch dimensions, then [n, D], [m, D], [n] and [m], the masses summing
to one and in float64 like the scales, [L]. The value, [*batch], is followed by the slopes asked for: its derivative
with respect to each input, in that order, each [*batch, ...]. The backward operator takes those its own gradients need,
or none of them, and then computes anew, for inputs that share memory among batch elements.
"""

from typing import Any

import torch
from torch import Tensor

from . import _launch
from .reference.mixture import batch_shape
from .reference.mmd import batch_shape as mmd_batch_shape

# define and impl rather than custom_op, whose wrapper costs more than a small problem.
_library = torch.library.Library("pykernels", "DEF")
_INPUTS = "Tensor value, Tensor loc, Tensor scale, Tensor? log_weights"
_SAMPLING = "str estimator='', SymInt dataset_size=0"
_library.define(
    f"mixture_log_prob({_INPUTS}, bool joint, bool marginal, bool slopes, {_SAMPLING}) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "mixture_log_prob_backward(Tensor? grad_joint, Tensor? grad_marginal, "
    "Tensor? joint_log2, Tensor? marginal_log2, Tensor? joint_slope, Tensor? marginal_slope, "
    f"{_INPUTS}, bool[4] output_mask, Tensor? grad_statistics=None, {_SAMPLING}) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    f"responsibility_statistics({_INPUTS}) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("responsibility_statistics", _launch.responsibility_statistics, "CompositeExplicitAutograd")
_library.impl("mixture_log_prob", _launch.mixture_log_prob, "CompositeExplicitAutograd")
_library.impl("mixture_log_prob_backward", _launch.mixture_log_prob_backward, "CompositeExplicitAutograd")
_POINTS = "Tensor x, Tensor y, Tensor? x_masses, Tensor? y_masses, Tensor scales"
_OPTIONS = "bool unbiased, str method, float tolerance, bool[5]"
_library.define(
    f"cauchy_mmd({_POINTS}, {_OPTIONS} slopes_mask) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    f"cauchy_mmd_backward(Tensor grad, Tensor[] slopes, {_POINTS}, {_OPTIONS} output_mask) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("cauchy_mmd", _launch.cauchy_mmd, "CompositeExplicitAutograd")
_library.impl("cauchy_mmd_backward", _launch.cauchy_mmd_backward, "CompositeExplicitAutograd")

mixture_log_prob = torch.ops.pykernels.mixture_log_prob.default
responsibility_statistics = torch.ops.pykernels.responsibility_statistics.default
mixture_log_prob_backward = torch.ops.pykernels.mixture_log_prob_backward.default

cauchy_mmd = torch.ops.pykernels.cauchy_mmd.default
cauchy_mmd_backward = torch.ops.pykernels.cauchy_mmd_backward.default


@torch.library.register_fake("pykernels::mixture_log_prob", lib=_library)  # type: ignore[untyped-decorator]
def _(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    joint: bool,
    marginal: bool,
    slopes: bool,
    estimator: str = "",
    dataset_size: int = 0,
) -> list[Tensor]:
    batch = batch_shape(value, loc, scale, log_weights)
    return _launch.new_outputs(value, batch, joint, marginal, slopes)


@torch.library.register_fake("pykernels::responsibility_statistics", lib=_library)  # type: ignore[untyped-decorator]
def _(value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None) -> list[Tensor]:
    return _launch.new_statistics(value, batch_shape(value, loc, scale, log_weights))


@torch.library.register_fake("pykernels::mixture_log_prob_backward", lib=_library)  # type: ignore[untyped-decorator]
def _(
    grad_joint: Tensor | None,
    grad_marginal: Tensor | None,
    joint_log2: Tensor | None,
    marginal_log2: Tensor | None,
    joint_slope: Tensor | None,
    marginal_slope: Tensor | None,
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    output_mask: list[bool],
    grad_statistics: Tensor | None = None,
    estimator: str = "",
    dataset_size: int = 0,
) -> tuple[Tensor, ...]:
    inputs: Any = value, loc, scale, log_weights
    return tuple(value.new_empty(t.shape if asked else 0) for t, asked in zip(inputs, output_mask))


@torch.library.register_fake("pykernels::cauchy_mmd", lib=_library)  # type: ignore[untyped-decorator]
def _(
    x: Tensor,
    y: Tensor,
    x_masses: Tensor | None,
    y_masses: Tensor | None,
    scales: Tensor,
    unbiased: bool,
    method: str,
    tolerance: float,
    slopes_mask: list[bool],
) -> list[Tensor]:
    batch = mmd_batch_shape(x, y, x_masses, y_masses)
    return [x.new_empty(batch), *_launch.new_slopes(batch, (x, y, x_masses, y_masses, scales), slopes_mask)]


@torch.library.register_fake("pykernels::cauchy_mmd_backward", lib=_library)  # type: ignore[untyped-decorator]
def _(
    grad: Tensor,
    slopes: list[Tensor],
    x: Tensor,
    y: Tensor,
    x_masses: Tensor | None,
    y_masses: Tensor | None,
    scales: Tensor,
    unbiased: bool,
    method: str,
    tolerance: float,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    inputs: Any = x, y, x_masses, y_masses, scales
    return tuple(
        x.new_empty(0) if not asked else t.new_empty(t.shape) for t, asked in zip(inputs, output_mask)
    )
