import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import pykernels
from pykernels import _launch, info

HIDE_COMPILED = "import sys; sys.modules['pykernels._C'] = None; "


def python(*arguments, **environment):
    # From where this package came: in a source tree, Python would find the one without compiled kernels.
    home = Path(pykernels.__file__).parents[1]
    command, environment = [sys.executable, *arguments], {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home)


def test_report_names_versions_and_variant():
    report = info.report()
    assert pykernels.__version__ in report and torch.__version__ in report
    assert f"variant in use    {_launch.current_variant()}" in report


def test_info_runs_as_a_module():
    result = python("-m", "pykernels.info")
    assert result.returncode == 0 and "variants here" in result.stdout


def test_without_compiled_kernels_one_warning_and_the_reference():
    use = "import pykernels, torch; from pykernels import info; print(info.report()); "
    call = "print(pykernels.gaussian_mixture_log_prob(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(())))"
    result = python("-c", HIDE_COMPILED + use + call)
    assert result.returncode == 0, result.stderr
    assert "not built" in result.stdout and "tensor([-0.9189])" in result.stdout
    assert result.stderr.count("RuntimeWarning") == 1 and "pip install ." in result.stderr


def test_an_unknown_variant_is_refused():
    result = python("-W", "ignore", "-c", "import pykernels", PYKERNELS_ISA="pentium")
    assert result.returncode != 0
    assert "PYKERNELS_ISA must name a kernel" in result.stderr and "'pentium'" in result.stderr


def test_a_variant_can_be_chosen():
    script = "from pykernels import _launch; print(_launch.current_variant())"
    name = _launch.variants()[-1]
    assert python("-W", "ignore", "-c", script, PYKERNELS_ISA=name).stdout.strip() == name


@pytest.mark.parametrize(
    "name",
    [
        *("mixture", "minibatch", "responsibilities", "divergences", "distributions", "mmd", "wasserstein"),
        *("distributed", "streaming"),
    ],
)
def test_examples_in_docstrings(name):
    used = (Categorical, Independent, MixtureSameFamily, Normal)
    namespace = {"torch": torch, **{each.__name__: each for each in used}}
    failed, attempted = doctest.testmod(importlib.import_module(f"pykernels.{name}"), extraglobs=namespace)
    assert failed == 0 and attempted > 0


def test_public_names_are_documented_and_explicit():
    for name in pykernels.__all__:
        assert ">>>" in getattr(pykernels, name).__doc__
    assert list(pykernels.__all__) == sorted(pykernels.__all__)
