"""2D shapes (Matthey et al. 2017): 737,280 binary images of every combination of five factors."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding
from tqdm import tqdm

from vae.data import files
from vae.data.factors import Factors
from vae.data.shapes_files import open_cache, read_published, write_cache
from vae.data.shapes_render import ALL, SIDE, render
from vae.run import RunError

PUBLISHED = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
RENDERER = "rendered, 1"
"""Changes with every change of what is drawn, so that a cache of other images is not taken."""


class Shapes(NamedTuple):
    packed: Tensor
    """uint8 [n, 512]: 64×64 pixels, eight to a byte."""
    factors: Factors


def shapes(folder: str = "", steps: Sequence[int] = ()) -> Shapes:
    """The published set where its file is in `folder` (--data), else in $VAE_DATA; else an equivalent one, drawn here.

    `steps` keeps every so manyth level of each factor, in a set that is again complete in the levels it has. All of
    the images are kept in a file of 377 MB in the same folder, or in the user's cache where none is named or it
    cannot be written to, and mapped from there: the whole set takes no memory of its own until it is copied.
    """
    steps = tuple(steps) or (1,) * len(ALL.sizes)
    if len(steps) != len(ALL.sizes) or min(steps) < 1:
        given = " ".join(map(str, steps))
        raise RunError(f"--subset {given} is not one positive step for each of {', '.join(ALL.names)}")
    levels = [range(0, size, step) for size, step in zip(ALL.sizes, steps)]
    factors = Factors(ALL.names, tuple(map(len, levels)))
    if factors.count == 1:
        raise RunError(f"--subset {' '.join(map(str, steps))} leaves one image only: give shorter steps")
    published = files.first([PUBLISHED], files.given(folder))
    if published:
        source = f"{PUBLISHED}, {published.stat().st_size} bytes"
        packed = _cached(folder, "shapes-published.bits", source, published)
        if factors != ALL:
            packed = packed[ALL.index(torch.cartesian_prod(*map(torch.tensor, levels)))]
    elif factors == ALL:
        packed = _cached(folder, "shapes-rendered.bits", RENDERER, None)
    else:
        packed = torch.cat([torch.from_numpy(block) for block in render(levels)])
    return Shapes(packed, factors)


def _cached(folder: str, name: str, source: str, published: Path | None) -> Tensor:
    """The whole set from the first cache that there is, or from one that is made now."""
    folders = [*files.given(folder), cache_folder()]
    for path in (place / name for place in folders):
        if (packed := open_cache(path, ALL.count, source)) is not None:
            return packed
    place = next((place for place in folders[:-1] if os.access(place, os.W_OK)), folders[-1])
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{place} cannot be made ({error}): name another folder with --data") from error
    blocks = read_published(published, ALL) if published else render([range(size) for size in ALL.sizes])
    write_cache(place / name, tqdm(blocks, str(place / name), disable=None, leave=False), source)
    packed = open_cache(place / name, ALL.count, source)
    assert packed is not None
    return packed


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/vae-kernels, which is ~/.cache/vae-kernels where the variable is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae-kernels"


def unpack(packed: Tensor) -> Tensor:
    """float32 [B, 1, 64, 64] of zeros and ones from bytes [B, 512], on their device."""
    # Twice as fast on CPUs as to shift every byte.
    return embedding(packed.int(), _pixels_of_byte(packed.device)).view(-1, 1, SIDE, SIDE)


@functools.cache
def _pixels_of_byte(device: torch.device) -> Tensor:
    """[256, 8]: what every byte stands for. Made once: on a GPU it takes as many launches as a small network."""
    byte = torch.arange(256, device=device).unsqueeze(1)
    return (byte >> torch.arange(7, -1, -1, device=device) & 1).float()
