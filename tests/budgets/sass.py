"""Reads what the CUDA compiler made of the kernels: registers and spills from ptxas, loops from the disassembler."""

import re
import shutil
import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Resources(NamedTuple):
    registers: int
    stack: int
    spills: int


def disassembler() -> str | None:
    """cuobjdump: from the CUDA toolkit, or from the triton package, which carries one."""
    triton = find_spec("triton")
    carried = Path(triton.origin).parent / "backends" / "nvidia" / "bin" if triton else Path()
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path=str(carried))


def resources(ptxas_log: str) -> dict[str, Resources]:
    """By kernel, from what `-Xptxas -v` prints."""
    entry = re.compile(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        re.DOTALL,
    )
    found = entry.findall(ptxas_log)
    names = _demangled([name for name, *_ in found])
    return {
        name: Resources(int(registers), int(stack), int(stores) + int(loads))
        for name, (_, stack, stores, loads, registers) in zip(names, found)
    }


def loops(object_file: Path, cuobjdump: str) -> dict[str, list[Counter]]:
    """By kernel, the instructions of each innermost loop, counted by their names."""
    command = [cuobjdump, "--dump-sass", str(object_file)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"Function : (\S+)", listing)[1:]
    return dict(zip(_demangled(parts[::2]), map(_innermost_loops, parts[1::2])))


def _innermost_loops(listing: str) -> list[Counter]:
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", listing)
    code = [(int(address, 16), text) for address, text in lines]
    spans = set()
    for address, text in code:
        jump = re.search(r"BRA(?:\.\w+)*\s.*?0x([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < address:
            spans.add((int(jump[1], 16), address))
    innermost = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    names = re.compile(r"^(?:@!?U?P\w+\s+)?(\w+)")
    return [
        Counter(names.match(text)[1] for address, text in code if first <= address <= last)
        for first, last in sorted(innermost)
    ]


def _demangled(names: list[str]) -> list[str]:
    output = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [re.sub(r"^void |pykernels::|\(.*", "", line) for line in output.stdout.splitlines()]
