"""Builds the compiled module once more, with the CUDA kernels on the host emulator as one of its variants."""

import functools
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "emulated"  # kept, so that a second run compiles nothing


def missing_tool() -> str | None:
    """What the build needs and this machine lacks."""
    compilers = ("c++", "g++", "clang++")
    if not any(map(shutil.which, compilers)):
        return "a C++ compiler"
    return next((tool for tool in ("cmake", "ninja") if not shutil.which(tool)), None)


@functools.cache
def module() -> ModuleType:
    import pybind11
    from filelock import FileLock

    configure = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(BUILD), "-DPYKERNELS_EMULATED=ON"]
    configure += ["-DPYKERNELS_CUDA=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / "lock"):  # several processes may run the tests
        for command in (configure, ["cmake", "--build", str(BUILD)]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    (path,) = BUILD.glob("_C*.so")
    spec = importlib.util.spec_from_file_location("_C", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
