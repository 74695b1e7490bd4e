"""The public functions in plain torch: the specification, and what runs where there is no compiled kernel."""

from .divergences import inclusive_kl
from .minibatch import minibatch_log_prob
from .mixture import (
    gaussian_mixture_joint_and_marginal_log_prob,
    gaussian_mixture_log_prob,
    gaussian_mixture_marginal_log_prob,
)
from .mmd import cauchy_mmd, mmd
from .responsibilities import responsibility_statistics, responsibility_statistics_from_log_prob

__all__ = [
    "cauchy_mmd",
    "gaussian_mixture_joint_and_marginal_log_prob",
    "gaussian_mixture_log_prob",
    "gaussian_mixture_marginal_log_prob",
    "inclusive_kl",
    "minibatch_log_prob",
    "mmd",
    "responsibility_statistics",
    "responsibility_statistics_from_log_prob",
]
