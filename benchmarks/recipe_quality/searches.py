"""Finished searches: one per contender, task, seed and budget, each kept in a file of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..environment import commit
from ..result_files import read_cache, write_cache
from ..task_library.definition import TaskDefinition
from .contenders import CONTENDERS
from .reference import FRESH_SEEDS, OPTIMIZERS, Reference
from .searched_task import Answer, SearchedTask


@dataclass(frozen=True)
class Place:
    """What a search is about.

    Attributes:
        contender: name in ``CONTENDERS``.
        optimizer: name in ``OPTIMIZERS``.
        task: name of the task.
        seed: of the search.
        budget: fraction of the updates of the grid with one seed.
    """

    contender: str
    optimizer: str
    task: str
    seed: int
    budget: float

    @property
    def definition(self) -> TaskDefinition:
        return next(split[self.task] for split in OPTIMIZERS[self.optimizer].splits.values() if self.task in split)

    def path(self, folder: Path) -> Path:
        return folder / self.optimizer / self.task / f"{self.contender}-{self.budget:g}-{self.seed}.json"


@dataclass(frozen=True)
class Search:
    """A contender's answer, the test losses of trainings with it, ``[fresh seeds]``, and the commit of the search."""

    answer: Answer
    losses: list[float]
    commit: str

    @classmethod
    def from_entry(cls, entry: dict[str, Any]) -> Search:
        """Return the search that a file holds."""
        answer = dict(entry["answer"])
        answer["steps"] = int(answer["steps"])
        answer["trainings"] = None if answer["trainings"] is None else int(answer["trainings"])
        answer["momentum"] = tuple(answer["momentum"])
        return cls(Answer(**answer), entry["losses"], entry["commit"])


def find_search(place: Place, reference: Reference, folder: Path | None) -> Search:
    """Return a search: from ``folder`` if it is there and its task is unchanged, else made and kept.

    Args:
        folder: None reads and keeps nothing.
    """
    path = None if folder is None else place.path(folder)
    key = OPTIMIZERS[place.optimizer].grid.key(place.definition)
    kept = read_cache(path)
    if kept.get("key") == key:
        return Search.from_entry(kept["search"])
    search = make_search(place, reference)
    write_cache(path, {"key": key, "search": asdict(search)})
    return search


def make_search(place: Place, reference: Reference) -> Search:
    """Search, and train with the answer and the fresh seeds."""
    definition, max_steps = place.definition, int(place.budget * reference.grid_steps)
    searched = SearchedTask(definition, reference, place.optimizer, place.seed, max_steps)
    answer = CONTENDERS[place.contender].search(searched)
    losses = [answer.loss(definition.make(seed), reference.steps) for seed in FRESH_SEEDS]
    return Search(answer, losses, commit())
