"""The tasks that no finder was run on when they were written."""

from ....task_library.definition import Split

TEST = Split()
