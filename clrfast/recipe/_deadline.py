"""The time that is left, and whether it allows another run."""

from __future__ import annotations

import math
import time
from typing import Any


def now() -> float:
    """Seconds, from whenever."""
    return time.monotonic()


class TimeIsUp(Exception):
    """The time was too short for an answer."""


class Deadline:
    """So many ``seconds`` from now on, > 0."""

    def __init__(self, seconds: float):
        self.seconds, self._begin, self._asked, self._longest = seconds, now(), math.nan, 0.0

    @property
    def gone(self) -> float:
        """Seconds since the beginning."""
        return now() - self._begin

    @property
    def left(self) -> float:
        """Seconds; below 0 after the end."""
        return self.seconds - self.gone

    def allows_another(self) -> bool:
        """Whether one more run would end in time; to be asked before each, for the longest so far tells what one
        takes. The first may begin while any time is left."""
        gone = self.gone
        if not math.isnan(self._asked):
            self._longest = max(self._longest, gone - self._asked)
        self._asked = gone
        return gone < self.seconds and gone + self._longest <= self.seconds


def deadline(max_seconds: Any) -> Deadline | None:
    """That of an argument ``max_seconds``; None for none."""
    if max_seconds is None:
        return None
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, int | float) or not max_seconds > 0:
        raise ValueError(f"max_seconds: got {max_seconds!r}; give a number of seconds above 0, or None")
    return Deadline(max_seconds)
