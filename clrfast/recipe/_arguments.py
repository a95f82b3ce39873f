"""Checks of the arguments that the searches have in common."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .._checks import is_whole
from ..tasks import Task
from ..training import StepOptions
from ..training._losses import ComputeLoss
from ..training._step_options import resolve_options
from ..training._task_argument import resolve_task


def resolve_arguments(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None,
    loader: Iterable[Any] | None,
    compute_loss: ComputeLoss | None,
    val_loader: Iterable[Any] | None,
    options: StepOptions | None,
    keywords: Mapping[str, Any],
    function: str,
) -> tuple[Task, StepOptions]:
    """Return the task and the step's options, which a caller of ``function`` may give in either form.

    Raises:
        TypeError: a keyword is unknown.
        ValueError: an option is wrong.
    """
    options = resolve_options(options, keywords, function)
    return resolve_task(model, loss_fn, loader, compute_loss, val_loader), options


def checked_values(values: Any, *, name: str, below: float, example: Sequence[float]) -> list[float]:
    """Return the values of a setting to try, ascending and without duplicates.

    Raises:
        ValueError: fewer than 2 different values, or one that is not in ``[0, below)``.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name}: got {values!r}; give several numbers, as {example}")
    given = list(values)
    for value in given:
        if not isinstance(value, numbers.Real) or not 0 <= float(value) < below:
            raise ValueError(f"{name}: got {value!r} among them; give numbers in [0, {below:g})")
    ascending = sorted({float(value) for value in given})
    if len(ascending) < 2:
        raise ValueError(f"{name}: got {given}; give at least two different values to compare, as {example}")
    return ascending


def require_repeats(repeats: Any) -> None:
    """Raise ValueError unless ``repeats`` is a whole number of at least 2, which shows the noise."""
    if not is_whole(repeats) or repeats < 2:
        raise ValueError(
            f"repeats: got {repeats!r}; give a whole number of runs for each value, at least 2: what differs between "
            "them tells the noise"
        )
