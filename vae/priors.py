"""Priors p(z): modules that return a torch distribution when called."""

import torch
from torch import Tensor, nn

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
