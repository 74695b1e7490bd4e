"""The emulator runs correct kernels right in every order, and finds each mistake that it is there to find."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = ("selftest.cpp", "selftest_mistakes.cpp")
FLAGS = {
    "plain": ["-O2"],
    "address": ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
}
MISTAKES = re.findall(r'^ +\{"(\w+)", ', (HERE / "selftest_mistakes.cpp").read_text(), re.MULTILINE)
MESSAGES = {
    "error_barrier_in_branch": r"a barrier .*: 50 at the barrier \S+mistakes.cpp:\d+, 14 returned$",
    "error_two_barriers": r"a barrier .*: 32 at the barrier \S+:\d+, 32 at the barrier \S+:\d+$",
    "error_return_before_barrier": r"block \(0, 0, 0\): a barrier .*: 40 at the barrier \S+, 24 returned$",
    "error_barrier_and_shuffle": r"of warp 0: 31 at the warp function \S+, 1 at the barrier \S+$",
    "error_lanes_missing": r"all 32 lanes of warp 0: 31 at the warp function \S+, 1 returned$",
    "error_two_shuffles": r"of warp 0: 16 at the warp function \S+, 16 at the warp function \S+$",
    "error_part_of_warp": r"a warp function for a part of the warp at \S+:\d+ \(thread 0\)$",
    "error_misaligned_copy": r"an asynchronous copy is not aligned to 16 bytes at \S+:\d+ \(thread 0\)$",
    "error_copy_from_misaligned": r"an asynchronous copy is not aligned to 16 bytes at \S+:\d+",
    "error_copy_beyond_shared": r"an asynchronous copy goes outside of the shared memory at .*\(thread 63\)$",
    "error_too_many_copies": r"too many asynchronous copies are under way",
    "error_source_changed": r"the source changed during an asynchronous copy begun at \S+:\d+",
    "error_target_written": r"the target was written during an asynchronous copy begun at \S+:\d+",
    "error_empty_grid": r"nothing, grid \(0, 1, 1\).*: invalid configuration: the grid is empty$",
    "error_large_grid": r"grid \(1, 65536, 1\).*: the grid is too large$",
    "error_overlong_grid": r"the grid is too large$",
    "error_empty_block": r"the block is empty$",
    "error_large_block": r"the block is too large$",
    "error_part_of_warp_in_block": r"the block is not made of whole warps$",
    "error_much_shared_memory": r"49153 bytes of shared memory: .*: more than 48 KB of shared memory$",
}


class _Programs:
    """The self-test, compiled in each mode, all at once."""

    def __init__(self, folder: Path):
        self.folder = folder
        compiler = shutil.which("g++")
        if compiler is None:
            pytest.skip("the emulator needs g++")
        self.compiler = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pthread"]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            linked = dict(zip(FLAGS, pool.map(self._links, FLAGS)))
            self.modes = {mode for mode in FLAGS if linked[mode]}
            objects = [(mode, source) for mode in FLAGS if linked[mode] for source in SOURCES]
            list(pool.map(lambda job: self._compile(*job), objects))
            list(pool.map(self._link, self.modes))

    def path(self, mode: str) -> Path:
        if mode not in self.modes:
            pytest.skip(f"this g++ cannot link with {FLAGS[mode][-1]}")
        return self.folder / mode

    def _links(self, mode: str) -> bool:
        command = [*self.compiler, *FLAGS[mode], "-x", "c++", "-", "-o", str(self.folder / f"empty_{mode}")]
        return _call(command, input="int main() {}").returncode == 0

    def _compile(self, mode: str, source: str) -> None:
        includes = [f"-I{HERE}", f"-I{HERE.parents[1] / 'csrc'}"]
        self._run([*FLAGS[mode], *includes, "-c", str(HERE / source), "-o", self._object(mode, source)])

    def _link(self, mode: str) -> None:
        objects = [self._object(mode, source) for source in SOURCES]
        self._run([*FLAGS[mode], *objects, "-o", str(self.folder / mode)])

    def _object(self, mode: str, source: str) -> str:
        return str(self.folder / f"{mode}_{source}.o")

    def _run(self, arguments: list[str]) -> None:
        done = _call([*self.compiler, *arguments])
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    return _Programs(tmp_path_factory.mktemp("emulator"))


@pytest.fixture
def run(programs):
    """A function that runs a scenario and returns the exit status and what was written to stderr."""

    def run(mode: str, scenario: str, order: str = "forward") -> tuple[int, str]:
        # No check for leaks: it needs ptrace, which containers may forbid.
        environment = {**os.environ, "PYKERNELS_EMULATOR_ORDER": order, "ASAN_OPTIONS": "detect_leaks=0"}
        environment.pop("TSAN_OPTIONS", None)
        command = [str(programs.path(mode)), scenario]
        done = _call(command, env=environment)
        if "unexpected memory mapping" in done.stderr and shutil.which("setarch"):
            done = _call(["setarch", "-R", *command], env=environment)  # without random addresses
        return done.returncode, done.stderr

    return run


def _call(command: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, check=False, text=True, capture_output=True, timeout=120, **options)


def _named(prefix: str) -> list[str]:
    return [name for name in MISTAKES if name.startswith(prefix)]


@pytest.mark.parametrize("order", ["forward", "reverse", "random:1", "random:2"])
@pytest.mark.parametrize("mode", FLAGS)
def test_correct_kernels_are_right(run, mode, order):
    assert run(mode, "right", order) == (0, "")


def test_every_mistake_has_its_test():
    assert set(_named("error_")) == set(MESSAGES)
    assert {name.split("_")[0] for name in MISTAKES} == {"error", "value", "address", "race"}


@pytest.mark.parametrize("scenario", MESSAGES)
def test_errors_say_what_happened_and_where(run, scenario):
    status, message = run("plain", scenario)
    assert status == 3
    assert re.search(MESSAGES[scenario], message.strip()), message


@pytest.mark.parametrize("order", ["forward", "reverse", "random:3"])
@pytest.mark.parametrize("mode", FLAGS)
def test_errors_are_found_in_every_mode_and_leave_nothing_behind(run, mode, order):
    status, messages = run(mode, "after_errors", order)
    assert status == 0, messages
    assert all(line.startswith("pykernels emulator: ") for line in messages.splitlines())
    assert len(messages.splitlines()) == len(MESSAGES)


@pytest.mark.parametrize("scenario", _named("value_"))
@pytest.mark.parametrize("mode", FLAGS)
def test_what_has_not_arrived_is_nan(run, mode, scenario):
    assert run(mode, scenario) == (4, f"wrong results: {scenario}\n")


@pytest.mark.parametrize("scenario", _named("address_"))
def test_address_sanitizer_knows_the_bounds_of_shared_memory(run, scenario):
    status, report = run("address", scenario)
    assert status == 1 and "AddressSanitizer: use-after-poison" in report


@pytest.mark.parametrize("mode", ["plain", "thread"])
@pytest.mark.parametrize("scenario", _named("address_write"))
def test_other_modes_find_writes_beyond_shared_memory_at_the_end_of_the_block(run, mode, scenario):
    status, message = run(mode, scenario)
    assert status == 3 and "outside of the shared memory" in message


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("scenario", _named("race_"))
def test_thread_sanitizer_finds_races(run, scenario, order):
    status, report = run("thread", scenario, order)
    assert status == 66 and "ThreadSanitizer: data race" in report


@pytest.mark.parametrize("order", ["", "backward", "random", "random:", "random:x"])
def test_unknown_order(run, order):
    status, message = run("plain", "sum", order)
    assert status == 3 and "not forward, reverse or random:<seed>" in message
