"""Builds pykernels._C with CMake and Ninja. What cannot compile it installs the package all the same, without it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def what_is_missing() -> str | None:
    if not (os.environ.get("CXX") or any(map(shutil.which, ("c++", "g++", "clang++")))):
        return "a C++ compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers, which Debian and Ubuntu have in python3-dev, Fedora in python3-devel"
    return None


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        if missing := what_is_missing():
            self.warn(f"pykernels will run on its slower pure-Python reference, for want of {missing}")
            return
        import pybind11

        package = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        build = Path(self.build_temp).resolve()
        configure = [
            "cmake",
            # Forgets an earlier build's cache, which names tools of an isolated environment that is gone.
            "--fresh",
            *("-G", "Ninja", "-S", str(ROOT), "-B", str(build)),
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPYKERNELS_CUDA={os.environ.get('PYKERNELS_CUDA', 'AUTO')}",
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)
        subprocess.run(["cmake", "--install", str(build), "--prefix", str(package.parent)], check=True)


setup(ext_modules=[Extension("pykernels._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
