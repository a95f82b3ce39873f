"""Small real tasks with a short 1cycle each, on which ``regret.py`` judges learning-rate finders.

Constants of a finder may be chosen on TUNING only. HELD_OUT and FRESH tell whether they carry over: their tasks were
written without a look at any finder, and their rates' grids by the oracle alone. Once a finder was changed after a look
at its regret on one of them, those tasks belong to TUNING, and new ones are needed; FRESH are those after HELD_OUT.

A task is a function ``seed -> RegretTask``: the seed decides the initial weights and the order of the data, never the
data itself nor the split. A 1cycle of every task takes about a second or less on one core. Tasks that need
``../shared/data`` are left out where it is missing.
"""

from ...task_library.data import unpack
from ...task_library.definition import Half, RegretTask, TaskMaker
from .development import TUNING
from .test import FRESH
from .validation import HELD_OUT

__all__ = ["FRESH", "HALVES", "HELD_OUT", "TUNING", "Half", "RegretTask", "TaskMaker", "available"]

HALVES = {"TUNING": TUNING, "HELD_OUT": HELD_OUT, "FRESH": FRESH}


def available() -> dict[str, TaskMaker]:
    """The tasks whose data is here; unpacks it at the first call."""
    have_packed = unpack()
    makers = {name: maker for half in HALVES.values() for name, maker in half.items()}
    return {name: maker for name, maker in makers.items() if have_packed or not maker.packed}
