"""Encoders and decoders: Table 1 of the paper."""

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
