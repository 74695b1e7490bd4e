"""The public functions in plain torch: the specification, and what runs where there is no compiled kernel.

Gradients are recomputed by tiles, so that memory stays as the public functions state it, but under the transforms of
torch.func: there all tiles are kept. `cauchy_mmd` chooses its panels by the points, which vmap does not allow: give it
batches as leading dimensions.
"""

from .divergences import aggregate_entropy, exclusive_kl, inclusive_kl, kl_decomposition
from .minibatch import minibatch_log_prob
from .mixture import (
    gaussian_mixture_joint_and_marginal_log_prob,
    gaussian_mixture_log_prob,
    gaussian_mixture_marginal_log_prob,
)
from .mmd import cauchy_mmd, mmd
from .responsibilities import responsibility_statistics, responsibility_statistics_from_log_prob

__all__ = [
    "aggregate_entropy",
    "cauchy_mmd",
    "exclusive_kl",
    "gaussian_mixture_joint_and_marginal_log_prob",
    "gaussian_mixture_log_prob",
    "gaussian_mixture_marginal_log_prob",
    "inclusive_kl",
    "kl_decomposition",
    "minibatch_log_prob",
    "mmd",
    "responsibility_statistics",
    "responsibility_statistics_from_log_prob",
]
