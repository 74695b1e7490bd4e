"""What is shipped: the source distribution, a package without a compiler, one OpenMP runtime, versions."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import pykernels
from tests import needs

ROOT = Path(__file__).resolve().parents[1]
NOT_SHIPPED = re.compile(r"benchmarks/results/|\.")  # results, and files for git and CI


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory):
    """The archive, of what is tracked; and what that is."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no git checkout: what is tracked is not known")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    tracked = [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    tree = tmp_path_factory.mktemp("tree")
    for name in tracked:
        if not name.startswith("benchmarks/results/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    return tree / "dist" / build("sdist", tree), tracked


def build(kind: str, tree: Path, before: str = "pass", **environment: str) -> str:
    """The name of the distribution that the project's own backend puts into `dist`."""
    script = f"import sys; {before}; from setuptools.build_meta import *; print(build_{kind}(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(tree / "dist")]
    (tree / "dist").mkdir(exist_ok=True)
    done = subprocess.run(
        command, cwd=tree, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    return done.stdout.splitlines()[-1]


def test_the_source_distribution_holds_all_that_is_tracked(source_distribution):
    archive, tracked = source_distribution
    with tarfile.open(archive) as tar:
        names = {member.name.partition("/")[2] for member in tar if member.isfile()}
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert names - made == {name for name in tracked if not NOT_SHIPPED.match(name)}


NOWHERE = "import sysconfig; sysconfig.get_path = lambda *a, of=sysconfig.get_path: of(*a) if a != ('include',) else ''"


@pytest.mark.parametrize("without", ["compiler", "headers"])
def test_a_wheel_made_without_a_compiler_or_headers_runs_on_the_reference(
    source_distribution, tmp_path, without
):
    archive, tracked = source_distribution
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    lacking = {"PATH": str(tmp_path), "CXX": ""} if without == "compiler" else {"before": NOWHERE}
    wheel = tree / "dist" / build("wheel", tree, **lacking)
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        opened.extractall(tmp_path / "site")
    shipped = {name for name in tracked if name.startswith(("pykernels/", "vae/"))}
    assert shipped <= set(names)
    assert not any(
        name.endswith(".so") or name.startswith(("tests/", "csrc/", "benchmarks/")) for name in names
    )
    script = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]  # finds our own module
import torch, pykernels
print(pykernels.__file__, pykernels.cauchy_mmd(torch.zeros(1, 1), torch.zeros(1, 1), unbiased=False))
"""
    done = subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", script],
        cwd=tmp_path / "site",
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert done.stdout.endswith("tensor(0.)\n")
    assert done.stderr.count("RuntimeWarning") == 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what a process has loaded")
@needs.kernels
def test_one_openmp_runtime():
    script = """
import torch, pykernels
torch.set_num_threads(2)
points = torch.randn(2000, 4)
print(pykernels.gaussian_mixture_log_prob(points, points, torch.tensor(1.0)).sum(), (points @ points.T).sum())
print({line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.split()[-1].rpartition("/")[2]})
"""
    home = Path(pykernels.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=home, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1].count("omp") == 1, done.stdout


def test_the_api_reference_has_every_public_name():
    page = (ROOT / "docs" / "api" / "index.rst").read_text()
    assert set(re.findall(r":: pykernels\.(\w+)$", page, re.MULTILINE)) >= set(pykernels.__all__)


def test_the_changelog_begins_with_this_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", pykernels.__version__)
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == pykernels.__version__
