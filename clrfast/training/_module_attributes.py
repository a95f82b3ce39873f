"""Plain attributes of modules that ``forward`` may write, such as a hidden state or a cache."""

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
"""Maximum memory for copies of tensors and arrays, in bytes. Those that do not fit are not copied; a warning names one
that ``forward`` writes."""

MAX_ITEMS = 1_000
"""Maximum size of a container whose items are copied; for a larger one, only the list of items is restored."""

MAX_DEPTH = 3
"""Maximum depth of nested containers whose items are copied."""

GROWTH_FACTOR = 4
"""Minimum ratio of an attribute's size to its size after the first step at which a warning says that it grows."""

METRIC_PACKAGES = frozenset({"torchmetrics"})
"""Packages whose modules keep the values of an epoch in attributes, and clear them themselves. There is no warning of
these attributes."""

_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
_LIBRARY_PACKAGES = ("abc", "builtins", "torch", "typing")
_TORCH_ATTRIBUTES = frozenset(vars(nn.Module()))
_MISSING = object()


class ModuleAttributes:
    """The saved attributes of modules, except for parameters, buffers and submodules.

    Lists, dicts, sets and deques are saved with their contents. Tensors and arrays, also within containers, keep their
    identity and get their values back. Attributes of torch's own classes and of other objects are not saved.

    Args:
        modules: the modules, by the names that warnings use.
    """

    def __init__(self, modules: dict[str, nn.Module]):
        self._modules = {name: module for name, module in modules.items() if _has_user_class(module)}
        self._parameters_and_buffers = {
            id(tensor) for module in modules.values() for tensor in _parameters_and_buffers(module)
        }
        self._bytes_left = MAX_BYTES
        self._before = {name: dict(_user_attributes(module)) for name, module in self._modules.items()}
        self._contents: dict[int, tuple[Any, Any]] = {}
        self._versions: dict[int, int] = {}
        for own in self._before.values():
            for value in own.values():
                self._save(value, MAX_DEPTH)
        self._sizes: dict[str, int] | None = None

    def record_sizes(self) -> None:
        """Record the present sizes of the attributes, with which ``restore`` compares them."""
        self._sizes = {name: _size(value) for name, value in self._changeable()}

    def restore(self) -> None:
        """Restore all attributes, and warn about those that would break a long training.

        Such an attribute keeps the autograd graph alive, grows with every batch, or is too large to be restored.
        """
        self._warn()
        for name, module in self._modules.items():
            own, before = vars(module), self._before[name]
            for added in [key for key in _user_attributes(module) if key not in before]:
                del own[added]
            own.update({key: value for key, value in before.items() if own.get(key, _MISSING) is not value})
        for value, content in self._contents.values():
            _restore_value(value, content)

    def _save(self, value: Any, depth: int) -> None:
        if id(value) in self._contents or id(value) in self._parameters_and_buffers:
            return
        if isinstance(value, Tensor | np.ndarray):
            self._save_numbers(value)
        elif type(value) in _CONTAINERS:
            self._contents[id(value)] = value, value.copy()
            for item in _items(value) if depth else ():
                self._save(item, depth - 1)
        elif isinstance(value, tuple) and depth:
            for item in _items(value):
                self._save(item, depth - 1)

    def _save_numbers(self, value: Tensor | np.ndarray[Any, Any]) -> None:
        if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta):
            return
        if value.nbytes <= self._bytes_left:
            self._bytes_left -= value.nbytes
            self._contents[id(value)] = value, value.detach().clone() if isinstance(value, Tensor) else value.copy()
        elif isinstance(value, Tensor) and not value.is_inference():
            self._versions[id(value)] = version_of(value)

    def _changeable(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and value of every attribute that may differ from before, except for those of metrics."""
        for name, module in self._modules.items():
            if not METRIC_PACKAGES.isdisjoint(_packages(module)):
                continue
            before = self._before[name]
            for key, value in _user_attributes(module).items():
                known = value is before.get(key, _MISSING)
                if not known or type(value) in _CONTAINERS or id(value) in self._versions:
                    yield f"{name}.{key}".lstrip("."), value

    def _warn(self) -> None:
        for name, value in self._changeable():
            sizes, ending = self._sizes or {}, " It was restored"
            if any(tensor.grad_fn is not None for tensor in self._tensors(value)):
                what, remedy = "keeps the autograd graph of its batch alive", "store it detached: value.detach()"
            elif 0 < GROWTH_FACTOR * sizes.get(name, 0) <= _size(value):
                what, remedy = "grows with every batch", "keep the latest values only, or clear it"
            elif any(self._versions.get(id(tensor), 0) < version_of(tensor) for tensor in self._uncopied(value)):
                what, remedy, ending = "is too large to be restored", "make it a buffer: register_buffer", ""
            else:
                continue
            message = f"model: the attribute {name!r}, which forward writes, {what}; {remedy}.{ending}"
            warnings.warn(message, stacklevel=2)

    def _tensors(self, value: Any) -> Iterator[Tensor]:
        return (
            leaf for leaf in _leaves(value) if isinstance(leaf, Tensor) and id(leaf) not in self._parameters_and_buffers
        )

    def _uncopied(self, value: Any) -> Iterator[Tensor]:
        return (tensor for tensor in self._tensors(value) if id(tensor) in self._versions)


def _has_user_class(module: nn.Module) -> bool:
    """Return whether the class or one of its bases is defined outside of torch."""
    return not _packages(module).issubset(_LIBRARY_PACKAGES)


def _packages(module: nn.Module) -> set[str]:
    """Return the names of the packages that define the class and its bases."""
    return {kind.__module__.partition(".")[0] for kind in type(module).__mro__}


def _user_attributes(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if key not in _TORCH_ATTRIBUTES}


def _parameters_and_buffers(module: nn.Module) -> Iterable[Tensor]:
    return [tensor for tensor in (*parameters_of(module).values(), *buffers_of(module).values()) if tensor is not None]


def _is_container(value: Any) -> bool:
    return type(value) in _CONTAINERS or isinstance(value, tuple)


def _items(container: Any) -> list[Any]:
    if len(container) > MAX_ITEMS:
        return []
    return list(container.values() if isinstance(container, dict) else container)


def _leaves(value: Any, depth: int = MAX_DEPTH) -> Iterator[Any]:
    """Yield ``value``, or the items in it if it is a container."""
    if not _is_container(value):
        yield value
        return
    for item in _items(value) if depth else ():
        yield from _leaves(item, depth - 1)


def _size(value: Any) -> int:
    """Return the number of elements of all tensors and arrays in ``value``, or the length of a large container."""
    if _is_container(value) and len(value) > MAX_ITEMS:
        return len(value)
    return sum(
        leaf.numel() if isinstance(leaf, Tensor) else leaf.size
        for leaf in _leaves(value)
        if isinstance(leaf, Tensor | np.ndarray)
    )


def _restore_value(value: Any, content: Any) -> None:
    if isinstance(value, Tensor):
        if not torch.equal(value.detach(), content):
            with torch.no_grad():
                value.copy_(content)
    elif isinstance(value, np.ndarray):
        if value.flags.writeable:
            value[...] = content
    elif not _has_items(value, content):
        value.clear()
        (value.extend if isinstance(value, list | deque) else value.update)(content)


def _has_items(container: Any, content: Any) -> bool:
    """Return whether the items of a container are the same objects as those of ``content``."""
    if len(container) != len(content):
        return False
    if isinstance(container, set):
        return {id(item) for item in container} == {id(item) for item in content}
    if isinstance(container, dict):
        return all(container.get(key, _MISSING) is item for key, item in content.items())
    return all(own is item for own, item in zip(container, content, strict=True))
