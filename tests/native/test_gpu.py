"""The programs for a GPU, as far as they can be looked at without one."""

import shutil
import subprocess

import pytest

from tests.native import build, gpu


@pytest.mark.parametrize("room", gpu.ROOMS)
def test_what_kernels_read_is_a_constant_and_the_rest_the_program_s(tmp_path, room):
    gpu.GpuBuild(tmp_path / room, room, "sm_90")
    text = "".join(path.read_text() for path in (tmp_path / room / "csrc" / room).glob("*cuda*"))
    for name in build.PLAN_CONSTANTS[room]:
        kept = name in gpu.READ_BY_KERNELS
        assert (f"constexpr int64_t {name} =" in text, f"extern int64_t {name};" in text) == (kept, not kept)


@pytest.mark.parametrize("room", gpu.ROOMS)
def test_the_mirror_has_the_fields_that_variants_have(tmp_path, room):
    if not shutil.which("nvcc"):
        pytest.skip("nvcc is missing: the mirror cannot be compiled")
    command = ["nvcc", "-std=c++17", "-arch=sm_90", f"-I{build.CSRC}", f"-I{build.HERE}", "-c"]
    command += [str(build.HERE / f"{room}_on_gpu.cu"), "-o", str(tmp_path / "mirror.o")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr


def test_without_its_tools_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.build_program(tmp_path, "mmd", "sm_90") == gpu.NOT_HERE
    assert gpu.run_program(tmp_path, "mmd", None) == gpu.NOT_HERE
    (tmp_path / "mmd").mkdir()
    (tmp_path / "mmd" / "plain").touch()
    assert gpu.run_program(tmp_path, "mmd", "memcheck") == gpu.NOT_HERE
    assert capsys.readouterr().out.splitlines() == [
        "the programs cannot be built without nvcc",
        f"{tmp_path}/mmd/plain is not built",
        "compute-sanitizer was not found",
    ]
