"""torch's default device, set for a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    """Make ``device`` the default device for a block."""
    torch.set_default_device(device)
    try:
        yield
    finally:
        reset_default_device()


def reset_default_device() -> None:
    """Make the CPU the default device again."""
    torch.set_default_device(None)
    context = torch._GLOBAL_DEVICE_CONTEXT
    if getattr(context, "device_context", "") is None:  # torch 2.4's get_default_device fails on it
        del context.device_context
