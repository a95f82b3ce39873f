"""What decides in which order a loader's next batches come, wherever it lies in the loader, put back as it was."""

from __future__ import annotations

import contextlib
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

Restore = Callable[[], None]

MAX_OBJECTS = 10_000
"""The most objects that are searched, those near the loader first."""

MAX_ITEMS = 1_000
"""A container of more items holds samples, not loaders, and is not searched."""

_LEAVES = (Tensor, np.ndarray, np.generic, str, bytes, bytearray, int, float, complex, type, types.ModuleType)
_WITHOUT_STATE = ("abc", "builtins", "collections", "functools", "numpy", "torch", "types", "typing")
"""Packages whose classes hold no generators in attributes of the class itself."""

_CONTAINERS = (list, tuple, set, frozenset, deque)


def save_loader_order(*loaders: Any) -> list[Restore]:
    """What puts the order of all ``loaders`` back: their generators, wherever they lie, and the counters of samplers.

    Searched are the attributes of the loaders and of what these hold: samplers, datasets, other loaders, lists, dicts,
    classes and the variables that functions enclose. Properties are not called. Until the undo, loaders with persistent
    workers have none, so that they start workers of their own.
    """
    undo = []
    for found in _reachable(loaders):
        if (put_back := _generator(found)) is not None:
            undo.append(put_back)
        elif _has_counters(found):
            undo.append(_attributes(found))
            own = vars(found)
            if own.get("_iterator") is not None or own.get("persistent_workers"):
                own["_iterator"] = None
    return undo


def _reachable(roots: tuple[Any, ...]) -> Iterator[Any]:
    """All objects that ``roots`` hold, each once."""
    queue, seen = deque(roots), {id(root): root for root in roots}  # held, so that no id is taken by another object
    while queue:
        found = queue.popleft()
        yield found
        for held in _held_by(found):
            if held is None or issubclass(type(held), _LEAVES) or id(held) in seen:
                continue
            if len(seen) == MAX_OBJECTS:
                return
            seen[id(held)] = held
            queue.append(held)


def _held_by(found: Any) -> Iterator[Any]:
    # By its type: a wrapper's ``__class__`` may be a property, and tell the class of what it wraps.
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
        if base.__module__.partition(".")[0] not in _WITHOUT_STATE:
            for member in list(vars(base).values()):
                # An attribute in a slot, else one of the class.
                slot = isinstance(member, types.MemberDescriptorType)
                yield member.__get__(found, kind) if slot and _is_set(member, found) else member


def _enclosed_by(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is empty
            yield cell.cell_contents


def _is_set(slot: types.MemberDescriptorType, found: Any) -> bool:
    try:
        slot.__get__(found)
    except AttributeError:
        return False
    return True


def _generator(found: Any) -> Restore | None:
    """Puts the state of a random generator back; None for every other object."""
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
    """Whether its attributes say where in the data it is: a loader, a sampler, one of Accelerate's wrappers with the
    state that these share, or whatever is told its epoch. Other objects may count what should stay counted."""
    kind = type(found)
    known = issubclass(kind, DataLoader | Sampler) or hasattr(kind, "set_epoch") or hasattr(kind, "_add_dataloader")
    return hasattr(found, "__dict__") and (known or "base_dataloader" in vars(found))


def _attributes(found: Any) -> Restore:
    """Puts an object's attributes back, and what lists, sets and dicts among them contain."""
    own = vars(found)
    before = dict(own)
    contents = [
        (value, value.copy())
        for value in before.values()
        if type(value) in (list, set, dict, deque) and value is not own
    ]

    def put_back() -> None:
        for name in [name for name in own if name not in before]:
            del own[name]
        own.update(before)
        for value, content in contents:
            value.clear()
            (value.extend if isinstance(value, list | deque) else value.update)(content)

    return put_back
