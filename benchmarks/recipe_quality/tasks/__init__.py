"""Tasks of the recipe's benchmark: real data only, few samples, so that a training can overfit.

The recipe may change after a look at the development tasks only. All tasks were written without looking at any recipe,
and so were their sizes and steps: a training takes about a second on one core. Every other held-out sample of a task
validates the recipe; the rest judge it.
"""

from ...task_library.definition import Split
from .development import DEVELOPMENT
from .test import TEST

__all__ = ["DEVELOPMENT", "SPLITS", "TEST"]

SPLITS: dict[str, Split] = {"development": DEVELOPMENT, "test": TEST}
