"""What some tests need, as marks that say what is missing where they are skipped."""

import os

import pytest
import torch.distributed as dist

from pykernels import _launch

NO_KERNELS = "the compiled kernels are not built: they need a C++ compiler"

kernels = pytest.mark.skipif(_launch.variants() == [_launch.REFERENCE], reason=NO_KERNELS)
gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)
own_memory = pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps memory to itself"
)
