"""Small data sets in the format of Fashion-MNIST's files."""

import gzip
import struct

import torch


def idx_bytes(data):
    return struct.pack(f">{1 + data.dim()}I", 0x800 + data.dim(), *data.shape) + data.numpy().tobytes()


def write_fashion(folder, *, train=60, test=30, compress=True):
    """Blurred noise, in all ten classes: images [n, 28, 28] by split."""
    folder.mkdir(exist_ok=True)
    written = {}
    for split, n in (("train", train), ("t10k", test)):
        noise = torch.nn.functional.avg_pool2d(255 * torch.rand(n, 1, 32, 32), 5, stride=1)
        images = written[split] = noise.squeeze(1).byte()
        labels = (torch.arange(n) % 10).byte()
        for name, data in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
            content = idx_bytes(data)
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return written
