"""Tasks by the names that a command line gives."""

from __future__ import annotations

from ..peer_packages import why_missing
from .data import unpack
from .definition import Split, TaskDefinition


def select_tasks(names: list[str] | None, splits: dict[str, Split]) -> list[TaskDefinition]:
    """Return the tasks of the given names, and print which ones lack their data or packages and are left out.

    Args:
        names: of tasks or of splits; None means all.
    Raises:
        ValueError: there is no task or split of a given name.
    """
    every = {name: definition for split in splits.values() for name, definition in split.items()}
    found = [task for name in names or every for task in splits.get(name, (name,))]
    if unknown := set(found) - set(every):
        raise ValueError(f"there are no tasks {sorted(unknown)}; give some of {[*splits, *every]}")
    have_packed = unpack()
    selected = []
    for definition in map(every.__getitem__, found):
        if definition.packed and not have_packed:
            print(f"{definition.name}: left out, its data is not here")
        elif reason := why_missing(definition.packages):
            print(f"{definition.name}: left out, {reason}")
        else:
            selected.append(definition)
    return selected
