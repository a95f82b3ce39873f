"""Saves and restores the state that decides the order of a loader's next batches: generators and counters."""

from __future__ import annotations

import contextlib
import functools
import random
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ._saved_state import Restore

MAX_OBJECTS = 10_000
"""Maximum number of objects that are searched; those with the fewest references between them and the loader come
first."""

MAX_ITEMS = 1_000
"""Maximum number of items of a container that is searched; a larger one holds samples, not loaders."""

_LEAVES = (Tensor, np.ndarray, np.generic, str, bytes, bytearray, int, float, complex, type, types.ModuleType)
_CONTAINERS = (list, tuple, set, frozenset, deque)

_STATELESS_PACKAGES = ("abc", "builtins", "collections", "functools", "numpy", "torch", "types", "typing")
"""Packages whose classes hold no random generators in class attributes."""


def save_loader_order(*loaders: Any) -> list[Restore]:
    """Save the order of the next batches of ``loaders`` and return functions that restore it.

    This covers random generators and the counters of loaders and samplers. The search follows the attributes of the
    loaders and of the objects that they refer to: samplers, datasets, other loaders, lists, dicts, classes and the
    variables that functions enclose. It does not call properties. Until the order is restored, loaders start new
    workers instead of using persistent ones.
    """
    restores = []
    for found in _find_objects(loaders):
        if (restore := _save_generator(found)) is not None:
            restores.append(restore)
        elif _has_counters(found):
            restores.append(save_attributes(found))
            own = vars(found)
            if own.get("_iterator") is not None or own.get("persistent_workers"):
                own["_iterator"] = None
    return restores


def _find_objects(roots: tuple[Any, ...]) -> Iterator[Any]:
    """Yield ``roots`` and all objects that they refer to, each once."""
    queue, seen = deque(roots), {id(root): root for root in roots}  # kept alive, so that no id is used twice
    while queue:
        found = queue.popleft()
        yield found
        for referent in _referents_of(found):
            if referent is None or issubclass(type(referent), _LEAVES) or id(referent) in seen:
                continue
            if len(seen) == MAX_OBJECTS:
                return
            seen[id(referent)] = referent
            queue.append(referent)


def _referents_of(found: Any) -> Iterator[Any]:
    # By its type: a wrapper's ``__class__`` may be a property that returns the class of the wrapped object.
    kind = type(found)
    if issubclass(kind, _CONTAINERS):
        yield from found if len(found) <= MAX_ITEMS else ()
    elif issubclass(kind, dict):
        yield from found.values() if len(found) <= MAX_ITEMS else ()
    elif issubclass(kind, types.MethodType):
        yield from (found.__self__, found.__func__)
    elif issubclass(kind, functools.partial):
        yield from (found.func, found.args, found.keywords)
    elif issubclass(kind, types.FunctionType):
        yield from _enclosed_by(found)
    yield from list(getattr(found, "__dict__", {}).values())
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] not in _STATELESS_PACKAGES:
            for member in list(vars(base).values()):
                # The value of a slot, or else a class attribute.
                slot = isinstance(member, types.MemberDescriptorType)
                yield member.__get__(found, kind) if slot and _is_set(member, found) else member


def _enclosed_by(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty cell
            yield cell.cell_contents


def _is_set(slot: types.MemberDescriptorType, found: Any) -> bool:
    try:
        slot.__get__(found)
    except AttributeError:
        return False
    return True


def _save_generator(found: Any) -> Restore | None:
    """Save the state of a random generator; return None for any other object."""
    kind = type(found)
    if issubclass(kind, torch.Generator):
        return functools.partial(found.set_state, found.get_state())
    if issubclass(kind, np.random.RandomState):
        return functools.partial(found.set_state, found.get_state())
    if issubclass(kind, np.random.Generator):
        return functools.partial(setattr, found.bit_generator, "state", found.bit_generator.state)
    if issubclass(kind, np.random.BitGenerator):
        return functools.partial(setattr, found, "state", found.state)
    if issubclass(kind, random.Random) and not issubclass(kind, random.SystemRandom):
        return functools.partial(found.setstate, found.getstate())
    return None


def _has_counters(found: Any) -> bool:
    """Return whether an object's attributes hold its position in the data.

    Those of loaders, samplers, Accelerate's wrappers and their shared state, and objects with ``set_epoch`` do, and
    those of fastai's loaders, whose ``randomize`` replaces their generator at every pass. The counters of other objects
    are not reset, because they may count something else.
    """
    kind = type(found)
    marks = ("set_epoch", "_add_dataloader", "randomize")
    known = issubclass(kind, DataLoader | Sampler) or any(hasattr(kind, mark) for mark in marks)
    return hasattr(found, "__dict__") and (known or "base_dataloader" in vars(found))


def save_attributes(found: Any) -> Restore:
    """Save an object's attributes, with the contents of the lists, sets and dicts among them."""
    own = vars(found)
    before = dict(own)
    contents = [
        (value, value.copy())
        for value in before.values()
        if type(value) in (list, set, dict, deque) and value is not own
    ]

    def restore() -> None:
        for name in [name for name in own if name not in before]:
            del own[name]
        own.update(before)
        for value, content in contents:
            value.clear()
            (value.extend if isinstance(value, list | deque) else value.update)(content)

    return restore
