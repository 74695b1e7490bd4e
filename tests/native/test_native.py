"""The kernels on many problems without Python around them: plain, and under the compiler's sanitizers."""

import platform
import re
import subprocess

import pytest

from tests.native import build

PROBLEMS = (build.HERE / "problems.h").read_text().partition("large_problems")[0]
SINGLE = len(re.findall(r"^ +\{Kind::", PROBLEMS, re.MULTILINE))
# The first problems are the edges in float32, then come those in float64, then random ones.
BOTH = 2 * SINGLE
ORDERS = ("forward", "reverse", "random:1")
ISAS = tuple(build.ISA_FLAGS) if platform.machine() in ("x86_64", "AMD64") else ("baseline",)
CANNOT_RUN = 3


def links(folder, mode: str) -> bool:
    """Whether this compiler has the mode."""
    command = [
        build.compiler(),
        *build.MODES[mode],
        "-x",
        "c++",
        "-",
        "-o",
        str(folder / f"empty_{mode}"),
    ]
    done = subprocess.run(command, check=False, input=b"int main() {}", capture_output=True)
    return done.returncode == 0


class _Programs:
    """The program in each mode that this compiler has, all built at once."""

    def __init__(self, folder):
        if build.compiler() is None:
            pytest.skip("these tests compile the kernels: they need g++")
        variants = {"plain": ["emulated"], "address": ["emulated", *ISAS], "thread": ["emulated"]}
        self._modes = {mode: names for mode, names in variants.items() if links(folder, mode)}
        self._build = build.Build(folder / "build")
        self._build.link(self._modes)

    def run(self, mode: str, variant: str, *arguments: int | str, order: str = "forward") -> str:
        """What the program writes, which is one line when no problem fails."""
        if mode not in self._modes:
            pytest.skip(f"this g++ cannot link with {' '.join(build.MODES[mode])}")
        text = map(str, arguments)
        status, written = build.check(self._build.program(mode), variant, *text, order=order)
        if status == CANNOT_RUN:
            pytest.skip(f"this CPU cannot run the {variant} kernels")
        assert status == 0, written
        assert re.fullmatch(r"digest \w+, worst error \S+ of what rounding explains\n", written), written
        return written


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    return _Programs(tmp_path_factory.mktemp("native"))


def test_emulated_kernels_give_the_same_right_bits_in_every_order(programs):
    modes = {order: "check" if order == "forward" else "once" for order in ORDERS}
    written = {programs.run("plain", "emulated", modes[order], 0, BOTH, 1, order=order) for order in ORDERS}
    assert len(written) == 1, written


def test_emulated_kernels_on_random_problems(programs):
    programs.run("plain", "emulated", "check", BOTH, BOTH + 60, 1)


def test_emulated_kernels_keep_to_their_memory(programs):
    programs.run("address", "emulated", "once", 0, BOTH, 2)


def test_emulated_kernels_have_no_races(programs):
    programs.run("thread", "emulated", "once", 0, SINGLE, 2)


def test_emulated_kernels_of_several_threads(programs):
    programs.run("thread", "emulated", "threads", 1, 2, 2)


@pytest.mark.parametrize("isa", ISAS)
def test_cpu_kernels_keep_to_their_memory(programs, isa):
    programs.run("address", isa, "check", 0, BOTH + 50, 1)


@pytest.mark.parametrize("isa", ISAS)
def test_cpu_kernels_that_leave_components_out_keep_to_their_memory(programs, isa):
    programs.run("address", isa, "large", 0, 1, 1)


@pytest.mark.parametrize("isa", ISAS)
def test_calls_at_once(programs, isa):
    programs.run("address", isa, "threads", 0, SINGLE, 1)


@pytest.mark.parametrize("isa", ISAS)
def test_interrupted_calls(programs, isa):
    programs.run("address", isa, "interrupts", 1, 2, 1)


def test_calls_at_once_have_no_races(programs):
    programs.run("thread", "baseline", "threads", 0, SINGLE, 1)
