"""What the hot loops cost, held to numbers: a change that makes one slower by counting fails here, without a GPU.

The unit of a count is a pair of a row and a component, for `per_dim` a pair in one dimension, for marginals one
exponential; of the MMD, in one dimension, a point, a pair of points or a pair of nodes. A loop is known by
its multiply-adds per unit: the multiplied-out form has two per dimension, the accurate one has one, a subtraction and a
multiplication.
"""

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from . import sass

ROOT = Path(__file__).resolve().parents[2]
TARGET = "-gencode=arch=compute_80,code=sm_90"  # as CMakeLists.txt has it for all architectures
SOURCES = sorted((ROOT / "csrc").glob("*/*.cu"))

# kernel, form, units in a round of the loop; per unit multiply-adds, least additions and multiplications beside them,
# most instructions
LOOPS = [
    # A quarter of an instruction is for sums by tiles, which round less than one long sum.
    ("forward_joint<float, 10, 4, 1, false>", "fast", 16, 20, 0, 0, 27.4),
    ("forward_joint<float, 10, 4, 1, false>", "accurate", 16, 10, 10, 0, 37.4),
    ("forward_joint<float, 2, 4, 1, false>", "fast", 16, 4, 0, 0, 10.4),
    ("forward_joint<float, 2, 4, 1, false>", "accurate", 16, 2, 2, 0, 12.4),
    # Where four threads share a row, none of which holds more than one.
    ("forward_joint<float, 10, 1, 4, false>", "fast", 4, 20, 0, 0, 33.5),
    ("forward_joint<float, 10, 1, 4, true>", "fast", 4, 30, 0, 0, 60.8),
    # With the branches that leave out weights of 0, four or five instructions that save 20 to 30.
    ("forward_joint<float, 10, 2, 1, true>", "fast", 8, 30, 0, 0, 56.7),
    ("forward_joint<float, 10, 2, 1, true>", "accurate", 8, 20, 10, 0, 66.8),
    ("joint_component_sums<float, 10, 1, false>", "fast", 4, 30, 10, 0, 62),
    ("joint_component_sums<float, 10, 1, false>", "accurate", 4, 20, 20, 0, 72),
    # At D = 50, with the sum of exponentials, 115.
    ("forward_joint_tiles<float, 2, 2, false>", "fast per_dim", 64, 2, 0, 0, 2.16),
    ("forward_joint_tiles<float, 2, 2, false>", "accurate per_dim", 64, 1, 1, 0, 3.16),
    ("forward_joint_tiles<float, 2, 1, true>", "fast per_dim", 64, 2, 0, 0, 2.22),
    ("forward_joint_tiles<float, 1, 1, false>", "fast per_dim", 32, 2, 0, 0, 2.4),
    ("forward_joint_slopes<float>", "fast densities per_dim", 32, 2, 0, 0, 2.4),
    ("forward_joint_slopes<float>", "fast slopes per_dim", 32, 2, 0, 1, 4.1),
    ("joint_component_tiles<float, false>", "fast densities per_dim", 32, 2, 0, 0, 2.4),
    ("joint_component_tiles<float, false>", "fast sums per_dim", 32, 2, 1, 1, 4.95),
    ("statistics_row_tiles<float>", "fast densities per_dim", 32, 2, 0, 0, 2.4),
    ("statistics_row_tiles<float>", "fast slopes per_dim", 32, 2, 0, 1, 4.1),
    # What takes exponentials is slower than that: 1.125 of them per unit last as long as 9 instructions.
    ("forward_marginal<float, 8, false>", "accurate", 64, 1, 3, 0, 8.6),
    ("forward_marginal<float, 8, true>", "accurate", 32, 2, 3, 0, 12.5),
    ("marginal_component_sums<float, 8>", "accurate", 16, 3, 3, 0, 12.7),
    # Six scales in two fractions. Another 6 and, with slopes, 12 for 8 pairs keep long sums exact.
    ("mmd::sum_over_pairs<float, 2, false, false>", "value", 8, 12, 1, 0, 18.3),
    ("mmd::sum_over_pairs<float, 2, false, true>", "weighted value", 8, 13, 1, 0, 19.1),
    ("mmd::sum_over_pairs<float, 2, true, false>", "slopes", 8, 23, 1, 0, 32.6),
    ("mmd::sum_over_pairs<float, 2, true, true>", "weighted slopes", 8, 24, 1, 0, 35.7),
    ("mmd::measure_ranges<float>", "points", 8, 0, 2, 0, 8.5),
    ("mmd::sum_moments<float, 8, false>", "points", 4, 6, 13, 0, 40.3),
    ("mmd::sum_over_nodes<float, 8, true>", "float64", 8, 4, 0, 0, 8.1),
    ("mmd::slopes_at_points<float, 8, false>", "points", 4, 8, 11, 0, 34.8),
]

