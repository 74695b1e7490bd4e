"""The kernels of the MMD on many problems without Python around them, under the compiler's sanitizers."""

import re

import pytest

from tests.native import build
from tests.native.test_native import CANNOT_RUN, ISAS, ORDERS, links

EDGES = 1000, 2000


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Runs the program of a mode: it must find nothing."""
    if build.compiler() is None:
        pytest.skip("these tests compile the kernels: they need g++")
    folder = tmp_path_factory.mktemp("native_mmd")
    names = [*ISAS, "emulated"]
    modes = {mode: names for mode in ("plain", "address", "thread") if links(folder, mode)}
    built = build.Build(folder / "build", room="mmd")
    built.link(modes)

    def call(mode: str, variant: str, *arguments: int | str, order: str = "forward") -> str:
        if mode not in modes:
            pytest.skip(f"this g++ cannot link with {' '.join(build.MODES[mode])}")
        status, written = build.check(built.program(mode), variant, *map(str, arguments), order=order)
        if status == CANNOT_RUN:
            pytest.skip(f"this CPU cannot run the {variant} kernels")
        assert status == 0, written
        assert re.fullmatch(r"digest \w+, worst error \S+ of what is allowed\n", written), written
        return written

    return call


@pytest.mark.parametrize("isa", ISAS)
def test_all_pairs_in_long_double(run, isa):
    run("address", isa, "check", 0, 45, 1)


@pytest.mark.parametrize("isa", ISAS)
def test_interrupted_calls(run, isa):
    run("address", isa, "interrupts", 0, 12, 1)


@pytest.mark.parametrize("isa", ISAS)
def test_calls_at_once(run, isa):
    run("address", isa, "threads", 0, 12, 1)


def test_calls_at_once_have_no_races(run):
    run("thread", ISAS[-1], "threads", 0, 12, 1)


def test_emulated_kernels_give_the_same_right_bits_in_every_order(run):
    modes = {order: "check" if order == "forward" else "once" for order in ORDERS}
    written = {run("plain", "emulated", modes[order], *EDGES, 1, order=order) for order in ORDERS}
    assert len(written) == 1, written


def test_emulated_kernels_on_random_problems(run):
    run("plain", "emulated", "check", 0, 60, 1)


def test_emulated_kernels_keep_to_their_memory(run):
    run("address", "emulated", "once", *EDGES, 2)
    run("address", "emulated", "once", 0, 30, 2)


def test_emulated_kernels_have_no_races(run):
    run("thread", "emulated", "once", *EDGES, 2)


def test_emulated_kernels_of_several_threads(run):
    run("thread", "emulated", "threads", 1, 3, 2)


@pytest.mark.parametrize("isa", ISAS)
def test_cpu_kernels_at_the_edges(run, isa):
    run("address", isa, "once", *EDGES, 1)
