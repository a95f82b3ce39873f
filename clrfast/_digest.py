"""``digest``: a hash of the numbers and texts in a value, by which processes compare what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def digest(value: Any) -> str:
    """Hash all numbers and texts in ``value``, and the types of other objects."""
    found = hashlib.sha256()
    for piece in _pieces(value):
        found.update(piece)
    return found.hexdigest()[:16]


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta:
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, str | bytes | int | float | None):
        yield repr(value).encode()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*_pieces(key), *_pieces(item))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _pieces(item)
    else:
        yield type(value).__name__.encode()
