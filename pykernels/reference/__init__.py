"""The public functions in plain torch: the specification, and what runs where there is no compiled kernel."""

from .divergences import inclusive_kl
from .mixture import (
    gaussian_mixture_joint_and_marginal_log_prob,
    gaussian_mixture_log_prob,
    gaussian_mixture_marginal_log_prob,
)
from .mmd import cauchy_mmd, mmd

__all__ = [
    "cauchy_mmd",
    "gaussian_mixture_joint_and_marginal_log_prob",
    "gaussian_mixture_log_prob",
    "gaussian_mixture_marginal_log_prob",
    "inclusive_kl",
    "mmd",
]
