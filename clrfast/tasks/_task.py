"""``Task``, and the functions that make one from its name on the command line."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .._errors import TaskError

BUILT_IN = {"digits": "clrfast.tasks.digits:make_task"}
"""Functions that make the built-in tasks, as "module:function", by task name."""


@dataclass
class Task:
    """A model, its loss and its data. Functions that take these as separate arguments accept a ``Task`` instead.

    Attributes:
        model: the model to train.
        loss_fn: ``loss_fn(outputs, targets) -> loss`` for loaders of ``(inputs, targets)``. None with ``compute_loss``,
            or for dict batches of a model that returns its own loss.
        train_loader: iterable of batches; every pass iterates over it again.
        val_loader: the same for validation; None without validation data.
        compute_loss: ``compute_loss(model, batch) -> loss`` for all other batches.
    """

    model: nn.Module
    loss_fn: Callable[[Any, Any], Tensor] | None
    train_loader: Iterable[Any]
    val_loader: Iterable[Any] | None = None
    compute_loss: Callable[[nn.Module, Any], Tensor] | None = None


def find_maker(name: str) -> Callable[..., Any]:
    """Return the function that makes the task ``name``: "digits", or a user's as "package.module:function".

    Raises:
        TaskError: there is no such task, module or function.
    """
    path = BUILT_IN.get(name, name)
    module_name, colon, function_name = path.partition(":")
    if not (colon and module_name and function_name):
        raise TaskError(f"task {name!r} is unknown; give one of {sorted(BUILT_IN)}, or my_package.my_module:make_task")
    if name not in BUILT_IN and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that a file here does not hide a library of the same name
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise TaskError(
                f"task {name!r}: there is no module {error.name!r} in {os.getcwd()} or on sys.path"
            ) from None
        raise TaskError(f"task {name!r}: importing {module_name} failed: {error}") from error
    except Exception as error:
        raise TaskError(f"task {name!r}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    maker = getattr(module, function_name, None)
    if not callable(maker):
        raise TaskError(f"task {name!r}: module {module_name} has no function {function_name!r}")
    return maker


def make_task(name: str, seed: int = 0) -> Task:
    """Make the task ``name``; see ``find_maker``. Its function gets ``seed`` if it has an argument of that name.

    Raises:
        TaskError: the function fails, or returns something other than a ``Task``.
    """
    maker = find_maker(name)
    try:
        seeded = "seed" in inspect.signature(maker).parameters
        task = maker(seed=seed) if seeded else maker()
    except ModuleNotFoundError as error:
        extra = " (pip install scikit-learn)" if name in BUILT_IN else ""
        raise TaskError(f"task {name!r} needs {error.name}, which is not installed{extra}") from error
    except Exception as error:
        raise TaskError(f"task {name!r}: the function raised {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise TaskError(
            f"task {name!r}: the function returned {type(task).__name__}; "
            "return clrfast.Task(model, loss_fn, train_loader, val_loader)"
        )
    return task
