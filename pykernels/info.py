"""`python -m pykernels.info`: what is built, what this machine has, and which kernel will run."""

import platform
from collections.abc import Iterator

import torch

from . import __version__, _launch


def report() -> str:
    """One line per fact, as a user would paste into a bug report."""
    facts = list(_facts())
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)


def _facts() -> Iterator[tuple[str, str]]:
    yield "pykernels", __version__
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", torch.__version__
    built = _launch.built()
    yield "compiled kernels", "built" if built else "not built"
    for name, value in built.items():
        yield f"  {name}", ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    yield "variants here", ", ".join(_launch.variants())
    yield "variant in use", _launch.current_variant()
    yield "threads", str(torch.get_num_threads())
    yield "gpu", _gpu()


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    kernels = _launch.variant_for(torch.empty(0, device="cuda"))
    return f"{', '.join(names)} (torch built for CUDA {torch.version.cuda}), on which {kernels} runs"


if __name__ == "__main__":
    print(report())
