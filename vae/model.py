"""A variational auto-encoder: encoder + decoder + prior + likelihood."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae import ranks


class Encoding(NamedTuple):
    """What the encoder makes of a batch: q(z|x) = N(loc, scale²), and one reparameterised draw z from it."""

    loc: Tensor
    scale: Tensor
    z: Tensor

    @property
    def posterior(self) -> Distribution:
        return Independent(Normal(self.loc, self.scale, validate_args=False), 1)


class VAE(nn.Module):
    """The four parts, each replaceable by anything of the same shape.

    Args:
        encoder: x [B, *event] -> (loc, scale), both [B, D].
        decoder: z [B, D] -> whatever `likelihood` takes.
        prior: a torch distribution with event_shape (D,), or a module that returns one when called, so that the
            prior can own parameters and follow the model to its device.
        likelihood: the decoder's output -> the torch distribution p(x|z), with log_prob of shape [B].
    """

    prior: Callable[[], Any]  # of a distribution, each of which has attributes of its own

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: Distribution | Callable[[], Distribution],
        likelihood: Callable[[Any], Distribution],
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = (lambda: prior) if isinstance(prior, Distribution) else prior
        self.likelihood = likelihood

    def encode(self, x: Tensor) -> Encoding:
        loc, scale = self.encoder(x)
        return Encoding(loc, scale, loc + scale * ranks.randn_like(loc))

    def decode(self, z: Tensor) -> Distribution:
        return self.likelihood(self.decoder(z))

    def forward(self, x: Tensor) -> tuple[Encoding, Tensor]:
        """The encoding of x and log p(x|z) [B] at its draw z."""
        encoding = self.encode(x)
        return encoding, self.decode(encoding.z).log_prob(x)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients, and BatchNorm by what it has gathered in training, not by the batch at hand."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def encode_all(model: VAE, batches: Iterable[Tensor]) -> Encoding:
    """The encodings of all batches as one, with a draw from each."""
    with evaluating(model):
        encodings = (tuple(map(ranks.counted, model.encode(x))) for x in batches)
        return Encoding(*map(torch.cat, zip(*encodings, strict=True)))
