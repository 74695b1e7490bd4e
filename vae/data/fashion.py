"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of clothes, in ten classes."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vae.data.files import find, read_idx
from vae.run import RunError

CLASSES = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
PACKAGE = Path("/usr/share/datasets/fashion-mnist")
SOURCE = (
    "install Debian's package dataset-fashion-mnist, or get the four files from "
    "https://github.com/zalandoresearch/fashion-mnist"
)


def fashion_mnist(split: str = "train", folder: str = "") -> tuple[Tensor, Tensor]:
    """Images, uint8 [n, 1, 32, 32], and the class of each, int64 [n], of the "train" or the "t10k" split.

    From IDX files in `folder`, else $VAE_DATA, else where Debian's package has them. The original 28×28 pixels
    are resized bilinearly, and rounded.
    """
    images_path, labels_path = (
        find((name, f"{name}.gz"), folder, PACKAGE, SOURCE)
        for name in (f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte")
    )
    images, labels = read_idx(images_path, 28, 28), read_idx(labels_path).long()
    if len(images) != len(labels):
        raise RunError(f"{images_path} has {len(images)} images, but {labels_path} {len(labels)} labels")
    if labels.max() >= len(CLASSES):
        raise RunError(f"{labels_path} is damaged (a label {labels.max()}, they are 0 to 9): restore a copy")
    return interpolate(images.unsqueeze(1), size=(32, 32), mode="bilinear"), labels


def unit_interval(images: Tensor) -> Tensor:
    """Bytes to float32 in [0, 1]."""
    return images.float() / torch.iinfo(torch.uint8).max
