import warnings

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # without compiled kernels the import warns, as it should
    from pykernels import _launch

from tests import emulated

_NOT_BUILT = "compiled"


def _variants() -> list[str]:
    """Every variant that is built, those this CPU cannot run included, so that each shows up as a skip."""
    built = _launch.built()
    names = list(built.get("variants", ())) if built else [_NOT_BUILT]
    return list(dict.fromkeys([*names, *_launch.variants(), _launch.EMULATED]))


@pytest.fixture(params=_variants())
def variant(request, monkeypatch):
    if request.param == _NOT_BUILT:
        pytest.skip("the compiled kernels are not built: they need a C++ compiler")
    if request.param == _launch.EMULATED:
        if tool := emulated.missing_tool():
            pytest.skip(f"the CUDA kernels cannot be emulated without {tool}")
        monkeypatch.setattr(_launch, "_C", emulated.module())
    elif request.param not in _launch.variants():
        pytest.skip(f"this CPU cannot run the {request.param} kernels")
    with _launch.use_variant(request.param):
        yield request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
