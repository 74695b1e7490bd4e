"""Compiles the torch-free programs that run the kernels of a room on many problems, with plain g++."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
SANITIZE_UNDEFINED = ["-fsanitize=undefined", "-fno-sanitize-recover=undefined"]
# Of the kernels' loops, these checks would take a minute to compile, and AddressSanitizer sees what they see.
SLOW_CHECKS = ["-fno-sanitize=null,object-size,pointer-overflow"]
CALLS_NOT_CODE = ["--param", "asan-instrumentation-with-call-threshold=0"]  # to compile in half the time
MODES = {
    "plain": [],
    "address": ["-g1", "-fsanitize=address", *SANITIZE_UNDEFINED, *SLOW_CHECKS, *CALLS_NOT_CODE],
    "thread": ["-g1", "-fsanitize=thread"],
}
# Of CMakeLists.txt.
ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"],
}
ISA_ALWAYS = [
    "-Wno-psabi",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
    "-fno-math-errno",
    "-fno-exceptions",
]
# What the sizes of a problem are divided by, and would have to be very large to be divided at all.
PLAN_CONSTANTS = {
    "mixture": ("kWantedBlocks", "kMostMemory"),
    "mmd": (
        "kMostMemory",
        "kRangeParts",
        "kLeastNodes",
        "kPointsPerNode",
        "kMomentRows",
        "kMomentBlocks",
        "kPairBlocks",
        "kListedBlocks",
    ),
}


def compiler() -> str | None:
    return shutil.which("g++")


def copy_sources(folder: Path, csrc: Path, room: str) -> None:
    """Copies csrc and the emulator into a folder; there the constants of the room's plan are variables, which the
    program sets for each problem."""
    shutil.copytree(csrc, folder / "csrc")
    shutil.copytree(ROOT / "tests" / "emulator", folder / "emulator", ignore=shutil.ignore_patterns("*.py*"))
    for name in PLAN_CONSTANTS[room]:
        found = 0
        for path in sorted((folder / "csrc" / room).glob("*cuda*")):
            text, count = re.subn(
                rf"constexpr int64_t {name} = [^;]+;", f"extern int64_t {name};", path.read_text()
            )
            path.write_text(text)
            found += count
        if found != 1:
            raise RuntimeError(
                f"csrc/{room}/*cuda* has {found} definitions of {name}, not one: see {HERE.name}/build.py"
            )


class Build:
    """One copy of the sources, compiled in any mode; what modes have in common is compiled once. The room is a
    folder of csrc, and names the program."""

    def __init__(self, folder: Path, csrc: Path = CSRC, room: str = "mixture"):
        self.folder, self.room = folder, room
        copy_sources(folder, csrc, room)
        self.cuda_sources = sorted((folder / "csrc" / room).glob("*.cu"))
        self.isas = list(ISA_FLAGS) if platform.machine() in ("x86_64", "AMD64") else ["baseline"]

    def link(self, programs: dict[str, list[str]]) -> None:
        """Builds a program for each mode, with the variants named; keeps objects that are there already."""
        jobs = {}
        for mode, variants in programs.items():
            jobs.update(self._objects(mode, variants))
        jobs = {path: command for path, command in jobs.items() if not path.exists()}
        with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
            list(pool.map(run, jobs.values()))
            list(pool.map(lambda item: self._link(*item), programs.items()))

    def program(self, mode: str) -> Path:
        return self.folder / mode

    def _link(self, mode: str, variants: list[str]) -> None:
        objects = [str(path) for path in self._objects(mode, variants)]
        run([*self._compile(mode), "-pthread", *self._openmp(mode), *objects, "-o", str(self.program(mode))])

    def _objects(self, mode: str, variants: list[str]) -> dict[Path, list[str]]:
        """The commands that make the objects of a program, the slow ones first."""
        return {
            path: [*command, "-c", str(source), "-o", str(path)]
            for path, source, command in self._steps(mode, variants)
        }

    def _steps(self, mode: str, variants: list[str]) -> Iterator[tuple[Path, Path, list[str]]]:
        csrc = self.folder / "csrc"
        table = []
        if "emulated" in variants:
            for source in self.cuda_sources:
                yield self.folder / f"{mode}_{source.stem}.o", source, [*self._emulated(mode), "-x", "c++"]
            table.append("-DPYKERNELS_EMULATED")
        if "avx2" in variants:
            table.append("-DPYKERNELS_X86")
        for isa in ["baseline", *(isa for isa in self.isas[1:] if "avx2" in variants)]:
            flags = [*ISA_ALWAYS, *ISA_FLAGS[isa], f"-DPYKERNELS_ISA={isa}", *self._openmp(mode)]
            source = csrc / self.room / f"{self.room}_cpu.cpp"
            yield self.folder / f"{mode}_{isa}.o", source, [*self._compile(mode), *flags]
        yield (
            self.folder / f"{mode}_table.o",
            csrc / self.room / f"{self.room}.cpp",
            [*self._compile(mode), *table],
        )
        # The program itself, and its comparison with the formulas, are not what the sanitizers are for.
        yield self.folder / "check.o", HERE / f"{self.room}_check.cpp", self._compile("plain")
        yield self.folder / "features.o", csrc / "core" / "cpu_features.cpp", self._compile("plain")

    def _compile(self, mode: str) -> list[str]:
        includes = [f"-I{path}" for path in (self.folder / "csrc", HERE, self.folder / "emulator")]
        return [
            compiler(),
            "-std=gnu++17",
            "-O1",
            "-ffp-contract=off",
            "-Wall",
            "-Wextra",
            *MODES[mode],
            *includes,
        ]

    def _emulated(self, mode: str) -> list[str]:
        return [*self._compile(mode), "-DPYKERNELS_EMULATED"]

    def _openmp(self, mode: str) -> list[str]:
        return [] if mode == "thread" else ["-fopenmp"]  # libgomp's barriers are unknown to ThreadSanitizer


def run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def check(
    program: Path, *arguments: str, order: str = "forward", timeout: float | None = 300
) -> tuple[int, str]:
    """Runs the program; returns its exit status and all that it wrote."""
    # The first race is enough. No check for leaks: it needs ptrace, which containers may forbid.
    sanitizers = {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    environment = {**os.environ, **sanitizers, "PYKERNELS_EMULATOR_ORDER": order}
    command = [str(program), *arguments]

    def call(command: list[str]) -> subprocess.CompletedProcess:
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        return subprocess.run(command, check=False, env=environment, timeout=timeout, **pipe)

    done = call(command)
    if "unexpected memory mapping" in done.stdout and shutil.which("setarch"):
        done = call(["setarch", "-R", *command])  # without random addresses
    return done.returncode, done.stdout
