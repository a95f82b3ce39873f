"""``Recipe``: the settings to train with, and the evidence for each."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from .._checks import count
from ..diagnosis import Diagnosis
from ..optim import FusedOptimizer
from ..schedules import Schedule, one_cycle
from ._conclusions import (
    conclude_batch_size,
    conclude_momentum,
    conclude_optimizer,
    conclude_rate,
    conclude_weight_decay,
    diagnose_best,
)
from ._optimizers import OPTIMIZERS, OptimizerName
from ._plan import is_complete
from ._storage import TrialStore, journal_path, require_optuna
from ._study import Study


@dataclass(frozen=True, eq=False)
class Recipe:
    """The settings to train with, and the reasons; ``print`` shows them.

    Attributes:
        optimizer_name: name of the optimizer: "sgd" or "adamw".
        batch_size: samples of a batch; None if the loader has no batch size.
        max_lr: the highest rate of the 1cycle.
        low, high: the interval of ``max_lr``, see ``Suggestion``.
        momentum: (upper, lower), cycled against the rate; beta1 of AdamW.
        weight_decay: >= 0.
        evidence: a sentence or two for each of "learning rate", "batch size", "weight decay" and "momentum", and for
            "optimizer" if there were several.
        diagnoses: what ``diagnose`` returned for the run with the chosen settings.
        warnings: what to check before trusting the recipe; empty is best.
        steps: steps of the search.
        complete: False if the search has not ended.
        study: all finished trials.
    """

    optimizer_name: OptimizerName
    batch_size: int | None
    max_lr: float
    low: float
    high: float
    momentum: tuple[float, float]
    weight_decay: float
    evidence: dict[str, str]
    diagnoses: tuple[Diagnosis, ...]
    warnings: tuple[str, ...]
    steps: int
    complete: bool
    study: Study = field(repr=False)

    @property
    def optimizer_class(self) -> str:
        """Name of the class of that optimizer in ``clrfast``."""
        return OPTIMIZERS[self.optimizer_name].kind.__name__

    @property
    def settings(self) -> dict[str, str]:
        """The settings in words, by the names in ``evidence``."""
        upper, lower = self.momentum
        several = len(self.study.settings.optimizers) > 1
        return ({"optimizer": self.optimizer_name} if several else {}) | {
            "learning rate": f"up to {self.max_lr:.3g} ({self.low:.2g} to {self.high:.2g})",
            "batch size": "the loader's" if self.batch_size is None else str(self.batch_size),
            "weight decay": f"{self.weight_decay:g}",
            "momentum": f"{upper:g} to {lower:g}" if upper > lower else f"{upper:g}",
        }

    def schedule(self, total_steps: int) -> Schedule:
        """Return the 1cycle of a training of ``total_steps``, >= 1; the momentum falls while the rate rises."""
        return one_cycle(self.max_lr, total_steps, momentum=self.momentum, weight_decay=self.weight_decay)

    def optimizer(self, model: nn.Module, total_steps: int | None = None) -> FusedOptimizer:
        """Return a ``clrfast.SGD`` or ``clrfast.AdamW`` over the trainable parameters of ``model``.

        Args:
            model: the model to train, on its final device.
            total_steps: length of the training, >= 1; the optimizer then follows ``schedule(total_steps)``. None:
                ``max_lr``, the upper momentum and the weight decay are constant until ``optimizer.set_schedule`` or
                another scheduler changes them.
        """
        params = [param for param in model.parameters() if param.requires_grad]
        schedule = None if total_steps is None else self.schedule(total_steps)
        chosen = OPTIMIZERS[self.optimizer_name]
        momentum = chosen.momentum_option(self.momentum[0])
        return chosen.kind(params, self.max_lr, weight_decay=self.weight_decay, schedule=schedule, **momentum)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all measurements as JSON, after the settings for human readers."""
        self.study.write(path, complete=self.complete, chosen=_chosen(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a file that ``save`` wrote, and draw the conclusions again.

        Raises:
            ValueError: the file holds something else, or a search that was interrupted before its first result.
        """
        return conclude(Study.read(path))

    @classmethod
    def from_storage(cls, storage: Any, study_name: str = "recipe") -> Recipe:
        """Draw the conclusions from the trials in a storage that have finished, also while a search runs.

        Args:
            storage, study_name: see ``find_recipe``.
        Raises:
            ValueError: the storage has no such study, or the first range test is not among them.
        """
        require_optuna()
        path = journal_path(storage)
        if path is not None and not Path(path).exists():  # opening it would create it
            raise ValueError(f"storage: there is no file {path}; give the path of a search's journal")
        store = TrialStore(storage, study_name)
        store.load()
        return conclude(store.read()[0])

    def to_html(self, title: str = "", *, saved: str = "recipe.json") -> str:
        """Return a report as one self-contained HTML page; it has pictures if matplotlib is installed.

        Args:
            title: name of the task; any text.
            saved: path of the recipe's JSON, for the code in the report.
        """
        from ._report import render_report  # imports jinja2

        return render_report(self, title, saved)

    def __str__(self) -> str:
        rows = [f"{name:<15}{value}" for name, value in self.settings.items()]
        optimizer = "" if self.optimizer_name == "sgd" else f" of {self.optimizer_name}"
        n_steps, n_trials = f"{self.steps} steps{optimizer}", count(len(self.study.trials), "trial")
        so_far = f"the search has not ended; so far {n_trials} of {n_steps} together"
        rows.append(f"found in {n_steps}" if self.complete else so_far)
        return "\n".join([*rows, *(f"warning: {warning}" for warning in self.warnings)])


def conclude(study: Study) -> Recipe:
    """Return the recipe that follows from the finished trials, with defaults for settings without measurements.

    Raises:
        ValueError: there is no range test.
    """
    optimizer = conclude_optimizer(study)
    chosen = study.for_optimizer(optimizer.value)
    if chosen.range_test is None:
        raise ValueError("trials: the first range test is not among them, so there is no recipe yet")
    rate, batch_size = conclude_rate(chosen), conclude_batch_size(chosen)
    decay, momentum = conclude_weight_decay(chosen), conclude_momentum(chosen)
    complete, diagnoses = is_complete(study), diagnose_best(chosen, decay.value)
    warnings = [*rate.warnings, *decay.warnings, *momentum.warnings]
    if not complete:
        warnings.append("the search has not ended: settings that it has not measured have their usual values")
    warnings += [f"{each.name}: {each.evidence}; {each.advice}" for each in diagnoses if each.name != "plateau"]
    evidence = {
        "learning rate": rate.evidence,
        "batch size": batch_size.evidence,
        "weight decay": decay.evidence,
        "momentum": momentum.evidence,
    }
    return Recipe(
        optimizer_name=optimizer.value,
        batch_size=batch_size.value,
        max_lr=rate.value.max_lr,
        low=rate.value.low,
        high=rate.value.high,
        momentum=momentum.value,
        weight_decay=decay.value,
        evidence=({} if chosen is study else {"optimizer": optimizer.evidence}) | evidence,
        diagnoses=diagnoses,
        warnings=tuple(warnings),
        steps=study.steps,
        complete=complete,
        study=study,
    )


def _chosen(recipe: Recipe) -> dict[str, object]:
    names = ("optimizer_name", "batch_size", "max_lr", "low", "high", "momentum", "weight_decay")
    diagnoses = [asdict(diagnosis) | {"size": str(diagnosis.size)} for diagnosis in recipe.diagnoses]
    texts = {"evidence": recipe.evidence, "warnings": recipe.warnings, "diagnoses": diagnoses}
    return {name: getattr(recipe, name) for name in names} | texts
