"""A bank of encodings: the exact mixture of all n in every step, at the cost of encoding a minibatch."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae import ranks
from vae.model import VAE, Encoding, encode_all
from vae.ranks import Shard

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

    With `shard` a rank has the encodings of its own data points, and refreshes them, and all that is computed is of the
    encodings of all; indices count all data points.

    A bank that is a part of the model, `model.bank = EncodingBank(...)`, is in its checkpoints, all n of it, and
    resumes with it.
    """

    loc: Tensor
    scale: Tensor
    drift: Tensor
    turn: Tensor

    def __init__(self, encoding: Encoding, shard: Shard | None = None):
        super().__init__()
        self.shard = shard or Shard(0, len(encoding.loc), len(encoding.loc))
        self.register_buffer("loc", encoding.loc.detach().clone())
        self.register_buffer("scale", encoding.scale.detach().clone())
        self.register_buffer("drift", torch.zeros_like(self.loc[0]))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64, device=self.loc.device))

    @classmethod
    def of(cls, model: VAE, batches: Iterable[Tensor], shard: Shard | None = None) -> "EncodingBank":
        """A bank of everything in `batches`, in this order."""
        return cls(encode_all(model, batches), shard)

    @torch.no_grad()
    def refresh(self, index: Tensor, encoding: Encoding) -> None:
        """Put in the encodings of the data points `index` [B]."""
        rows = self._rows(index)
        loc, scale = ranks.counted(encoding.loc), ranks.counted(encoding.scale)
        displacement = ranks.mean((loc - self.loc[rows]).square())
        self.drift = self.drift + DRIFT_RATE * (displacement - self.drift)
        # Into new memory: a graph may still need what was there.
        self.loc = self.loc.index_copy(0, rows, loc)
        self.scale = self.scale.index_copy(0, rows, scale)

    @torch.no_grad()
    def refresh_next(self, count: int, encode: Callable[[Tensor], Encoding]) -> None:
        """Encode anew `count` data points, by `encode(index)`, in turn: all have had theirs after n / count steps."""
        index = (self.turn + torch.arange(count, device=self.turn.device)) % self.shard.total
        with self.shard.holding(index) as own:
            self.refresh(own, encode(own))
        self.turn = (self.turn + count) % self.shard.total

    @torch.no_grad()
    def mixture(self, index: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
        """loc and scale [n, D] of q̃(z), with the batch's encodings, those of the data points `index`, put in."""
        self.refresh(index, encoding)
        wider = (self.scale.square() + self.drift).sqrt()
        return self.loc, wider.index_copy(0, self._rows(index), ranks.counted(encoding.scale))

    def exclusive_kl(self, prior: Distribution, encoding: Encoding, *, index: Tensor) -> Tensor:
        """KL(q(z)‖p(z)) at the draws of the batch's encodings, which are those of the data points `index` and are
        put into the bank first. O(B n D) time, and O((B + n) D) memory."""
        z = ranks.counted(encoding.z)
        result: Tensor = ranks.kernels().exclusive_kl(z, *self.mixture(index, encoding), prior)
        return result

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
        z, mixture = ranks.counted(encoding.z), self.mixture(index, encoding)
        terms = ranks.kernels().kl_decomposition(z, *mixture, prior, index=ranks.counted(index))
        result: Tensor = (
            total_correlation * terms.total_correlation + dimensionwise_kl * terms.dimensionwise_kl
        )
        return result

    def _rows(self, index: Tensor) -> Tensor:
        return ranks.counted(index) - self.shard.first

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in (f"{prefix}loc", f"{prefix}scale"):
            destination[name] = self.shard.whole(destination[name])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        whole = {name: state_dict[name] for name in (f"{prefix}loc", f"{prefix}scale") if name in state_dict}
        own = {name: self.shard.own(rows) for name, rows in whole.items()}
        super()._load_from_state_dict(state_dict | own, prefix, *arguments)
