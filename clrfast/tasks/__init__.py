"""Training tasks: a model, its loss and its data; built-in ones, and those of users for the command line."""

from .._errors import TaskError
from ._task import BUILT_IN, Task, find_maker, make_task

__all__ = ["BUILT_IN", "Task", "TaskError", "find_maker", "make_task"]
