"""The operators torch sees: schemas, and fake kernels that give shapes for tracing. They carry no autograd of
their own: the public functions are the way in.

Inputs are aligned (see `reference.mixture.align`): equally many batch dimensions, then [B, D], [n, D],
[1 or n, 1 or D] and [1 or n]. The densities asked for come joint before marginal, each in nats and then in base 2,
for the backward pass: the kernels' own numbers, free of a conversion's rounding (the reference's own are nats). If
slopes are asked for and the kernel gives them, they follow: the derivative with respect to value, [*batch, B, D]. A
gradient not asked for is an empty tensor of shape [0]: torch.autograd.grad's is_grads_batched cannot map an
operator that returns a list.
"""

import torch
from torch import Tensor

from . import _launch
from .reference.mixture import batch_shape

# define and impl rather than custom_op, whose wrapper costs more than a small problem.
_library = torch.library.Library("pykernels", "DEF")
_INPUTS = "Tensor value, Tensor loc, Tensor scale, Tensor? log_weights"
_library.define(
    f"mixture_log_prob({_INPUTS}, bool joint, bool marginal, bool slopes) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "mixture_log_prob_backward(Tensor? grad_joint, Tensor? grad_marginal, "
    "Tensor? joint_log2, Tensor? marginal_log2, Tensor? joint_slope, Tensor? marginal_slope, "
    f"{_INPUTS}, bool[4] output_mask) -> (Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("mixture_log_prob", _launch.mixture_log_prob, "CompositeExplicitAutograd")
_library.impl("mixture_log_prob_backward", _launch.mixture_log_prob_backward, "CompositeExplicitAutograd")

mixture_log_prob = torch.ops.pykernels.mixture_log_prob.default
mixture_log_prob_backward = torch.ops.pykernels.mixture_log_prob_backward.default


@torch.library.register_fake("pykernels::mixture_log_prob", lib=_library)
def _(
    value: Tensor,
    loc: Tensor,
    scale: Tensor,
    log_weights: Tensor | None,
    joint: bool,
    marginal: bool,
    slopes: bool,
) -> list[Tensor]:
    batch = batch_shape(value, loc, scale, log_weights)
    return _launch.new_outputs(value, batch, joint, marginal, slopes)


@torch.library.register_fake("pykernels::mixture_log_prob_backward", lib=_library)
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
) -> tuple[Tensor, ...]:
    inputs = value, loc, scale, log_weights
    return tuple(value.new_empty(t.shape if asked else 0) for t, asked in zip(inputs, output_mask))
