"""Autocast stays outside: what it would round is computed in the dtype that came."""

from contextlib import AbstractContextManager, nullcontext

import torch


def as_given(device: torch.device) -> AbstractContextManager[None]:
    """In this context autocast changes nothing on the device."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        off: AbstractContextManager[None] = torch.autocast(kind, enabled=False)
        return off
    return nullcontext()
