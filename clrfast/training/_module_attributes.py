"""Plain attributes of modules, which a ``forward`` may write: a hidden state carried from batch to batch, a cache."""

from __future__ import annotations

import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._torch_compat import buffers_of, parameters_of, version_of

MAX_BYTES = 2**26
"""Memory of the tensors and arrays whose values are copied, the first ones first; the others must not be written."""

MAX_ITEMS = 1_000
"""A container of more items is put back, but what is in it is not looked at."""

MAX_DEPTH = 3
"""Containers within containers that are looked at."""

GROWTH_FACTOR = 4
"""An attribute grows if it holds so many times as many numbers as after the first step."""

_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
_NOT_THE_USERS = ("abc", "builtins", "torch", "typing")
_OF_TORCH = frozenset(vars(nn.Module()))
_MISSING = object()


class ModuleAttributes:
    """The attributes of ``modules`` outside of parameters, buffers and submodules, with the contents of their lists,
    dicts, sets and deques.

    Tensors and arrays, also within these, keep their identity and get back their values; parameters and buffers are
    left to others. ModuleAttributes of torch's own classes, and of other objects, are not searched.

    Args:
        modules: by their names, for messages.
    """

    def __init__(self, modules: dict[str, nn.Module]):
        self._modules = {name: module for name, module in modules.items() if _is_the_users(module)}
        self._others = {id(tensor) for module in modules.values() for tensor in _owned(module)}
        self._left = MAX_BYTES
        self._before = {name: dict(_own(module)) for name, module in self._modules.items()}
        self._contents: dict[int, tuple[Any, Any]] = {}
        self._versions: dict[int, int] = {}
        for own in self._before.values():
            for value in own.values():
                self._keep(value, MAX_DEPTH)
        self._sizes: dict[str, int] | None = None

    def record_sizes(self) -> None:
        """Take what the attributes hold now as their usual size."""
        self._sizes = {name: _size(value) for name, value in self._now()}

    def put_back(self) -> None:
        """Put all back, and warn of what would not let a training go on for long."""
        self._warn()
        for name, module in self._modules.items():
            own, before = vars(module), self._before[name]
            for added in [key for key in _own(module) if key not in before]:
                del own[added]
            own.update({key: value for key, value in before.items() if own.get(key, _MISSING) is not value})
        for value, content in self._contents.values():
            _restore(value, content)

    def _keep(self, value: Any, depth: int) -> None:
        if id(value) in self._contents or id(value) in self._others:
            return
        if isinstance(value, Tensor | np.ndarray):
            self._copy(value)
        elif type(value) in _CONTAINERS:
            self._contents[id(value)] = value, value.copy()
            for item in _items(value) if depth else ():
                self._keep(item, depth - 1)
        elif isinstance(value, tuple) and depth:
            for item in _items(value):
                self._keep(item, depth - 1)

    def _copy(self, value: Tensor | np.ndarray[Any, Any]) -> None:
        if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta):
            return
        if value.nbytes <= self._left:
            self._left -= value.nbytes
            self._contents[id(value)] = value, value.detach().clone() if isinstance(value, Tensor) else value.copy()
        elif isinstance(value, Tensor) and not value.is_inference():
            self._versions[id(value)] = version_of(value)

    def _now(self) -> Iterator[tuple[str, Any]]:
        """All attributes that may differ from before, by their names with those of the modules."""
        for name, module in self._modules.items():
            before = self._before[name]
            for key, value in _own(module).items():
                known = value is before.get(key, _MISSING)
                if not known or type(value) in _CONTAINERS or id(value) in self._versions:
                    yield f"{name}.{key}".lstrip("."), value

    def _warn(self) -> None:
        for name, value in self._now():
            sizes, put_back = self._sizes or {}, " It was put back as it was before"
            if any(tensor.grad_fn is not None for tensor in self._tensors(value)):
                what, remedy = "hangs on the autograd graph of its batch", "store it detached: value.detach()"
            elif 0 < GROWTH_FACTOR * sizes.get(name, 0) <= _size(value):
                what, remedy = "grows with every batch", "keep the latest values only, or clear it"
            elif any(self._versions.get(id(tensor), 0) < version_of(tensor) for tensor in self._large(value)):
                what, remedy, put_back = "is too large to be put back", "make it a buffer: register_buffer", ""
            else:
                continue
            told = f"model: the attribute {name!r}, which forward writes, {what}; {remedy}.{put_back}"
            warnings.warn(told, stacklevel=2)

    def _tensors(self, value: Any) -> Iterator[Tensor]:
        return (leaf for leaf in _leaves(value) if isinstance(leaf, Tensor) and id(leaf) not in self._others)

    def _large(self, value: Any) -> Iterator[Tensor]:
        return (tensor for tensor in self._tensors(value) if id(tensor) in self._versions)


def _is_the_users(module: nn.Module) -> bool:
    """Whether its class is not one of torch's alone, whose attributes are its own business."""
    return any(kind.__module__.partition(".")[0] not in _NOT_THE_USERS for kind in type(module).__mro__)


def _own(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if key not in _OF_TORCH}


def _owned(module: nn.Module) -> Iterable[Tensor]:
    return [tensor for tensor in (*parameters_of(module).values(), *buffers_of(module).values()) if tensor is not None]


def _is_container(value: Any) -> bool:
    return type(value) in _CONTAINERS or isinstance(value, tuple)


def _items(container: Any) -> list[Any]:
    if len(container) > MAX_ITEMS:
        return []
    return list(container.values() if isinstance(container, dict) else container)


def _leaves(value: Any, depth: int = MAX_DEPTH) -> Iterator[Any]:
    """``value``, or what is in it where it is a container."""
    if not _is_container(value):
        yield value
        return
    for item in _items(value) if depth else ():
        yield from _leaves(item, depth - 1)


def _size(value: Any) -> int:
    """The numbers in the tensors and arrays of ``value``; of a container with many items, their number."""
    if _is_container(value) and len(value) > MAX_ITEMS:
        return len(value)
    return sum(leaf.numel() if isinstance(leaf, Tensor) else leaf.size for leaf in _leaves(value) if _has_size(leaf))


def _has_size(leaf: Any) -> bool:
    return isinstance(leaf, Tensor | np.ndarray)


def _restore(value: Any, content: Any) -> None:
    if isinstance(value, Tensor):
        if not torch.equal(value.detach(), content):
            with torch.no_grad():
                value.copy_(content)
    elif isinstance(value, np.ndarray):
        if value.flags.writeable:
            value[...] = content
    elif not _has(value, content):
        value.clear()
        (value.extend if isinstance(value, list | deque) else value.update)(content)


def _has(container: Any, content: Any) -> bool:
    """Whether a container holds the very objects of ``content``."""
    if len(container) != len(content):
        return False
    if isinstance(container, set):
        return {id(item) for item in container} == {id(item) for item in content}
    if isinstance(container, dict):
        return all(container.get(key, _MISSING) is item for key, item in content.items())
    return all(own is item for own, item in zip(container, content, strict=True))
