"""Who may know whom: every import and include of the tree, and habits easier kept than restored."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400
PACKAGES = ("pykernels", "vae", "benchmarks", "tests")
MAY_IMPORT = {
    "pykernels": {"pykernels"},
    "vae": {"vae", "pykernels"},
    "benchmarks": {"benchmarks", "vae", "pykernels"},
    "tests": set(PACKAGES),
}
OPS = {"pykernels.mixture", "pykernels.minibatch", "pykernels.responsibilities", "pykernels.mmd"}
COMPILED = "pykernels._C"
COLLECTIVE = {"pykernels.distributed", "pykernels._collectives"}
COLLECTIVE |= {"pykernels._distributed_mixture", "pykernels._distributed_mmd"}
LAUNCHES = re.compile(r"pykernels\._launch(_\w+)?")  # an op may have a file of its own
UNSAFE_FLAGS = re.compile(
    r"-ffast-math|-Ofast|-funsafe-math|-fassociative-math|-ffinite-math-only|-march=native"
)


def violations(root: Path) -> list[str]:
    """One line for each broken rule: the file, and what is wrong with it."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.suffix in {".py", ".h", ".cpp", ".cu", ".cuh"}):
        name = path.relative_to(root).as_posix()
        if not name.startswith((*(f"{package}/" for package in PACKAGES), "csrc/")):
            continue
        text = path.read_text()
        rules = _python_violations if path.suffix == ".py" else _native_violations
        found += [f"{name}: {broken}" for broken in rules(name, text)]
        if (lines := text.count("\n")) > MAX_LINES:
            found.append(f"{name}: {lines} lines, more than one sitting can read ({MAX_LINES})")
    for name in ("CMakeLists.txt", "setup.py", "pyproject.toml"):
        path = root / name
        if path.exists() and (flag := UNSAFE_FLAGS.search(path.read_text())):
            found.append(f"{name}: {flag[0]} changes what the kernels compute")
    return found


def _python_violations(name: str, text: str) -> Iterator[str]:
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    is_package = name.endswith("/__init__.py")
    package = module.split(".")[0]
    tree = ast.parse(text)
    for target in _imports(tree, module if is_package else module.rpartition(".")[0]):
        if target.split(".")[0] in PACKAGES and target.split(".")[0] not in MAY_IMPORT[package]:
            yield f"{package} must not know {target}"
        # A benchmark may choose the kernel that it times.
        chooses_kernel = package == "benchmarks" and target == "pykernels._launch"
        if (
            package in ("vae", "benchmarks")
            and not chooses_kernel
            and re.match(r"pykernels\.(_|\w+\.)", target)
        ):
            yield f"only the public names of pykernels are for {package}, not {target}"
        if package != "tests" and _within(target, COMPILED) and not LAUNCHES.fullmatch(module):
            yield "only pykernels._launch may import the compiled module"
        if _within(module, "pykernels.reference") and not _may_reference(target):
            yield f"the reference must not know {target}"
        if package == "pykernels" and module not in COLLECTIVE:
            if any(_within(target, other) for other in (*COLLECTIVE, "torch.distributed")):
                yield f"only pykernels.distributed may know of other processes, not through {target}"
        if module in OPS and any(_within(target, other) for other in OPS - {module}):
            yield f"one op must not know another, {target}"
        if module.startswith("vae.") and not module.startswith(("vae.experiments", "vae.cli")):
            if _within(target, "vae.experiments"):
                yield f"vae must not know its experiments, {target}"
    if package != "tests" and not LAUNCHES.fullmatch(module):
        if any(isinstance(node, ast.Attribute) and node.attr == "data_ptr" for node in ast.walk(tree)):
            yield "only pykernels._launch may take the address of a tensor (data_ptr)"


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The absolute dotted name of everything imported, names from modules included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _within(target: str, module: str) -> bool:
    return target == module or target.startswith(f"{module}.")


