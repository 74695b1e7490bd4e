"""Likelihoods p(x|z): from the decoder's output to a torch distribution."""

from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Laplace, Normal


def gaussian(parameters: tuple[Tensor, Tensor]) -> Distribution:
    """N(x; loc, scale²) with a diagonal covariance, from the decoder's (loc, scale)."""
    loc, scale = parameters
    return Independent(Normal(loc, scale, validate_args=False), 1)


def laplace(loc: Tensor, scale: float = 0.1) -> Distribution:
    """Laplace(x; loc, scale) for each pixel of images, from the decoder's loc [B, channels, height, width]."""
    return Independent(Laplace(loc, scale, validate_args=False), 3)


def bernoulli(logits: Tensor) -> Distribution:
    """Bernoulli(x; σ(logits)) for each pixel of images, from the decoder's logits [B, channels, height, width].

    Its log_prob is the negative cross-entropy, also of grey pixels between 0 and 1.
    """
    return Independent(Bernoulli(logits=logits, validate_args=False), 3)
