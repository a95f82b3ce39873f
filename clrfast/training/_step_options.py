"""``StepOptions``: accumulation, autocast, scaler, clipping, graph and snapshot device of a step, as one value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypedDict

import torch

from .._checks import is_whole

GraphOption = Literal["auto", False]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How a training step computes its gradients and updates.

    ``TrainStep``, the finders and the recipe take these as keywords, ``range_test(..., autocast=torch.bfloat16)``, or
    as one value, ``range_test(..., options=StepOptions(autocast=torch.bfloat16))``.

    Attributes:
        accumulate: number of batches whose gradients are averaged for one update, at least 1.
        autocast: dtype of the forward pass, torch.float16 or torch.bfloat16; None leaves autocast as it is.
        scaler: scales the loss and skips updates whose gradients are not finite. A skipped update does not advance
            the schedule.
        clip_norm: maximum norm of all gradients together, after unscaling, above 0; None does not clip. An optimizer of
            clrfast clips on the device, as with its own ``clip_norm``: the gradients are unchanged, and a step whose
            norm is not finite is skipped.
        graph: "auto" replays CUDA graphs where that is possible, with the same results; False never does.
        snapshot_device: where the finders keep the copy of parameters, buffers and optimizer state that they restore,
            for example "cpu"; None keeps each tensor's copy on the tensor's device. ``TrainStep`` makes no copy and
            ignores it.
    Raises:
        ValueError: a value is out of range; the message names the argument.
    """

    accumulate: int = 1
    autocast: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None
    clip_norm: float | None = None
    graph: GraphOption = "auto"
    snapshot_device: torch.device | str | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.accumulate) or self.accumulate < 1:
            raise ValueError(f"accumulate: got {self.accumulate!r}; give a whole number of batches, at least 1")
        object.__setattr__(self, "accumulate", int(self.accumulate))
        if self.autocast not in (None, torch.float16, torch.bfloat16):
            raise ValueError(f"autocast: got {self.autocast!r}; give torch.float16, torch.bfloat16 or None")
        if self.scaler is not None and not isinstance(self.scaler, torch.amp.GradScaler):
            raise ValueError(f"scaler: got {type(self.scaler).__name__}; give a torch.amp.GradScaler")
        if self.clip_norm is not None and not _is_positive(self.clip_norm):
            raise ValueError(f"clip_norm: got {self.clip_norm!r}; give a number above 0, or None")
        if self.graph not in ("auto", False):
            raise ValueError(f"graph: got {self.graph!r}; give 'auto' or False")
        if self.snapshot_device is not None and not _is_device(self.snapshot_device):
            raise ValueError(
                f"snapshot_device: got {self.snapshot_device!r}; give a device, for example 'cpu', or None"
            )


def _is_positive(value: Any) -> bool:
    """Return whether ``value``, a number or a tensor of one element, is finite and above 0."""
    try:
        return not isinstance(value, bool) and math.isfinite(value) and bool(value > 0)
    except (TypeError, ValueError, RuntimeError):
        return False


def _is_device(value: Any) -> bool:
    try:
        torch.device(value)
    except (TypeError, RuntimeError):
        return False
    return True


class StepKeywords(TypedDict, total=False):
    """The fields of ``StepOptions`` as keyword arguments."""

    accumulate: int
    autocast: torch.dtype | None
    scaler: torch.amp.GradScaler | None
    clip_norm: float | None
    graph: GraphOption
    snapshot_device: torch.device | str | None


STEP_OPTIONS = tuple(field.name for field in dataclasses.fields(StepOptions))
"""Names of the fields of ``StepOptions``."""


def resolve_options(
    options: StepOptions | None, keywords: Mapping[str, Any], function: str, known: Collection[str] = STEP_OPTIONS
) -> StepOptions:
    """Return the options that a caller gave as one value or as keywords.

    Args:
        options: the value of the argument ``options``.
        keywords: the keyword arguments that ``function`` does not name in its signature; those that are no options of
            a step are left to ``function``.
        function: name of the called function, for messages.
        known: names of all keyword arguments that ``function`` takes.
    Raises:
        TypeError: ``keywords`` has a name that is not in ``known``.
        ValueError: options come in both forms, ``options`` is of another type, or a value is out of range.
    """
    for name in keywords:
        if name not in known:
            raise TypeError(f"{name}: {function} has no such argument; leave it out, or give one of {sorted(known)}")
    given = {name: value for name, value in keywords.items() if name in STEP_OPTIONS}
    if options is None:
        return StepOptions(**given)
    if not isinstance(options, StepOptions):
        raise ValueError(f"options: got {type(options).__name__}; give a clrfast.StepOptions")
    if given:
        raise ValueError(
            f"options, {', '.join(given)}: got both; give all in clrfast.StepOptions(...), or all as keywords"
        )
    return options
