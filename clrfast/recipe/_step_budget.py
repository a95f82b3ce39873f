"""``Budget``, the protocol of budgets, and ``StepBudget``, a budget of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .._progress import Progress
from ..finder import LRCurve
from ..tasks import Task
from ..training import StepOptions
from ._study import Study

RunRangeTest = Callable[[Progress | bool | None], LRCurve]
"""Function that runs a range test, which reports to a progress."""


class Budget(Protocol):
    """A limit on the search, in steps or in time."""

    @property
    def remaining_seconds(self) -> float | None:
        """Seconds that are left; None for a budget of steps."""

    def needs_timing(self, study: Study) -> bool:
        """Return whether a range test must measure the time of a step before the search continues."""

    def remaining_steps(self, study: Study, n_ranks: int) -> int:
        """Return how many steps are left for ``n_ranks`` that share them."""

    def require_enough(self, study: Study, n_ranks: int, hint: str) -> None:
        """Raise ValueError if too little is left for any result; ``hint`` ends the message."""

    def run_range_test(
        self, run: RunRangeTest, task: Task, options: StepOptions, progress: Progress | bool | None
    ) -> tuple[LRCurve, float | None]:
        """Run a range test; return its curve, and the seconds of a step if they are measured."""


class StepBudget:
    """A budget of steps: ``Study.budget`` holds it."""

    remaining_seconds = None

    def needs_timing(self, study: Study) -> bool:
        return False

    def remaining_steps(self, study: Study, n_ranks: int) -> int:
        return study.remaining_steps

    def require_enough(self, study: Study, n_ranks: int, hint: str) -> None:
        """Do nothing: ``find_recipe`` has checked the budget."""

    def run_range_test(
        self, run: RunRangeTest, task: Task, options: StepOptions, progress: Progress | bool | None
    ) -> tuple[LRCurve, None]:
        return run(progress), None
