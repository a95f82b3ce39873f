"""Looks at held-out batches while a sweep goes on, at a bounded cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import is_whole
from .._ranks import ALONE, Ranks
from ..training._batches import as_pair, moved
from ..training._eager_step import EagerStep, evaluating
from ._curve import VALIDATION_LOSS
from ._noise import Floats

Metric = str | Callable[..., Any]

Measured = tuple[Tensor | float, int]
"""A sum over samples, and their number."""

LOOKS = 10
"""About so many looks in a range test, or more; the held-out batches are cut to a tenth of its steps for that."""


class HeldOut:
    """Batches that the model is not trained on, and what is measured on them: the loss, the accuracy or a function.

    A look evaluates all of these batches, in eval mode. ``n`` batches are looked at every ``n`` steps, so that
    looking never takes more forward passes than training does.

    Args:
        val_loader: an iterable of batches; the first ones are kept.
        metric: None for the loss; "accuracy" for batches of ``(inputs, targets)``; or a function,
            ``metric(outputs, targets)`` for such batches, ``metric(model, batch)`` with ``own``; it returns a number
            or a tensor of one element.
        steps: of the sweep.
        every: steps between two looks; None: as many as there are batches.
        own: batches are of any other kind than ``(inputs, targets)``.
        ranks: that look together, each at batches of its own; as many on each as the rank with the fewest has.
    Raises:
        ValueError: no batches, or a bad metric or number of steps.
    """

    def __init__(
        self,
        val_loader: Iterable[Any],
        metric: Metric | None,
        steps: int,
        every: int | None,
        *,
        own: bool,
        ranks: Ranks = ALONE,
    ):
        if not isinstance(val_loader, Iterable):
            raise ValueError(f"val_loader: got {type(val_loader).__name__}; give an iterable of batches")
        if metric is not None and metric != "accuracy" and not callable(metric):
            raise ValueError(f"metric: got {metric!r}; give 'accuracy', a function, or None for the loss")
        if every is not None and (not is_whole(every) or every < 1):
            raise ValueError(f"val_every: got {every!r}; give a whole number of steps, at least 1")
        self._batches = list(islice(val_loader, max(1, steps // LOOKS)))
        if not self._batches:
            raise ValueError("val_loader: it is empty; give at least one batch, or leave it out")
        del self._batches[min(ranks.gather("held-out batches", len(self._batches))) :]
        self.every = len(self._batches) if every is None else every
        self._metric, self._own = metric, own

    @property
    def name(self) -> str:
        """What is measured."""
        if self._metric is None:
            return VALIDATION_LOSS
        return self._metric if isinstance(self._metric, str) else getattr(self._metric, "__name__", "metric")

    def due(self, updates: int, steps: int) -> bool:
        """Whether to look after so many updates of a sweep of ``steps``: counted back from its end, where a look
        belongs in any case, so that it is none too many."""
        return updates >= self.every and (steps - updates) % self.every == 0

    def look(self, step: EagerStep) -> Tensor:
        """The measure now, a tensor of one element; the mean over the batches, by their number of samples."""
        total, n_samples = self.measured(step)
        return _tensor(total / n_samples)

    def measured(self, step: EagerStep) -> Measured:
        """The measure now, summed over the samples, and their number."""
        total: Tensor | float = 0.0
        n_samples = 0
        # A loss of the user's own may hold a derivative.
        with evaluating(step.model), step.casting(), torch.set_grad_enabled(self._own and self._metric is None):
            for batch in self._batches:
                n = _samples(batch)
                total = total + n * _tensor(self._measured(step, batch)).detach().float()
                n_samples += n
        return total, n_samples

    def _measured(self, step: EagerStep, batch: Any) -> Any:
        if self._metric is None:
            return step.loss(batch)
        if self._own and self._metric != "accuracy":
            return self._metric(step.model, moved(batch, step.device))  # type: ignore[operator]
        if self._own and not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise ValueError(
                f"metric: 'accuracy' needs batches of (inputs, targets), and val_loader gave a {type(batch).__name__}; "
                "give metric(model, batch) -> number"
            )
        inputs, targets = as_pair(moved(batch, step.device))
        outputs = step.model(inputs)
        if callable(self._metric):
            return self._metric(outputs, targets)
        if outputs.dim() < 2 or targets.is_floating_point():
            raise ValueError(
                f"metric: 'accuracy' needs outputs [n, classes, ...] and whole targets, and got {tuple(outputs.shape)} "
                f"and {targets.dtype}; give metric(outputs, targets) -> number"
            )
        return (outputs.argmax(1) == targets).float().mean()


def mean_over(ranks: Ranks, measured: Measured) -> Tensor:
    """The mean over the samples of all ranks."""
    total, n_samples = measured
    if ranks.count == 1:
        return _tensor(total / n_samples)
    everyone = ranks.gather("a held-out measure", (float(total), n_samples))
    totals, counts = zip(*everyone, strict=True)
    return _tensor(sum(totals) / sum(counts))


def _tensor(value: Any) -> Tensor:
    """A tensor where it is, a number on the CPU."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")


def _samples(batch: Any) -> int:
    """Of a batch: the length of its first tensor; 1 where it has none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 1
    values = batch.values() if hasattr(batch, "values") else batch if isinstance(batch, tuple | list) else ()
    return next((_samples(value) for value in values if isinstance(value, Tensor)), 1)


def spread(looks: dict[int, Tensor], n: int) -> Floats:
    """``[n]`` values, NaN where there was no look; ``looks`` by number of updates before them."""
    values = np.full(n, np.nan)
    for updates, value in looks.items():
        if 0 < updates <= n:
            values[updates - 1] = float(value)
    return values
