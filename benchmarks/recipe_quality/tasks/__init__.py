"""Tasks of the recipe's benchmark: few samples, so that a training can overfit.

The recipe may change after a look at the development tasks. The validation tasks were test tasks until results on them
were published. Nothing may change after a look at the test tasks. All tasks were written without looking at any recipe,
and so were their sizes and steps: a training takes about a second on one core. Every other held-out sample of a task
validates the settings; the rest judge them.
"""

from ...task_library.definition import Split
from .development import ADAMW_DEVELOPMENT, DEVELOPMENT
from .test import ADAMW_TEST, TEST
from .validation import VALIDATION

__all__ = ["ADAMW_SPLITS", "SGD_SPLITS", "SPLITS"]

SGD_SPLITS: dict[str, Split] = {"development": DEVELOPMENT, "validation": VALIDATION, "test": TEST}
"""The tasks that are trained with SGD."""

ADAMW_SPLITS: dict[str, Split] = {"development": ADAMW_DEVELOPMENT, "test": ADAMW_TEST}
"""The tasks that are trained with AdamW. Those of development are trained with SGD, too."""

SPLITS: dict[str, Split] = {
    "development": DEVELOPMENT,
    "validation": VALIDATION,
    "test": Split({**TEST, **ADAMW_TEST}),
}
"""All tasks."""