def _may_reference(target: str) -> bool:
    own = target.split(".")[0]
    return _within(target, "pykernels.reference") or own not in (*PACKAGES, "numpy", "scipy")


def _native_violations(name: str, text: str) -> Iterator[str]:
    room = "/".join(name.split("/")[1:-1])
    for bracket, target in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)', text, re.MULTILINE):
        if re.match(r"(torch|ATen|c10)/", target):
            yield f"csrc must not know torch ({target})"
        if re.match(r"(pybind11/|Python\.h)", target) and name != "csrc/module.cpp":
            yield f"only csrc/module.cpp may know Python ({target})"
        if bracket == '"':
            folder = _included_room(target, room)
            if room and folder not in {room, "core"}:
                yield f"{room} must not know {folder or 'the top of csrc'} ({target})"


def _included_room(target: str, room: str) -> str:
    """The folder under csrc that an include means, written from there or relative to the including file."""
    folder = target.rpartition("/")[0]
    if folder.startswith("../"):
        return folder.removeprefix("../")
    return folder or room


def test_the_tree_keeps_the_rules():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("pykernels/info.py", "import vae.model", "pykernels must not know vae.model"),
        ("pykernels/info.py", "from . import _C", "only pykernels._launch may import the compiled"),
        ("pykernels/mixture.py", "x.data_ptr()", "only pykernels._launch may take"),
        ("pykernels/mixture.py", "from .mmd import cauchy_mmd", "one op must not know another"),
        ("pykernels/mmd.py", "from .distributed import mean", "only pykernels.distributed may know of"),
        ("pykernels/_launch.py", "import torch.distributed", "only pykernels.distributed may know of"),
        ("pykernels/reference/mixture.py", "from .. import _ops", "the reference must not know"),
        ("pykernels/reference/__init__.py", "from ..mixture import f", "reference must not know"),
        ("vae/model.py", "from pykernels.mixture import f", "only the public names of pykernels"),
        ("vae/model.py", "from pykernels import _launch", "only the public names of pykernels"),
        ("vae/model.py", "from .experiments import pinwheel", "vae must not know its experiments"),
        ("vae/model.py", "import tests.cases", "vae must not know tests.cases"),
        ("csrc/mixture/mixture.cpp", "#include <torch/extension.h>", "csrc must not know torch"),
        ("csrc/mixture/mixture.cpp", "#include <pybind11/eigen.h>", "only csrc/module.cpp may know"),
        ("csrc/mixture/mixture.cpp", '#include "mmd/mmd.h"', "mixture must not know mmd"),
        ("csrc/core/simd.h", '#include "../mixture/mixture.h"', "core must not know mixture"),
        ("csrc/core/simd.h", "//\n" * (MAX_LINES + 1), "more than one sitting can read"),
        ("CMakeLists.txt", "set(CMAKE_CXX_FLAGS -ffast-math)", "-ffast-math changes what"),
    ],
)  # fmt: skip
def test_each_rule_is_seen_to_be_broken(tmp_path, name, text, complaint):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (found,) = violations(tmp_path)
    assert found.startswith(f"{name}: ") and complaint in found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pykernels/_launch.py", "import pykernels._C as _C\nx.data_ptr()"),
        ("pykernels/_launch_toy.py", "from ._launch import variant_for\nx.data_ptr()"),
        ("pykernels/reference/mixture.py", "import math\nimport torch\nfrom .other import f"),
        ("vae/model.py", "import pykernels\nfrom pykernels import inclusive_kl\nfrom .networks import f"),
        ("vae/experiments/pinwheel.py", "from vae.model import VAE\nfrom ..run import Run"),
        ("csrc/mixture/mixture.cpp", '#include "core/simd.h"\n#include "mixture/mixture.h"\n#include "a.h"'),
        ("csrc/module.cpp", '#include <pybind11/pybind11.h>\n#include "mixture/mixture.h"'),
    ],
)  # fmt: skip
def test_what_is_allowed_is_not_reported(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert violations(tmp_path) == []
