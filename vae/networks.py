"""Encoders and decoders: Table 1 of the paper."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class GaussianMLP(nn.Module):
    """Fully connected: one hidden ReLU layer, then the loc and scale of a diagonal Gaussian (Table 1b).

    scale = softplus(·) + min_scale: a floor that is added keeps a gradient where one that clamps has none.
    """

    def __init__(self, in_features: int, out_features: int, *, min_scale: float, hidden_features: int = 100):
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features)
        self.heads = nn.Linear(hidden_features, 2 * out_features)
        self.min_scale = min_scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw_scale = self.heads(self.hidden(x).relu()).chunk(2, dim=-1)
        return loc, softplus(raw_scale) + self.min_scale


class DCGANEncoder(nn.Module):
    """Convolutions of images [B, 1, 32, 32] to the loc and scale [B, D] of a diagonal Gaussian (Table 1c).

    scale = softplus(·) + min_scale. The paper's published code differs: `norm_first=False` leaves out the first
    BatchNorm, and `weight_std` 0.02 draws all weights from N(0, 0.02²), with biases 0; None is torch's default.
    """

    def __init__(
        self, latent_dim: int, *, min_scale: float, norm_first: bool = True, weight_std: float | None = None
    ):
        super().__init__()
        self.body = nn.Sequential(
            *_halve(1, 32, norm=norm_first),
            *_halve(32, 64),
            *_halve(64, 128),
        )
        self.heads = nn.Conv2d(128, 2 * latent_dim, 4)
        self.min_scale = min_scale
        _prepare(self, weight_std)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Whatever precision the convolutions had, the encoding is float32 (or float64).
        heads = self.heads(self.body(x)).flatten(1).to(self.heads.weight.dtype)
        loc, raw_scale = heads.chunk(2, dim=-1)
        return loc, softplus(raw_scale) + self.min_scale


class DCGANDecoder(nn.Module):
    """Transposed convolutions of z [B, D] to the loc [B, 1, 32, 32] of the pixels, in no bounds (Table 1c)."""

    def __init__(self, latent_dim: int, *, weight_std: float | None = None):
        super().__init__()
        self.body = nn.Sequential(
            nn.ConvTranspose2d(latent_dim, 128, 4, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            *_double(128, 64),
            *_double(64, 32),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1, bias=False),
        )
        _prepare(self, weight_std)

    def forward(self, z: Tensor) -> Tensor:
        result: Tensor = self.body(z[:, :, None, None]).to(z.dtype)
        return result


class ShapesEncoder(nn.Module):
    """Convolutions of images [B, 1, 64, 64] to the loc and scale [B, D] of a diagonal Gaussian (Table 1a).

    scale = exp(½ ·) + min_scale. No ReLU follows the layer of 128, as in the table.
    """

    def __init__(self, latent_dim: int, *, min_scale: float):
        super().__init__()
        channels = (1, 32, 32, 64, 64)
        self.body = nn.Sequential(
            *(layer for sizes in pairwise(channels) for layer in (nn.Conv2d(*sizes, **_STRIDED), nn.ReLU())),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 128),
        )
        self.heads = nn.Linear(128, 2 * latent_dim)
        self.min_scale = min_scale
        _prepare(self, None)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_variance = self.heads(self.body(x)).to(self.heads.weight.dtype).chunk(2, dim=-1)
        return loc, (0.5 * log_variance).exp() + self.min_scale


class ShapesDecoder(nn.Module):
    """Transposed convolutions of z [B, D] to the logits [B, 1, 64, 64] of the pixels (Table 1a)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        channels = (64, 64, 64, 32)
        self.body = nn.Sequential(
            nn.Linear(latent_dim, 128),
            nn.ReLU(),
            nn.Linear(128, 64 * 4 * 4),
            nn.ReLU(),
            nn.Unflatten(1, (64, 4, 4)),
            *(
                layer
                for sizes in pairwise(channels)
                for layer in (nn.ConvTranspose2d(*sizes, **_STRIDED), nn.ReLU())
            ),
            nn.ConvTranspose2d(32, 1, **_STRIDED),
        )
        _prepare(self, None)

    def forward(self, z: Tensor) -> Tensor:
        result: Tensor = self.body(z).to(z.dtype)
        return result


def draw_he_weights(network: nn.Module) -> None:
    """New weights with which signals keep their size from one ReLU to the next (He et al. 2015), and biases 0.

    An output is a sum of `terms` inputs; of a transposed convolution it sees one place of the kernel in stride².
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            terms = module.in_features
        elif isinstance(module, nn.Conv2d):
            terms = module.in_channels * math.prod(module.kernel_size)
        elif isinstance(module, nn.ConvTranspose2d):
            terms = module.in_channels * math.prod(module.kernel_size) // math.prod(module.stride)
        else:
            continue
        nn.init.normal_(module.weight, std=math.sqrt(2 / terms))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_STRIDED: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}


def _halve(in_channels: int, out_channels: int, *, norm: bool = True) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    return [convolution, *([nn.BatchNorm2d(out_channels)] if norm else []), nn.LeakyReLU(0.2)]


def _double(in_channels: int, out_channels: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]


def _prepare(network: nn.Module, weight_std: float | None) -> None:
    """Draws the weights, unless torch's own are kept, and lays them out channels last, the faster order."""
    for module in network.modules():
        if weight_std is not None and isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=weight_std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
