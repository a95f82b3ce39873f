"""Small tasks with a short 1cycle each, on which learning-rate finders are judged.

A finder's constants may be chosen on the development and the fine-tuning tasks only. The test tasks show whether they
carry over: they were written without running any finder on them, and the oracle alone decided their range of rates.
When a finder changes after a look at its regret on one of them, that task becomes a development task and needs a
successor.

The fine-tuning tasks continue the training of pre-trained models, with AdamW only.

A task is a function ``seed -> BenchmarkTask``. The seed decides the initial weights and the order of the data, never
the data or its split. A 1cycle of a task takes about a second or less on one core. Tasks that need ``../shared/data``
are left out where it is missing.
"""

from ...task_library.definition import Split
from .development import DEVELOPMENT
from .fine_tuning import FINE_TUNING
from .test import TEST

__all__ = ["DEVELOPMENT", "FINE_TUNING", "SPLITS", "TEST"]

SPLITS: dict[str, Split] = {"development": DEVELOPMENT, "fine_tuning": FINE_TUNING, "test": TEST}
