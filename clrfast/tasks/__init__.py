"""Training tasks: what the command line trains, built in or a user's own."""

from .._errors import TaskError
from ._task import BUILT_IN, Task, find_maker, make_task

__all__ = ["BUILT_IN", "Task", "TaskError", "find_maker", "make_task"]
