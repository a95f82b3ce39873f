"""Protocols of the objects that the pictures of range tests draw.

Nothing is imported from the other packages: any object with these attributes can be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class RateSuggestion(Protocol):
    """A suggested rate and its interval; ``clrfast.Suggestion`` is one."""

    @property
    def max_lr(self) -> float: ...
    @property
    def base_lr(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def method(self) -> str: ...


class ShortTrials(Protocol):
    """Losses after short runs of ``steps`` updates each; ``clrfast.Trials`` has them."""

    @property
    def steps(self) -> int: ...
    @property
    def lr(self) -> Floats: ...
    @property
    def loss(self) -> Floats: ...


class LossCurve(Protocol):
    """A range test's loss against the learning rate, as arrays of ``n`` points; ``clrfast.LRCurve`` is one."""

    @property
    def lr(self) -> Floats: ...
    @property
    def loss(self) -> Floats: ...
    @property
    def smoothed(self) -> Floats: ...
    @property
    def slope(self) -> Floats:
        """Change of the loss per decade of the rate, or per unit of the rate if ``spacing`` is linear."""

    @property
    def spacing(self) -> Literal["exponential", "linear"]: ...
    @property
    def initial_loss(self) -> float: ...
    @property
    def divergence_lr(self) -> float | None: ...
    @property
    def metric(self) -> Floats | None:
        """The metric on held-out data; NaN where it was not measured, None if it never was."""

    @property
    def metric_name(self) -> str: ...
    @property
    def metric_is_loss(self) -> bool:
        """Whether the metric is drawn on the axis of the loss."""

    @property
    def repeats(self) -> Sequence[LossCurve]: ...
    @property
    def trials(self) -> Sequence[ShortTrials]: ...
    def suggest(self) -> RateSuggestion:
        """Raise a ValueError if the curve has no answer."""


class EpochRecord(Protocol):
    """A range test at the end of an epoch; ``clrfast.finder.RateRecord`` is one."""

    @property
    def epoch(self) -> int: ...
    @property
    def curve(self) -> LossCurve: ...
    @property
    def suggestion(self) -> RateSuggestion | None: ...
    @property
    def lr(self) -> float | None: ...