# The most registers of a thread: 65536 of them make the blocks that fit on a multiprocessor.
REGISTERS = {
    "forward_joint<float, 10, 4, 1, false>": 128,  # 4 blocks of 128 threads
    "forward_joint<float, 10, 2, 1, true>": 255,  # 2
    "joint_component_sums<float, 10, 1, false>": 128,  # 4
    "forward_joint_tiles<float, 2, 2, false>": 128,  # 2 of 256
    "forward_joint_tiles<float, 2, 1, true>": 128,  # 2
    "forward_joint_slopes<float>": 128,  # 2
    "joint_component_tiles<float, false>": 128,  # 2
    "forward_statistics<float>": 128,  # 2
    "joint_component_tiles<float, true>": 128,  # 2
    "statistics_row_tiles<float>": 128,  # 2
    "forward_marginal<float, 8, false>": 128,  # 2
    "marginal_component_sums<float, 8>": 80,  # 3
    "mmd::sum_over_pairs<float, 2, false, false>": 80,  # 3
    "mmd::sum_over_pairs<float, 2, true, false>": 80,  # 3
    "mmd::sum_moments<float, 8, false>": 128,  # 4 of 128: their shared memory leaves no room for more
    "mmd::sum_over_nodes<float, 8, true>": 64,  # 8
    "mmd::slopes_at_points<float, 8, false>": 48,  # 5 of 256
}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """The object files, and what ptxas said."""
    if not shutil.which("nvcc"):
        pytest.skip("nvcc is missing: the CUDA kernels cannot be compiled")
    folder, log = tmp_path_factory.mktemp("budgets"), ""
    targets = [folder / f"{source.stem}.o" for source in SOURCES]
    for source, target in zip(SOURCES, targets):
        command = ["nvcc", "-std=c++17", TARGET, "--fmad=false", "-Xptxas", "-v"]
        command += ["-I", str(ROOT / "csrc"), "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        log += done.stdout + done.stderr
    return targets, log


@pytest.fixture(scope="session")
def loops(compiled):
    tool = sass.disassembler()
    if tool is None:
        pytest.skip("cuobjdump is missing: it comes with the CUDA toolkit, and with the triton package")
    return {kernel: found for target in compiled[0] for kernel, found in sass.loops(target, tool).items()}


def test_no_kernel_spills_or_uses_local_memory(compiled):
    kernels = sass.resources(compiled[1])
    assert len(kernels) > 100
    assert {name: r for name, r in kernels.items() if r.spills or r.stack} == {}


@pytest.mark.parametrize("kernel", REGISTERS)
def test_registers(compiled, kernel):
    assert sass.resources(compiled[1])[kernel].registers <= REGISTERS[kernel]


@pytest.mark.parametrize(
    ("kernel", "form", "units", "multiply_adds", "additions", "multiplications", "most"), LOOPS
)
def test_instructions(loops, kernel, form, units, multiply_adds, additions, multiplications, most):
    matching = [
        loop
        for loop in loops[kernel]
        if loop["FFMA"] + loop["DFMA"] == units * multiply_adds
        and loop["FADD"] >= units * additions
        and loop["FMUL"] >= units * multiplications
    ]
    assert matching, f"no loop has {units} x {multiply_adds} multiply-adds: {loops[kernel]}"
    loop = min(matching, key=Counter.total)
    assert loop.total() / units <= most
    assert loop["LDL"] == loop["STL"] == 0
