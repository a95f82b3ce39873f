"""What a captured graph was made with, to be compared with what is there now, quickly enough for every replay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .. import _native
from .._torch_compat import MODULE_DICTS
from ..optim._backends.native import in_turn


class Fingerprint:
    """Modules and dicts as they are now, with the memory of the tensors in them.

    The comparison is compiled and exact: whether the modules have the same children, parameters and buffers, the dicts
    the same keys and values, and the tensors their memory, dtype and device. Without the native module or DLPack's
    exchange API, and for modules that are not torch's usual ones, ``holds`` is always False.

    Args:
        modules: each with what it holds itself; not what its children hold.
        dicts: of any keys and values.
    """

    def __init__(self, modules: Sequence[nn.Module] = (), dicts: Iterable[Mapping[Any, Any]] = ()):
        self._watched: tuple[Any, ...] | None = None
        if _native.why_missing is None and all(map(_is_usual, modules)):
            self._watched = _watched(modules, dicts)

    def holds(self) -> bool:
        """True if nothing has changed; False if something has, or if that cannot be known quickly."""
        return self._watched is not None and _native.load().unchanged(*self._watched)


def _is_usual(module: nn.Module) -> bool:
    """Whether what the module's own dict holds is what its attributes are."""
    kind = type(module)
    if kind.__getattribute__ is not object.__getattribute__:
        return False
    return all(name in vars(module) and not hasattr(kind, name) for name in MODULE_DICTS)


def _watched(modules: Sequence[nn.Module], dicts: Iterable[Mapping[Any, Any]]) -> tuple[Any, ...] | None:
    """The arguments of ``unchanged`` in csrc/snapshot.h; None where a tensor has no memory of its own."""
    owned = [[vars(module)[name] for name in MODULE_DICTS] for module in modules]
    held = [*dicts, *(entries for own in owned for entries in own)]
    tensors = [value for entries in held for value in entries.values() if isinstance(value, Tensor)]
    places = np.zeros((len(tensors), 2), dtype=np.int64)
    if not _native.load().find_places_(tensors, places):
        return None
    attributes = [entry for module, own in zip(modules, owned, strict=True) for entry in (module, *own)]
    contents = [entry for entries in held for entry in (entries, *in_turn(entries))]
    return attributes, contents, tensors, places
