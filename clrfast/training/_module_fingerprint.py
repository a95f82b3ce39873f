"""``Fingerprint``: detects, fast enough for every replay, whether the state that a graph relies on has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .. import _native
from .._torch_compat import MODULE_DICTS
from ..optim._backends.native import flat_items


class Fingerprint:
    """The present content of modules and dicts, and the memory of the tensors in them.

    The comparison is compiled and exact. It covers the children, parameters and buffers of the modules, the keys and
    values of the dicts, and the memory, dtype and device of the tensors.

    Args:
        modules: each is compared without its descendants; include these as well.
        dicts: dicts with any keys and values.
    """

    def __init__(self, modules: Sequence[nn.Module] = (), dicts: Iterable[Mapping[Any, Any]] = ()):
        self._watched: tuple[Any, ...] | None = None
        if _native.why_missing is None and all(map(_stores_in_dicts, modules)):
            self._watched = _arguments_of_unchanged(modules, dicts)

    def matches(self) -> bool:
        """Return True if nothing has changed, and False if something has or if the comparison is not available.

        It is not available without the native module or DLPack's exchange API, and for modules that override how torch
        stores their attributes.
        """
        return self._watched is not None and _native.load().unchanged(*self._watched)


def _stores_in_dicts(module: nn.Module) -> bool:
    """Return whether the dicts of the module hold all of its children, parameters and buffers."""
    kind = type(module)
    if kind.__getattribute__ is not object.__getattribute__:
        return False
    return all(name in vars(module) and not hasattr(kind, name) for name in MODULE_DICTS)


def _arguments_of_unchanged(modules: Sequence[nn.Module], dicts: Iterable[Mapping[Any, Any]]) -> tuple[Any, ...] | None:
    """Return the arguments of ``unchanged`` in csrc/python/fingerprint.h; None if a tensor has no memory of its own."""
    owned = [[vars(module)[name] for name in MODULE_DICTS] for module in modules]
    all_dicts = [*dicts, *(entries for own in owned for entries in own)]
    tensors = [value for entries in all_dicts for value in entries.values() if isinstance(value, Tensor)]
    places = np.zeros((len(tensors), 2), dtype=np.int64)
    if not _native.load().read_locations_(tensors, places):
        return None
    attributes = [entry for module, own in zip(modules, owned, strict=True) for entry in (module, *own)]
    contents = [entry for entries in all_dicts for entry in (entries, *flat_items(entries))]
    return attributes, contents, tensors, places
