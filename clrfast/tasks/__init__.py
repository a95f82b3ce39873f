"""``Task``: a model, its loss and its data. The built-in tasks, and how the command line finds a user's."""

from .._errors import TaskError
from ._task import BUILT_IN, Task, find_maker, make_task

__all__ = ["BUILT_IN", "Task", "TaskError", "find_maker", "make_task"]
