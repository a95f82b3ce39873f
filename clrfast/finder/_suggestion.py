"""``Suggestion``: a learning rate with its interval and its reason; ``NoSuggestionError``: there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Confidence = Literal["high", "low"]


class NoSuggestionError(ValueError):
    """The curve has no valid answer. The message says why and what to try."""


@dataclass(frozen=True)
class Suggestion:
    """Learning rates to train with, and why.

    Attributes:
        max_lr: the rate to train with: the peak of a 1cycle, or the upper bound of a cyclical rate.
        base_lr: the lower bound of a cyclical rate: where the descent begins, at most a quarter of ``max_lr``.
        low, high: ends of the interval. "trials": a factor of 3.2 either way. In 96 % of the runs on the benchmark's
            development and fine-tuning tasks, it contains a rate with a regret of at most 0.03. All other rules: the
            5 % and 95 % quantiles of ``max_lr`` when the noise of the losses is resampled, over all repeats of the
            range test; other initial weights may differ by more.
        method: name of the rule that found it.
        reason: one sentence.
        confidence: "low" if the evidence is weak; the reason says why.
    """

    max_lr: float
    base_lr: float
    low: float
    high: float
    method: str
    reason: str
    confidence: Confidence = "high"

    def __str__(self) -> str:
        """Return rates, rule and reason in one line, with ``base_lr`` if the rule is for cyclical rates.

        Examples:
            >>> print(Suggestion(0.21, 0.0123, 0.18, 0.25, "edge", "0.21 = 1.05 / 5"))
            0.21 (0.18 to 0.25); edge: 0.21 = 1.05 / 5
        """
        interval = f"{self.low:.2g} to {self.high:.2g}"
        bound = f", lower bound of a cyclical rate {self.base_lr:.2g}" if self.method == "clr_bounds" else ""
        confidence = "low confidence; " if self.confidence == "low" else ""
        return f"{self.max_lr:.3g} ({interval}){bound}; {confidence}{self.method}: {self.reason}"
