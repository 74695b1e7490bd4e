"""2D shapes on disk: the published file, read in passing, and a cache that holds the images eight pixels to a byte."""

import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae.data.factors import Factors
from vae.data.shapes_render import SIDE
from vae.run import RunError

BYTES = SIDE * SIDE // 8
"""Of one image."""
ROWS = 4096
"""Images unpacked at a time: 16 MB."""


def read_published(path: Path, factors: Factors) -> Iterator[NDArray[numpy.uint8]]:
    """The images of the published archive in order, packed to bits, [m, 512] at a time.

    Stored as [n, 64, 64] or [n, 3, 64, 64], compressed or not. Reads `imgs` and `latents_classes`, of which the
    second must agree with the order of `factors`; the pickled `metadata` is not touched.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("latents_classes.npy") as member:
                classes = numpy.lib.format.read_array(member, allow_pickle=False)
            # The first column is the colour, which is white.
            if not numpy.array_equal(classes[:, 1:], factors.levels(torch.arange(factors.count)).numpy()):
                raise ValueError("latents_classes is not in the order of the published set")
            with archive.open("imgs.npy") as member:
                yield from _pack(member, factors.count)
    except (OSError, EOFError, KeyError, ValueError, IndexError, zlib.error, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is damaged ({error}): restore a copy") from error


def _pack(member: Any, count: int) -> Iterator[NDArray[numpy.uint8]]:
    """From an array of bytes, a part at a time: a pixel is on where it is not 0 in any channel."""
    version = numpy.lib.format.read_magic(member)
    read_header = {
        (1, 0): numpy.lib.format.read_array_header_1_0,
        (2, 0): numpy.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read_header(member)
    channels = {(count, SIDE, SIDE): 1, (count, 3, SIDE, SIDE): 3}.get(shape)
    if channels is None or fortran_order or dtype not in (numpy.uint8, numpy.bool_):
        required = f"{(count, SIDE, SIDE)} or {(count, 3, SIDE, SIDE)}"
        raise ValueError(f"imgs is {dtype} {shape}, not bytes {required}")
    size = channels * SIDE * SIDE
    for start in range(0, count, ROWS):
        content = _read_exactly(member, min(ROWS, count - start) * size)
        pixels = numpy.frombuffer(content, numpy.uint8).reshape(-1, channels, SIDE * SIDE)
        if pixels.max() not in (0, 1, 255):
            raise ValueError(f"imgs holds a {pixels.max()}, not only 0 and 1")
        yield numpy.packbits(pixels.any(axis=1), axis=1)
    if member.read(1):  # which also has the archive compare its checksum
        raise ValueError("imgs has more bytes than its header says")


def _read_exactly(member: Any, size: int) -> bytes:
    content: bytes = member.read(size)
    if len(content) != size:
        raise EOFError("imgs ends too early")
    return content


def write_cache(path: Path, blocks: Iterable[NDArray[numpy.uint8]], source: str) -> None:
    """The blocks one after another, then a line that tells their source and checksum. All of it appears at once,
    and two processes may write the same at the same time."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            checksum = 0
            for block in blocks:
                file.write(block.data)
                checksum = zlib.crc32(block.data, checksum)
            file.write(json.dumps({"source": source, "crc32": checksum}).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error}): name another folder with --data") from error
    finally:
        temporary.unlink(missing_ok=True)


def open_cache(path: Path, count: int, source: str) -> Tensor | None:
    """uint8 [count, 512], mapped and not read into memory; None where there is none from that source.

    The checksum is compared every time: 0.2 s where the file is in the system's memory, else as long as reading it,
    which the first epoch would do.
    """
    if not path.is_file():
        return None
    remedy = "delete it, and it is made again"
    size = count * BYTES
    try:
        with path.open("rb") as file:
            file.seek(size)
            trailer = json.loads(file.read())
        if trailer["source"] != source:
            return None
        packed = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        if zlib.crc32(packed.numpy().data) != trailer["crc32"]:
            raise ValueError("its checksum does not match")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}): {remedy}") from error
    return packed.view(count, BYTES)
