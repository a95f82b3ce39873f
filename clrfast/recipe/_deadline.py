"""A deadline, and whether another run would end before it."""

from __future__ import annotations

import math
import time
from typing import Any


def now() -> float:
    """Return the seconds of a clock that never goes back, from an arbitrary start."""
    return time.monotonic()


class OutOfTimeError(Exception):
    """The time limit was too short for an answer."""


class Deadline:
    """A deadline in ``seconds`` from now, > 0."""

    def __init__(self, seconds: float):
        self.seconds, self._start = seconds, now()
        self._run_started, self._longest_run = math.nan, 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return now() - self._start

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.seconds - self.elapsed

    def allows_another(self) -> bool:
        """Return whether one more run would end before the deadline if it takes as long as the longest so far.

        Call this right before each run, because the time between two calls counts as the length of a run. The first run
        may start while any time remains.
        """
        elapsed = self.elapsed
        if not math.isnan(self._run_started):
            self._longest_run = max(self._longest_run, elapsed - self._run_started)
        self._run_started = elapsed
        return elapsed < self.seconds and elapsed + self._longest_run <= self.seconds


def parse_deadline(max_seconds: Any) -> Deadline | None:
    """Return the deadline for an argument ``max_seconds``; None for None.

    Raises:
        ValueError: ``max_seconds`` is no number above 0.
    """
    if max_seconds is None:
        return None
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, int | float) or not max_seconds > 0:
        raise ValueError(f"max_seconds: got {max_seconds!r}; give a number of seconds above 0, or None")
    return Deadline(max_seconds)
