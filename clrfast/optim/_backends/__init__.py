"""The backends, and the choice among them. Each module here is a ``Backend`` of ``_protocols``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...schedules._warnings import warn_user
from .._parameters import describe, devices_of
from .._protocols import Backend
from . import cpp, cuda, reference

BACKENDS: dict[str, Backend] = {"torch": reference, "cpp": cpp, "cuda": cuda}
NAMES = ("auto", *BACKENDS)


def resolve(name: str, param_groups: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the backend for these parameters; ``name`` is one of NAMES.

    Raises:
        RuntimeError: the backend cannot update one of them.
    """
    if name == "auto":
        return _fastest(devices_of(param_groups))
    index = 0
    for group, options in enumerate(param_groups):
        for param in options["params"]:
            reason = BACKENDS[name].why_not(param.device)
            if reason is not None:
                where = f"{describe(index, group, param)} on {param.device}"
                raise RuntimeError(f"backend: {name!r} cannot update {where}: {reason}")
            index += 1
    return name


def _fastest(devices: Sequence[torch.device]) -> str:
    native = {"cpu": "cpp", "cuda": "cuda"}.get(devices[0].type)
    if native is None:
        return "torch"
    reasons = [reason for device in devices if (reason := BACKENDS[native].why_not(device)) is not None]
    if not reasons:
        return native
    warn_user(
        f"the native backend {native!r} is missing, so the optimizer uses the slower pure-torch one: {reasons[0]}. "
        "backend='torch' chooses pure torch without this warning."
    )
    return "torch"
