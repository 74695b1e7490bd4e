import os
import warnings

import pytest
import torch
from torch.distributions import Distribution

with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # without compiled kernels the import warns, as it should
    from pykernels import _launch

from tests import emulated, needs

_NOT_BUILT = "compiled"

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # as many processes as there are cores run: threads of each would only wait


def _variants() -> list[str]:
    """Every variant that is built, those this CPU cannot run included, so that each shows up as a skip."""
    built = _launch.built()
    names = list(built.get("variants", ())) if built else [_NOT_BUILT]
    names = dict.fromkeys([*names, *_launch.variants(), _launch.EMULATED])
    return [*names, pytest.param(_launch.CUDA, marks=pytest.mark.gpu)]


def _why_no_cuda() -> str | None:
    if not torch.cuda.is_available():
        return "this machine has no GPU that torch can use"
    return None if _launch.gives_slopes(torch.empty(0, device="cuda")) else "the CUDA kernels are not built"


@pytest.fixture
def gpu():
    """Tensors are made on the GPU, and the kernels there must be built."""
    if why := _why_no_cuda():
        pytest.skip(why)
    with torch.device("cuda"):
        yield torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(params=_variants())
def variant(request, monkeypatch):
    if request.param == _NOT_BUILT:
        pytest.skip(needs.NO_KERNELS)
    if request.param == _launch.EMULATED:
        if tool := emulated.missing_tool():
            pytest.skip(f"the CUDA kernels cannot be emulated without {tool}")
        monkeypatch.setattr(_launch, "_C", emulated.module())
    if request.param == _launch.CUDA:
        request.getfixturevalue("gpu")
        yield request.param
        return
    if request.param not in (*_launch.variants(), _launch.EMULATED):
        pytest.skip(f"this CPU cannot run the {request.param} kernels")
    with _launch.use_variant(request.param):
        yield request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def _same_start():
    torch.manual_seed(0)
    Distribution.set_default_validate_args(True)  # torch.compile turns it off, for all that follows


@pytest.fixture
def one_and_two_threads():
    """A function that calls its argument with one thread, then with two."""
    before = torch.get_num_threads()

    def run(function):
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(function())
        return results

    yield run
    torch.set_num_threads(before)
