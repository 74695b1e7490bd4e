"""Whether a computation could be recorded as a CUDA graph, told without a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The first two look whether a scale is negative, but not on the device "meta".
WAITING = ("aten::normal.Tensor_Tensor", "aten::normal.float_Tensor", "aten::_local_scalar_dense")
TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Recordable(TorchDispatchMode):
    """Raises where a GPU would be waited for, or something be copied to it.

    Computations are on the device "meta", which has shapes only. It is no CPU, whose arguments are checked and read.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        on_meta = [t.device.type == "meta" for t in tensors]
        # The scales of a dimension-wise MMD stay on the CPU, where they are read.
        if any(on_meta) and not func.name().startswith("pykernels::"):
            assert all(on_meta), f"{func} copies between devices"
        assert not (any(on_meta) and _waits(func, tensors)), f"{func} waits"
        return result


def _waits(func: torch._ops.OpOverload, tensors: list[torch.Tensor]) -> bool:
    if func.name().startswith("aten::index"):
        return any(t.dtype == torch.bool for t in tensors)  # of which the true ones have to be counted
    return func.name() in WAITING or bool(TAGS & set(func.tags))
