"""A bank of encodings: the exact mixture of all n in every step, at the cost of encoding a minibatch."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import pykernels
from vae.model import VAE, Encoding, encode_all

DRIFT_RATE = 0.05


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

    Draws are pushed away from where others were, though, and if those have moved meanwhile, all may run around in
    circles. Against that, rows not of the batch are as much wider as rows have been found displaced at their visits:
    the variance of each dimension grows by the running mean of their squared displacement. What helps most is a shorter
    delay: a lower learning rate, or `refresh_next`, which encodes further points in every step, without a gradient.

    A bank that is a part of the model, `model.bank = EncodingBank(...)`, is in its checkpoints, and resumes with it.
    """

    loc: Tensor
    scale: Tensor
    drift: Tensor
    turn: Tensor

    def __init__(self, encoding: Encoding):
        super().__init__()
        self.register_buffer("loc", encoding.loc.detach().clone())
        self.register_buffer("scale", encoding.scale.detach().clone())
        self.register_buffer("drift", torch.zeros_like(self.loc[0]))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64, device=self.loc.device))

    @classmethod
    def of(cls, model: VAE, batches: Iterable[Tensor]) -> "EncodingBank":
        """A bank of everything in `batches`, in this order."""
        return cls(encode_all(model, batches))

    @torch.no_grad()
    def refresh(self, index: Tensor, encoding: Encoding) -> None:
        """Put in the encodings of the data points `index` [B]."""
        displacement = (encoding.loc - self.loc[index]).square().mean(0)
        self.drift = self.drift + DRIFT_RATE * (displacement - self.drift)
        # Into new memory: a graph may still need what was there.
        self.loc = self.loc.index_copy(0, index, encoding.loc)
        self.scale = self.scale.index_copy(0, index, encoding.scale)

    @torch.no_grad()
    def refresh_next(self, count: int, encode: Callable[[Tensor], Encoding]) -> None:
        """Encode anew `count` data points, by `encode(index)`, in turn: all have had theirs after n / count steps."""
        index = (self.turn + torch.arange(count, device=self.turn.device)) % len(self.loc)
        self.refresh(index, encode(index))
        self.turn = (self.turn + count) % len(self.loc)

    @torch.no_grad()
    def mixture(self, index: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
        """loc and scale [n, D] of q̃(z), with the batch's encodings, those of the data points `index`, put in."""
        self.refresh(index, encoding)
        wider = (self.scale.square() + self.drift).sqrt()
        return self.loc, wider.index_copy(0, index, encoding.scale)

    def exclusive_kl(self, prior: Distribution, encoding: Encoding, *, index: Tensor) -> Tensor:
        """KL(q(z)‖p(z)) at the draws of the batch's encodings, which are those of the data points `index` and are
        put into the bank first. O(B n D) time, and O((B + n) D) memory."""
        return pykernels.exclusive_kl(encoding.z, *self.mixture(index, encoding), prior)

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
        terms = pykernels.kl_decomposition(encoding.z, *self.mixture(index, encoding), prior, index=index)
        return total_correlation * terms.total_correlation + dimensionwise_kl * terms.dimensionwise_kl
