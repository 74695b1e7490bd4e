"""Makes each mistake of mutations.py in a copy of the CUDA sources, and writes down what catches it.

It takes some twenty minutes on two cores.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutations.mmd_mutations import MMD_MUTATIONS
from tests.mutations.mutations import MUTATIONS, Mutation, apply
from tests.native.build import CSRC, Build, check
from tests.native.test_native import ORDERS, SINGLE
from tests.native.test_native_mmd import EDGES

README = Path(__file__).with_name("README.md")
NOT_SEEN = "not seen"
MODES = ("plain", "thread", "address")
ALL = (*MUTATIONS, *MMD_MUTATIONS)
PROBLEMS = {"mixture": (0, SINGLE), "mmd": EDGES}
INTRODUCTION = """# What the tests catch

Each row is a mistake that `run_mutations.py` made in a copy of the CUDA sources, and what a program of
`tests/native` saw of it on the host emulator, on its edges: {mixture} problems of the mixture, in float32, or those of
the MMD, in float32 and float64.

- *plain*: without sanitizers, in the emulator's three orders, told apart where they differ. "wrong values"
  counts the problems that failed; other texts are what the emulator itself said.
- *thread*, *address*: what ThreadSanitizer, and AddressSanitizer with UBSan, said; run for mistakes of their
  kind.

Written by `python -m tests.mutations.run_mutations`. That each mutation still fits the sources is checked by
`test_mutations.py`.

| mutation | file | plain | thread | address |
|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations.run_mutations", description=__doc__)
    parser.add_argument("name", nargs="?", default="", help="a part of it: run only these, and only print")
    parser.add_argument("--csrc", type=Path, default=CSRC, help="the sources, if not those of this tree")
    options = parser.parse_args()
    chosen = [mutation for mutation in ALL if options.name in mutation.name]
    with tempfile.TemporaryDirectory(prefix="mutations_") as folder:
        started = {
            room: _base(Path(folder) / room, options.csrc, room, of_room)
            for room in PROBLEMS
            if (of_room := [mutation for mutation in chosen if mutation.room == room])
        }
        with ThreadPoolExecutor(max_workers=2) as pool:
            rows = list(pool.map(lambda item: _try(*started[item[1].room], *item), enumerate(chosen)))
    if not options.name:
        README.write_text(INTRODUCTION.format(mixture=SINGLE) + "".join(rows))
    missed = [row for row in rows if not _caught(row)]
    sys.exit(f"caught by nothing:\n{''.join(missed)}" if missed else 0)


def _base(folder: Path, csrc: Path, room: str, chosen: list[Mutation]) -> tuple[Build, dict[str, float]]:
    """The sources as they are, copied once, lest they change meanwhile; every mode has to find them right. And for how
    long each may run that is not known to end."""
    shutil.copytree(csrc, folder / "csrc")
    for mutation in chosen:
        shutil.copytree(csrc, folder / "tried")
        apply(mutation, folder / "tried")
        shutil.rmtree(folder / "tried")
    build = Build(folder / "base", folder / "csrc", room)
    modes = {"plain", *(mode for mutation in chosen for mode in mutation.sanitizers)}
    build.link({mode: ["emulated"] for mode in modes})
    limits = {}
    for mode in modes:
        start = time.monotonic()
        if (seen := _see(build, mode, None)) != NOT_SEEN:
            raise RuntimeError(f"without any mutation: {seen}")
        limits[mode] = 60 + 4 * (time.monotonic() - start)
    return build, limits


def _try(base: Build, limits: dict[str, float], number: int, mutation: Mutation) -> str:
    """The row of one mutation."""
    build = Build(base.folder.with_name(f"mutation_{number}"), base.folder.with_name("csrc"), base.room)
    for path in base.folder.glob("*.o"):
        if not any(path.stem.endswith(source.stem) for source in base.cuda_sources):
            shutil.copy(path, build.folder)
    files = apply(mutation, build.folder / "csrc")
    modes = ("plain", *mutation.sanitizers)
    build.link({mode: ["emulated"] for mode in modes})
    cells = {mode: _see(build, mode, limits[mode]) for mode in modes}
    shutil.rmtree(build.folder)
    columns = [mutation.name, ", ".join(files), *(cells.get(mode, "") for mode in MODES)]
    row = f"| {' | '.join(columns)} |\n"
    print(row, end="", flush=True)
    return row


def _see(build: Build, mode: str, limit: float | None) -> str:
    if mode != "plain":
        return _run(build, mode, ORDERS[0], limit)
    seen = {order: _run(build, mode, order, limit) for order in ORDERS}
    if len(set(seen.values())) == 1:
        return seen[ORDERS[0]]
    return "; ".join(f"{order}: {text}" for order, text in seen.items())


def _run(build: Build, mode: str, order: str, limit: float | None) -> str:
    try:
        arguments = ("emulated", "once", *map(str, PROBLEMS[build.room]), "1")
        status, written = check(build.program(mode), *arguments, order=order, timeout=limit)
    except subprocess.TimeoutExpired:
        return "it hangs"
    return NOT_SEEN if status == 0 else _explain(status, written)


def _explain(status: int, written: str) -> str:
    """The most telling part of what a failed run wrote."""
    if "ThreadSanitizer: data race" in written:
        return "data race"
    if found := re.search(r"AddressSanitizer: ([\w-]+)", written):
        return found[1]
    if found := re.search(r"runtime error: ([^\n]+)", written):
        return found[1]
    # Of an emulator's message: not the kernel and the block before it, nor which warp, nor the places behind it.
    message = r"pykernels emulator: .*?\): ([^:\n]+?)( of warp \d+)?(:| at \S+:\d|, \d+ bytes|\n)"
    if found := re.search(message, written):
        return found[1]
    if "ran on another stream" in written:
        return "another stream"
    if failed := len(re.findall(r"^problem \d+", written, re.MULTILINE)):
        return f"{failed} wrong values" if failed > 1 else "1 wrong value"
    return "it crashes" if status < 0 else f"exit status {status}"


def _caught(row: str) -> bool:
    return any(cell.strip() not in ("", NOT_SEEN) for cell in row.split("|")[3:-1])


if __name__ == "__main__":
    main()
