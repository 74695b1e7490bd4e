"""Where data sets lie, and the IDX format. Nothing is downloaded and nothing unpickled."""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from vae.run import RunError

VARIABLE = "VAE_DATA"
GZIP_MAGIC = b"\x1f\x8b"


def find(names: tuple[str, ...], folder: str, package: Path, source: str) -> Path:
    """The first of `names` that is there: in `folder` where one is given (--data), else in $VAE_DATA, else in
    `package`, where the operating system's package puts it. `source` tells where else to get it."""
    folders = given(folder)
    if not folder:
        folders.append(package)
    if path := first(names, folders):
        return path
    raise RunError(
        f"{' or '.join(names)} is not in {' or '.join(map(str, folders))}: {source}, "
        f"and name the folder with --data or {VARIABLE}"
    )


def given(folder: str) -> list[Path]:
    """The folder of data sets that the user named, if any: `folder` (--data), else $VAE_DATA."""
    named = folder or os.environ.get(VARIABLE)
    return [Path(named)] if named else []


def first(names: Iterable[str], folders: Iterable[Path]) -> Path | None:
    """The first file of those names in the first folder that has one."""
    names = tuple(names)
    return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)


def read_idx(path: Path, *event: int) -> Tensor:
    """uint8 [n, *event] from an IDX file of bytes, gzipped or not; one that is anything else is refused."""
    try:
        content = path.read_bytes()
        if content.startswith(GZIP_MAGIC):
            content = gzip.decompress(content)
        magic, *shape = struct.unpack_from(f">{2 + len(event)}I", content)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise _damaged(path, str(error)) from error
    header = 4 * (2 + len(event))
    if magic != 0x800 + 1 + len(event) or tuple(shape[1:]) != event:
        raise _damaged(path, f"its header is not that of {'x'.join(['n', *map(str, event)])} bytes")
    if len(content) - header != math.prod(shape) or not shape[0]:
        raise _damaged(path, f"{len(content) - header} bytes of data, its header says {math.prod(shape)}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).view(shape)


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"{path} is damaged ({why}): restore a copy")
