"""The tasks that no finder was run on when they were written, by kind."""

from ....task_library.definition import Split
from .continued import CONTINUED
from .images import IMAGES
from .sequences import SEQUENCES
from .tables import TABLES

TEST = Split({**IMAGES, **TABLES, **SEQUENCES, **CONTINUED})
