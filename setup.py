"""Builds pykernels._C with CMake and Ninja. Without a C++ compiler the package installs, and runs on its reference."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        if not (os.environ.get("CXX") or any(map(shutil.which, ("c++", "g++", "clang++")))):
            self.warn("no C++ compiler found: pykernels will run on its slower pure-Python reference")
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
