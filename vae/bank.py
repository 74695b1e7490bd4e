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

    What measures, `mixture`, `exclusive_kl` and `decomposed_kl`, takes the batch's encodings in place of older ones,
    and in training mode keeps them: after `eval()` it leaves the bank as it is, which `refresh` and `refresh_next` do
    not. An encoding that is not finite is never put in: a bad batch does no harm beyond its own value.

    With `shard` a rank has the encodings of its own data points, and refreshes them, and all that is computed is of the
    encodings of all, while a part of a batch is held (`vae.ranks`); indices count all data points. Ranks have different
    encodings, so that these are no buffers: `DistributedDataParallel`, which overwrites all buffers by those of the
    first rank unless it is told `broadcast_buffers=False`, leaves them alone.

    A bank that is a part of the model, `model.bank = EncodingBank(...)`, is in its checkpoints, all n of it, and
    resumes with it.
    """

    loc: Tensor
    scale: Tensor
    drift: Tensor
    turn: Tensor

    def __init__(self, encoding: Encoding, shard: Shard | None = None):
        super().__init__()
        loc, scale = encoding.loc.detach().clone(), encoding.scale.detach().clone()
        _check_rows(loc, scale)
        if not (loc.isfinite().all() and scale.isfinite().all()):
            raise ValueError("encoding.loc and encoding.scale must be finite, but are not: check the encoder")
        self.shard = shard or Shard(0, len(loc), len(loc))
        if len(loc) != self.shard.count:
            raise ValueError(
                f"encoding must hold the shard's {self.shard.count} data points, but holds {len(loc)}: encode "
                "shard.own(data) only"
            )
        self.loc, self.scale = loc, scale
        self.register_buffer("drift", loc.new_zeros(loc.shape[1]))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64, device=loc.device))

    @classmethod
    def of(cls, model: VAE, batches: Iterable[Tensor], shard: Shard | None = None) -> "EncodingBank":
        """A bank of everything in `batches`, in this order."""
        return cls(encode_all(model, batches), shard)

    @torch.no_grad()
    def refresh(self, index: Tensor, encoding: Encoding) -> None:
        """Put in the encodings of the data points `index` [B]."""
        self._put(self._rows(index, encoding), encoding)

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
        rows = self._rows(index, encoding)
        if self.training:
            self._put(rows, encoding)
        loc, scale = (self.loc, self.scale) if self.training else self._with(rows, encoding)
        wider = (scale.square() + self.drift).sqrt()
        return loc, wider.index_copy(0, rows, scale[rows])

    def exclusive_kl(self, prior: Distribution, encoding: Encoding, *, index: Tensor) -> Tensor:
        """KL(q(z)‖p(z)) at the draws of the batch's encodings, which are those of the data points `index` and stand
        in for older ones. O(B n D) time, and O((B + n) D) memory."""
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
        terms = ranks.kernels().kl_decomposition(z, *mixture, prior, index=ranks.counted(index).long())
        result: Tensor = (
            total_correlation * terms.total_correlation + dimensionwise_kl * terms.dimensionwise_kl
        )
        return result

    def _rows(self, index: Tensor, encoding: Encoding) -> Tensor:
        """Where the data points are in here; what is wrong with the arguments is said before anything is changed."""
        if self.shard.count < self.shard.total and not ranks.part_is_held():
            raise ValueError(
                "a bank with a shard must be called while all ranks hold a part of a batch, but none is held, and here "
                f"are {self.shard.count} of {self.shard.total} encodings only: take batches from "
                "shuffled(own_rows, batch_size, shard=shard), or use `with shard.holding(index) as own:`"
            )
        if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
            came = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(
                f"index must be a tensor of int64 or int32, but came as {came}: which data points were encoded, "
                "torch.tensor(numbers), or mask.nonzero().squeeze(1)"
            )
        _check_rows(encoding.loc, encoding.scale, like=self.loc)
        if index.dim() != 1 or len(ranks.counted(index)) != len(ranks.counted(encoding.loc)):
            raise ValueError(
                f"index must have shape [B], one data point for each encoding, but has shape {list(index.shape)} and "
                f"encoding.loc {list(encoding.loc.shape)}: encode data[index]"
            )
        rows = ranks.counted(index).long() - self.shard.first
        if _may_be_read(rows) and not ((rows >= 0) & (rows < self.shard.count)).all():
            last = self.shard.first + self.shard.count - 1
            wrong = next(row for row in rows.tolist() if not 0 <= row < self.shard.count) + self.shard.first
            raise ValueError(
                f"index must be between {self.shard.first} and {last}, the data points of this bank, but has {wrong}: "
                "number them as they stood when the bank was made"
            )
        return rows

    def _put(self, rows: Tensor, encoding: Encoding) -> None:
        displacement = ranks.mean((ranks.counted(encoding.loc) - self.loc[rows]).square())
        drift = self.drift + DRIFT_RATE * (displacement - self.drift)
        self.loc, self.scale = self._with(rows, encoding)
        self.drift = torch.where(displacement.isfinite(), drift, self.drift)

    def _with(self, rows: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
        """loc and scale of all with these in place, in new memory: a graph may still need what was there."""
        loc, scale = ranks.counted(encoding.loc).detach(), ranks.counted(encoding.scale).detach()
        finite = (loc.isfinite() & scale.isfinite()).all(1, keepdim=True)
        loc, scale = torch.where(finite, loc, self.loc[rows]), torch.where(finite, scale, self.scale[rows])
        whole = self.loc.index_copy(0, rows, loc), self.scale.index_copy(0, rows, scale)
        # Encoded in two places of a batch, a data point may differ by rounding.
        if _may_be_read(rows) and not ((whole[0][rows] - loc).abs() <= 0.01 * scale).all():
            raise ValueError(
                "index must name a data point once, or with the same encoding each time, but one has several: leave "
                "repetitions out of the batch"
            )
        return whole

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.loc, self.scale = fn(self.loc), fn(self.scale)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in ("loc", "scale"):
            destination[prefix + name] = self.shard.whole(getattr(self, name))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        state = dict(state_dict)
        for name in ("loc", "scale"):
            own, key = getattr(self, name), prefix + name
            rows, shape = state.pop(key, None), (self.shard.total, *own.shape[1:])
            if rows is None:
                missing_keys += [key] if strict else []
            elif rows.shape != shape:
                error_msgs.append(
                    f"size mismatch for {key}: it must have shape {list(shape)}, as this bank, but has shape "
                    f"{list(rows.shape)}: make the bank of the data points that the state is of"
                )
            else:
                setattr(self, name, self.shard.own(rows).to(own, copy=True))
        super()._load_from_state_dict(
            state, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _check_rows(loc: Tensor, scale: Tensor, like: Tensor | None = None) -> None:
    """Says what is wrong with encodings, of a bank to be or of one whose encodings are `like` these."""
    dims = loc.shape[-1:] if like is None else like.shape[1:]
    if loc.dim() != 2 or loc.shape[1:] != dims:
        shape = f"[B, {'D' if like is None else dims[0]}]"
        raise ValueError(
            f"encoding.loc must have shape {shape}, but has shape {list(loc.shape)}: one row for each data point"
        )
    if scale.shape != loc.shape:
        raise ValueError(
            f"encoding.scale must have the shape of encoding.loc, {list(loc.shape)}, but has shape "
            f"{list(scale.shape)}: use scale.expand_as(loc)"
        )
    dtype = loc.dtype if like is None else like.dtype
    for name, given in (("loc", loc), ("scale", scale)):
        if given.dtype != dtype or not given.is_floating_point():
            raise TypeError(
                f"encoding.{name} must be {'floating point' if like is None else dtype}, as all encodings of a bank, "
                f"but is {given.dtype}: convert it with .to()"
            )
    if (like is None or _may_be_read(scale)) and (scale <= 0).any():
        raise ValueError(
            f"encoding.scale must be positive (it is a standard deviation), but its smallest element is "
            f"{scale.min().item()}: a log-variance goes through (0.5 * logvar).exp(), a raw output through softplus"
        )


def _may_be_read(tensor: Tensor) -> bool:
    """Whether looking at the numbers neither waits for a device nor breaks a trace."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
