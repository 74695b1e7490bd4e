"""The torch-free programs on processors that this machine is not: old x86 and 64-bit ARM, under user-mode emulation.

They run where QEMU's user-mode emulators and g++ for the processor are: on Debian, the packages qemu-user-static and
g++-aarch64-linux-gnu. The emulators interpret every instruction, so a few problems have to do."""

import platform
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.native import build
from tests.native.test_native import CANNOT_RUN


class Processor(NamedTuple):
    compiler: str
    emulator: tuple[str, ...]
    runs: dict[str, bool]
    """Which kernels are built for it, and whether it runs them."""


PROCESSORS = {
    # SSE4.2 and nothing later: of 2008.
    "nehalem": Processor(
        "g++", ("qemu-x86_64-static", "-cpu", "Nehalem"), {"baseline": True, "avx2": False, "avx512": False}
    ),
    "aarch64": Processor("aarch64-linux-gnu-g++", ("qemu-aarch64-static",), {"baseline": True}),
}
ROOMS = {"mixture": (0, 2), "mmd": (0, 1)}
CASES = [
    *(("mixture", "nehalem", isa) for isa in PROCESSORS["nehalem"].runs),
    *((room, "aarch64", "baseline") for room in ROOMS),
]


class CrossBuild(build.Build):
    """Of programs that need no library of the machine that runs them."""

    def __init__(self, folder: Path, room: str, processor: Processor):
        super().__init__(folder, room=room)
        self.compiler, self.isas = processor.compiler, list(processor.runs)

    def _compile(self, mode: str) -> list[str]:
        return [self.compiler, *super()._compile(mode)[1:], "-static"]


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The program of a room for a processor; those of one compiler are the same."""
    made = {}

    def program(room: str, processor: Processor) -> Path:
        key = room, processor.compiler
        if key not in made:
            built = CrossBuild(
                tmp_path_factory.mktemp(f"{room}_{processor.compiler}") / "build", room, processor
            )
            built.link({"plain": list(processor.runs)})
            made[key] = built.program("plain")
        return made[key]

    return program


@pytest.mark.parametrize(("room", "name", "isa"), CASES)
def test_kernels_run_where_they_can_and_refuse_elsewhere(programs, tmp_path, room, name, isa):
    processor = PROCESSORS[name]
    if processor.compiler == "g++" and platform.machine() != "x86_64":
        pytest.skip("these programs are for x86")
    for tool in (processor.compiler, processor.emulator[0]):
        if not shutil.which(tool):
            pytest.skip(f"other processors are emulated with {tool}")
    emulated = tmp_path / "emulated"
    emulated.write_text(f'#!/bin/sh\nexec {" ".join(processor.emulator)} {programs(room, processor)} "$@"\n')
    emulated.chmod(0o755)
    first, end = ROOMS[room]
    status, written = build.check(emulated, isa, "check", str(first), str(end), "1")
    assert status == (0 if processor.runs[isa] else CANNOT_RUN), written
    assert ("digest" in written) == processor.runs[isa]
