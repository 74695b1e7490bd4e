"""Exact, fused, differentiable divergences between aggregate posteriors and priors."""

from .distributions import DiagonalGaussianMixture
from .divergences import inclusive_kl
from .mixture import (
    gaussian_mixture_joint_and_marginal_log_prob,
    gaussian_mixture_log_prob,
    gaussian_mixture_marginal_log_prob,
)
from .mmd import cauchy_mmd, mmd
from .wasserstein import sliced_wasserstein

__version__ = "0.1.0"

__all__ = [
    "DiagonalGaussianMixture",
    "cauchy_mmd",
    "gaussian_mixture_joint_and_marginal_log_prob",
    "gaussian_mixture_log_prob",
    "gaussian_mixture_marginal_log_prob",
    "inclusive_kl",
    "mmd",
    "sliced_wasserstein",
]
