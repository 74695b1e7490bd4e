"""A bank of encodings: the exact mixture of all n in every step, at the cost of encoding a minibatch."""

from collections.abc import Callable, Iterable

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

    An encoder that moves much between two visits runs after where q was rather than where it is, and may circle: a lower
    learning rate helps, and so does `refresh_next`, which encodes further points in every step, without a gradient.

    A bank that is a part of the model, `model.bank = EncodingBank(...)`, is in its checkpoints, and resumes with it.
    """

    loc: Tensor
    scale: Tensor
    turn: Tensor

    def __init__(self, encoding: Encoding):
        super().__init__()
        self.register_buffer("loc", encoding.loc.detach().clone())
        self.register_buffer("scale", encoding.scale.detach().clone())
        self.register_buffer("drift", torch.zeros_like(encoding.loc[0]))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))

    @classmethod
    def of(cls, model: VAE, batches: Iterable[Tensor]) -> "EncodingBank":
        """A bank of everything in `batches`, in this order."""
        return cls(encode_all(model, batches))

    @torch.no_grad()
    def refresh(self, index: Tensor, encoding: Encoding) -> None:
        """Put in the encodings of the data points `index` [B]."""
        moved = (encoding.loc - self.loc[index]).square().mean(0)
        self.drift = self.drift + 0.05 * (moved - self.drift)
        # Into new memory: a graph may still need what was there.
        self.loc = self.loc.index_copy(0, index, encoding.loc)
        self.scale = self.scale.index_copy(0, index, encoding.scale)

    @torch.no_grad()
    def refresh_next(self, count: int, encode: Callable[[Tensor], Encoding]) -> None:
        """Encode anew `count` data points, by `encode(index)`, in turn: all have had theirs after n / count steps."""
        index = (self.turn + torch.arange(count, device=self.turn.device)) % len(self.loc)
        self.refresh(index, encode(index))
        self.turn = (self.turn + count) % len(self.loc)

    def exclusive_kl(self, prior: Distribution, encoding: Encoding, *, index: Tensor) -> Tensor:
        """KL(q(z)‖p(z)) at the draws of the batch's encodings, which are those of the data points `index` and are
        put into the bank first. O(B n D) time, and O((B + n) D) memory."""
        self.refresh(index, encoding)
        scale = (self.scale.square() + self.drift).sqrt().index_copy(0, index, encoding.scale.detach())
        return pykernels.exclusive_kl(encoding.z, self.loc, scale, prior)

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
