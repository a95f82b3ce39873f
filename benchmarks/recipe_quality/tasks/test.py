"""The test tasks: no change of the recipe, and no choice of a search's arguments, was based on them.

Data and models differ from those of the other tasks. Some of the data are generated.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...task_library import data, losses, models
from ...task_library.definition import BenchmarkTask, Split, build_task
from .sizes import ADAMW_RANGE, RANGE, few

TEST = Split()
"""Trained with SGD."""

ADAMW_TEST = Split()
"""Trained with AdamW."""


