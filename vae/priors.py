"""Priors p(z): modules that return a torch distribution when called."""

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

import pykernels

CENTRES = {
    "cross": ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0)),
    "square": ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)),
}


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
        components = Normal(torch.zeros_like(self.scale), self.scale, validate_args=False)
        if self.is_normal:
            factors = Normal(components.loc[:, 0], components.scale[:, 0], validate_args=False)
        else:
            weights = Categorical(logits=self.logits, validate_args=False)
            factors = MixtureSameFamily(weights, components, validate_args=False)
        return Independent(factors, 1, validate_args=False)
