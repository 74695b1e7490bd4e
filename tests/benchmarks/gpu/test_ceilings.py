import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import gpu

SOURCE = Path(gpu.__file__).parent / "ceilings.cu"


def test_the_program_measures_or_says_why_not(tmp_path):
    if not shutil.which("nvcc"):
        pytest.skip("nvcc is missing: the program cannot be compiled")
    program = tmp_path / "ceilings"
    command = ["nvcc", "-O1", "-std=c++17", "-arch=sm_90", str(SOURCE), "-o", str(program)]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    assert built.returncode == 0 and "warning" not in built.stderr, built.stderr
    done = subprocess.run([program], check=False, capture_output=True, text=True)
    if done.returncode == 0:
        assert json.loads(done.stdout)["fma_per_s"] > 0
    else:
        assert done.returncode == 3 and done.stderr.startswith("no GPU: ")
