"""The torch-free programs with the CUDA kernels on a GPU instead of the emulator, plain or under compute-sanitizer:

    python -m tests.native.gpu build FOLDER ROOM [ARCHITECTURE]
    python -m tests.native.gpu run FOLDER ROOM [memcheck | racecheck | synccheck | initcheck]

A room is `mixture` or `mmd`. Needs no GPU to build, for sm_90 say. Without one a run says so and exits with 3; with 1
where a problem failed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.native import build

ROOMS = ("mixture", "mmd")
# Mode, first and last problem, seed, as the programs take them. Under a tool, which is slow, each call is made once,
# and in parts, so that one that is ended leaves some of them.
PLAIN = {
    "mixture": (("check", 0, 250, 1), ("threads", 1, 2, 2)),
    "mmd": (("check", 1000, 2000, 1), ("check", 0, 60, 1), ("threads", 1, 3, 2)),
}
UNDER_TOOLS = {
    "mixture": (("once", 0, 47, 2), ("once", 47, 94, 2), ("once", 94, 110, 2)),
    "mmd": (("once", 1000, 2000, 2), ("once", 0, 20, 2)),
}
TOOLS = {
    "memcheck": [],
    "racecheck": ["--racecheck-report", "all"],
    "synccheck": [],
    "initcheck": [],
}
READ_BY_KERNELS = ("kMomentRows",)
NOT_HERE = 3  # the programs' own, too
FOUND = 9  # the exit status of a tool that found something


class GpuBuild(build.Build):
    """With the table's "cuda" behind a mirror of the program's memory, under the name that the table knows."""

    def __init__(self, folder: Path, room: str, architecture: str):
        super().__init__(folder, room=room)
        self._fix_what_kernels_read()
        self._nvcc = ["nvcc", "-std=c++17", "-O3", "--fmad=false", "-lineinfo", f"-arch={architecture}"]
        self._nvcc += [f"-I{self.folder / 'csrc'}", f"-I{build.HERE}"]

    def _fix_what_kernels_read(self) -> None:
        """A variable of the host cannot be read on a GPU: such a constant is one again."""
        for name in READ_BY_KERNELS:
            for path in (self.folder / "csrc" / self.room).glob("*cuda*"):
                original = (build.CSRC / self.room / path.name).read_text()
                if definition := re.search(rf"constexpr int64_t {name} = [^;]+;", original):
                    text = path.read_text().replace(f"extern int64_t {name};", definition[0])
                    path.write_text(text)

    def _steps(self, mode: str, variants: list[str]) -> Iterator[tuple[Path, Path, list[str]]]:
        csrc, room = self.folder / "csrc", self.room
        rename = f"-D{room}_cuda={room}_there"
        yield self.folder / "kernels.o", csrc / room / f"{room}_cuda.cu", [*self._nvcc, rename]
        yield self.folder / "mirror.o", build.HERE / f"{room}_on_gpu.cu", self._nvcc
        yield self.folder / "device.o", csrc / "core" / "cuda_device.cu", self._nvcc
        for path, source, command in super()._steps(mode, variants):
            yield path, source, [*command, *(["-DPYKERNELS_CUDA"] if path.stem.endswith("_table") else [])]

    def _link(self, mode: str, variants: list[str]) -> None:
        objects = [str(path) for path in self._objects(mode, variants)]
        build.run([*self._nvcc, "-Xcompiler", "-fopenmp,-pthread", *objects, "-o", str(self.program(mode))])


def build_program(folder: Path, room: str, architecture: str) -> int:
    if missing := [tool for tool in ("nvcc", "g++") if not shutil.which(tool)]:
        print(f"the programs cannot be built without {missing[0]}")
        return NOT_HERE
    GpuBuild(folder / room, room, architecture).link({"plain": []})
    return 0


def run_program(folder: Path, room: str, tool: str | None) -> int:
    """The worst exit status; nothing stops at the first problem."""
    program = folder / room / "plain"
    before, environment, problems = [], dict(os.environ), PLAIN
    if not program.exists():
        print(f"{program} is not built")
        return NOT_HERE
    if tool:
        if not shutil.which("compute-sanitizer"):
            print("compute-sanitizer was not found")
            return NOT_HERE
        before = ["compute-sanitizer", "--tool", tool, *TOOLS[tool], "--error-exitcode", str(FOUND)]
        before += ["--print-limit", "20"]
        problems = UNDER_TOOLS
    if tool == "initcheck":
        environment["SELFTEST_FRESH_WORKSPACE"] = "1"
    worst = 0
    for arguments in problems[room]:
        command = [*before, str(program), "cuda", *map(str, arguments)]
        print("+", *command[len(before) :], flush=True)
        status = subprocess.run(command, check=False, env=environment).returncode
        worst = max(worst, abs(status))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.native.gpu", description=__doc__)
    parser.add_argument("what", choices=("build", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("with_what", nargs="?", help="the GPU's architecture (native), or a tool (none)")
    options = parser.parse_args()
    if options.what == "build":
        return build_program(options.folder, options.room, options.with_what or "native")
    return run_program(options.folder, options.room, options.with_what)


if __name__ == "__main__":
    sys.exit(main())
