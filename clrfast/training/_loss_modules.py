"""The trainable parameters of a model, and those of the modules that a loss function refers to."""

from __future__ import annotations

import contextlib
import functools
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..tasks import Task

MAX_OBJECTS = 1_000
"""Maximum number of objects that are searched for the modules of a loss; those with the fewest references between them
and the loss come first."""

_OPAQUE = (Tensor, str, bytes, int, float, complex, type, types.ModuleType)


def parameters_of_task(task: Task) -> list[nn.Parameter]:
    """Return the trainable parameters of the task's model, and of the modules that its loss refers to."""
    return trainable_parameters(task.model, *find_loss_modules(task.loss_fn, task.compute_loss))


def find_loss_modules(*losses: Any) -> tuple[nn.Module, ...]:
    """Return the modules with trainable parameters that ``losses`` refer to, directly or through other objects.

    The search follows the variables that a function encloses, its defaults and the globals that it names; the object of
    a bound method or of a callable; the content of ``functools.partial``, lists, tuples, sets and dicts; and functions
    among these. It does not enter modules. Parameters outside of modules are returned as one ``nn.ParameterList``.

    Args:
        losses: functions or modules; None is ignored.
    """
    modules: list[nn.Module] = []
    loose: list[nn.Parameter] = []
    queue: deque[Any] = deque(losses)
    seen = {id(loss): loss for loss in losses}
    with_attributes = {id(loss) for loss in losses} | {id(getattr(loss, "__self__", None)) for loss in losses}
    while queue:
        found = queue.popleft()
        if isinstance(found, nn.Module):
            modules += [found] if trainable_parameters(found) else []
        elif isinstance(found, nn.Parameter):
            loose += [found] if found.requires_grad else []
        else:
            for referent in _referents_of(found, attributes=id(found) in with_attributes):
                if id(referent) not in seen and len(seen) < MAX_OBJECTS and _may_lead_to_modules(referent):
                    seen[id(referent)] = referent
                    queue.append(referent)
    return (*modules, nn.ParameterList(loose)) if loose else tuple(modules)


def trainable_parameters(*modules: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of all ``modules`` that require a gradient, each once."""
    params = {id(param): param for module in modules for param in module.parameters() if param.requires_grad}
    return list(params.values())


def _may_lead_to_modules(referent: Any) -> bool:
    return isinstance(referent, nn.Parameter) or not isinstance(referent, _OPAQUE)


def _referents_of(found: Any, *, attributes: bool) -> Iterator[Any]:
    if isinstance(found, types.MethodType):
        yield from (found.__self__, found.__func__)
    elif isinstance(found, functools.partial):
        yield from (found.func, *found.args, *found.keywords.values())
    elif isinstance(found, types.FunctionType):
        yield from _referents_of_function(found)
    elif isinstance(found, list | tuple | set | frozenset):
        yield from found if len(found) <= MAX_OBJECTS else ()
    elif isinstance(found, dict):
        yield from list(found.values()) if len(found) <= MAX_OBJECTS else ()
    elif attributes:
        yield from list(getattr(found, "__dict__", {}).values())
        yield vars(type(found)).get("__call__")


def _referents_of_function(function: types.FunctionType) -> Iterator[Any]:
    if function.__module__ is not None and function.__module__.partition(".")[0] == "torch":
        return
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty cell
            yield cell.cell_contents
    yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    for name in function.__code__.co_names:
        yield function.__globals__.get(name)
