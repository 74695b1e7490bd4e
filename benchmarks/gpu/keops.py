"""Where KeOps finds what it compiles with: cuda.h and nvrtc.h in one folder, and libraries that the linker sees."""

import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = ("libnvrtc.so", "libcuda.so")
DRIVER_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib")


def homes() -> Iterator[Path]:
    """Of CUDA: the compiler's, the usual ones, and the packages that torch brings."""
    if nvcc := shutil.which("nvcc"):
        yield Path(nvcc).resolve().parents[1]
    yield from sorted(Path("/usr/local").glob("cuda*"))
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    yield from sorted(packages.glob("*")) if packages.is_dir() else ()


def variables(folder: Path) -> dict[str, str]:
    """Of the environment, for a process that compiles: of a home in `folder` with links to what others have."""
    home = folder / "cuda"
    for name in ("include", "lib"):
        (home / name).mkdir(parents=True, exist_ok=True)
    found = list(homes())
    for include in (home_ / "include" for home_ in found):
        for path in include.iterdir() if include.is_dir() else ():
            _link(home / "include" / path.name, path)
    for name in LIBRARIES:
        for path in _libraries(name, found):
            _link(home / "lib" / name, path)
            _link(home / "lib" / path.name, path)
    lib = os.pathsep.join([str(home / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    cache = str(folder / "keops")
    return {"CUDA_PATH": str(home), "LIBRARY_PATH": lib, "LD_LIBRARY_PATH": lib, "KEOPS_CACHE_FOLDER": cache}


def _libraries(name: str, found: list[Path]) -> Iterator[Path]:
    places = [home / lib for home in found for lib in ("lib64", "lib")]
    for place in (*places, *map(Path, DRIVER_FOLDERS)):
        yield from sorted(place.glob(f"{name}*")) if place.is_dir() else ()


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink() and not link.exists():
        link.symlink_to(target)
