"""``StudyFile``: saves a study before and after all trials, so that an interrupted search can continue from it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import nn

from .._errors import NotWrittenError
from ..tasks import Task
from ._optimizers import OptimizerName
from ._recipe import Recipe, conclude
from ._study import Study

logger = logging.getLogger("clrfast.recipe")


class StudyFile:
    """The file of a study.

    Args:
        path: the file; None writes nothing.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._written: Study | None = None

    @property
    def hint(self) -> str:
        """Where the results are, for the end of an error message."""
        return "" if self._path is None else f" (what was found is in {self._path}; the next call goes on from there)"

    def open(self, task: Task, budget: int, planned_steps: int, optimizer: OptimizerName = "sgd") -> Study:
        """Return the study in the file, or a new one.

        Steps that a kill has lost count as steps of the search.

        Raises:
            ValueError: the folder does not exist, or the file is of another model, batch size or optimizer, or no study
                at all.
        """
        model, batch_size = _description(task.model), getattr(task.train_loader, "batch_size", None)
        if self._path is not None and not self._path.parent.is_dir():
            raise ValueError(f"saved: {self._path.parent} is no folder; make it first")
        if self._path is None or not self._path.exists():
            return Study(budget, planned_steps, 0, model, batch_size, optimizer)
        study = Study.read(self._path)
        for what, saved, given in (
            ("model", study.model, model),
            ("batch size", study.batch_size, batch_size),
            ("optimizer", study.optimizer, optimizer),
        ):
            if saved != given:
                raise ValueError(
                    f"saved: {self._path} is of another {what} ({saved}; this is {given}); give another path, or "
                    "delete the file to begin anew"
                )
        if study.started_steps:
            logger.info("%d steps that a kill has lost count in the budget", study.started_steps)
        steps = study.steps + study.started_steps
        budget = max(budget, steps)
        return replace(study, budget=budget, planned_steps=planned_steps, steps=steps, started_steps=0)

    def save(self, study: Study) -> Recipe:
        """Write the study, and return the recipe that follows from it."""
        recipe = conclude(study)
        if self._path is not None:
            recipe.save(self._path)
            self._written = study
        return recipe

    @contextlib.contextmanager
    def refunding(self) -> Iterator[None]:
        """Run a block with trials. If an exception ends one, its steps are not charged to the budget; a kill's are."""
        try:
            yield
        except BaseException:
            # A second Ctrl-C, or torchrun's SIGTERM after a rank's failure, may interrupt the first attempt.
            for _ in range(2):
                with contextlib.suppress(KeyboardInterrupt, NotWrittenError):
                    self._refund()
            raise

    def _refund(self) -> None:
        if self._written is not None and self._written.started_steps:
            self.save(replace(self._written, started_steps=0))


def _description(model: nn.Module) -> str:
    params = list(model.parameters())
    return f"{type(model).__name__}, {sum(param.numel() for param in params)} elements in {len(params)} tensors"
