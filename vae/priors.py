"""Priors p(z): modules that return a torch distribution when called."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal
from torch.nn.functional import log_softmax
from torch.types import _size

import pykernels
from vae.student_t import StudentT as StudentTDistribution

CENTRES = {
    "cross": ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0)),
    "square": ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)),
}


Scales = Literal["fixed", "learned", "free"]


class _Normal(Normal):
    """torch's own `sample` looks whether a scale is negative, for which a GPU would have to be waited for."""

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        return self.rsample(sample_shape)


class Gaussian(nn.Module):
    """p(z) = N(z; 0, diag(σ²)) with σ²_d = scale² · D · softmax(ℓ)_d, whose mean is scale² whatever ℓ [D] is.

    ℓ = 0 is the isotropic prior N(0, scale² I). `scales`: with "learned" ℓ is a parameter, and the total variance
    stays; with "free" the parameter is log σ² itself, which starts at the same σ² and may go anywhere.
    """

    def __init__(self, log_variances: Tensor, scales: Scales = "fixed", scale: float = 1.0):
        super().__init__()
        if not 0 < scale < math.inf:
            raise ValueError(
                f"scale must be positive and finite (it is a standard deviation), but is {scale}"
            )
        self.log_mean_variance = 2 * math.log(scale)
        self.is_free = scales == "free"
        if self.is_free:
            log_variances = self._normalised(log_variances)
        if scales == "fixed":
            self.register_buffer("log_variances", log_variances)
        else:
            self.log_variances = nn.Parameter(log_variances.clone())

    def forward(self) -> Distribution:
        log_variances = self.log_variances if self.is_free else self._normalised(self.log_variances)
        scale = (0.5 * log_variances).exp()
        factors = _Normal(torch.zeros_like(scale), scale, validate_args=False)
        return Independent(factors, 1, validate_args=False)

    def _normalised(self, log_variances: Tensor) -> Tensor:
        return log_softmax(log_variances, 0) + (math.log(len(log_variances)) + self.log_mean_variance)


def pca_log_variances(singular_values: Tensor) -> Tensor:
    """ℓ = log s² for `Gaussian`, so that its scales are in the proportions of the data's first D singular values.

    Those that are 0 count as 1e-6 of the largest.
    """
    return singular_values.clamp(min=1e-6 * singular_values.max().item()).square().log().float()


class StudentT(nn.Module):
    """p(z) = Π_d StudentT(z_d; df): rotations change it, all the more the lower df; N(0, I) as df → ∞.

    The factors, with cdf and icdf, are the `base_dist`. Its KL from a normal is by quadrature: see `vae.student_t`.
    """

    df: Tensor

    def __init__(self, latent_dim: int, df: float = 3.0):
        super().__init__()
        self.register_buffer("df", torch.full((latent_dim,), float(df)), persistent=False)

    def forward(self) -> Distribution:
        zero, one = torch.zeros_like(self.df), torch.ones_like(self.df)
        factors = StudentTDistribution(self.df, zero, one, validate_args=False)
        return Independent(factors, 1, validate_args=False)


class GaussianMixture(nn.Module):
    """p(z) = 1/4 Σ_c N(z; mu_c, 0.03 I) on two dimensions (eq 9); 0.03 is a variance, the scale is √0.03.

    The paper writes mu_cd ∈ {0, 1}, which is the square; its Figure 6a shows the cross.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, centres: str = "cross", variance: float = 0.03):
        super().__init__()
        self.register_buffer("loc", torch.tensor(CENTRES[centres]), persistent=False)
        self.register_buffer("scale", torch.full_like(self.loc, variance**0.5), persistent=False)

    def forward(self) -> pykernels.DiagonalGaussianMixture:
        return pykernels.DiagonalGaussianMixture(self.loc, self.scale, validate_args=False)


class Sparse(nn.Module):
    """p(z) = Π_d (1 − γ) N(z_d; 0, 1) + γ N(z_d; 0, σ0²): each dimension is off, within σ0 of 0, with probability γ.

    σ0² = 0.05 is a variance. (The paper's published code takes 0.05 for the standard deviation.) γ = 0 is the
    standard normal, whose KL torch has in closed form. The factors, with a cdf, are the `base_dist`.
    """

    scale: Tensor
    logits: Tensor

    def __init__(self, latent_dim: int, gamma: float = 0.8, variance: float = 0.05):
        super().__init__()
        scale = torch.tensor([1.0, variance**0.5])
        self.register_buffer("scale", scale.repeat(latent_dim, 1), persistent=False)
        # As logits, so that a component of weight 0 has none: Categorical raises probabilities above it.
        logits = torch.tensor([1 - gamma, gamma]).log()
        self.register_buffer("logits", logits.repeat(latent_dim, 1), persistent=False)
        self.is_normal = gamma == 0

    def forward(self) -> Distribution:
        components = _Normal(torch.zeros_like(self.scale), self.scale, validate_args=False)
        factors: Distribution
        if self.is_normal:
            factors = _Normal(components.loc[:, 0], components.scale[:, 0], validate_args=False)
        else:
            weights = Categorical(logits=self.logits, validate_args=False)
            factors = MixtureSameFamily(weights, components, validate_args=False)
        return Independent(factors, 1, validate_args=False)
