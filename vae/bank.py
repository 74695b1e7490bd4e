"""A bank of encodings: the exact mixture of all n in every step, at the cost of encoding a minibatch."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import pykernels
from vae.model import VAE, Encoding, encode_all


class EncodingBank(nn.Module):
    """loc and scale [n, D] of every data point as last encoded, refreshed as batches pass.

    Between two visits of a point its encoding here is stale, by at most an epoch. So q(z) is replaced by a mixture
    q̃(z) of n encodings that are all there, where a minibatch estimate has B of them:

        E_q[log q̃(z) − log p(z)] = KL(q‖p) − KL(q‖q̃),

    biased downwards by what the encoder has changed since, whatever n, B and D are, and not at all once it stands
    still. Its variance is that of the mean over B draws.

    The encodings in the bank have no gradient, and need none: the gradient of KL(q‖p) through log q vanishes over all
    n of them, so that the one through the draws alone is unbiased but for staleness. (Through the batch's own B it
    would not vanish, and pull each draw's own encoding away from it.)

    A bank that is a part of the model, `model.bank = EncodingBank(...)`, is in its checkpoints, and resumes with it.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, encoding: Encoding):
        super().__init__()
        self.register_buffer("loc", encoding.loc.detach().clone())
        self.register_buffer("scale", encoding.scale.detach().clone())

    @classmethod
    def of(cls, model: VAE, batches: Iterable[Tensor]) -> "EncodingBank":
        """A bank of everything in `batches`, in this order."""
        return cls(encode_all(model, batches))

    @torch.no_grad()
    def refresh(self, index: Tensor, encoding: Encoding) -> None:
        """Put in the encodings of the data points `index` [B]."""
        # Into new memory: a graph may still need what was there.
        self.loc = self.loc.index_copy(0, index, encoding.loc)
        self.scale = self.scale.index_copy(0, index, encoding.scale)

    def exclusive_kl(self, prior: Distribution, encoding: Encoding, *, index: Tensor) -> Tensor:
        """KL(q(z)‖p(z)) at the draws of the batch's encodings, which are those of the data points `index` and are
        put into the bank first. O(B n D) time, and O((B + n) D) memory."""
        self.refresh(index, encoding)
        return pykernels.exclusive_kl(encoding.z, self.loc, self.scale, prior)

    def decomposed_kl(
        self,
        prior: Distribution,
        encoding: Encoding,
        *,
        index: Tensor,
        total_correlation: float = 0.0,
        dimensionwise_kl: float = 0.0,
    ) -> Tensor:
        """The parts of KL(q(z)‖p(z)), each times its weight, as `exclusive_kl`."""
        self.refresh(index, encoding)
        terms = pykernels.kl_decomposition(encoding.z, self.loc, self.scale, prior, index=index)
        return total_correlation * terms.total_correlation + dimensionwise_kl * terms.dimensionwise_kl
