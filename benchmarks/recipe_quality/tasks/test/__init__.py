"""The test tasks: no change of the recipe, and no choice of a search's arguments, was based on them.

Data and models differ from those of the other tasks. Some of the data are generated.
"""

from ....task_library.definition import Split
from .first import ADAMW_FIRST, FIRST
from .second import ADAMW_SECOND, SECOND

TEST = Split({**FIRST, **SECOND})
"""Trained with SGD."""

ADAMW_TEST = Split({**ADAMW_FIRST, **ADAMW_SECOND})
"""Trained with AdamW."""
