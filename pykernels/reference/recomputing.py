"""Memory for time: what a tile computes on the way is computed again in the backward pass, and not kept until then."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the function; autograd keeps nothing of it but its arguments. Under the transforms of torch.func, which
    cannot have that, it keeps everything."""
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
