"""Errors that users catch, in a module that imports nothing slow. Public names: ``clrfast.NotWrittenError``,
``clrfast.RankError`` and ``clrfast.tasks.TaskError``."""

__all__ = ["NotWrittenError", "RankError", "TaskError"]


class NotWrittenError(OSError):
    """A file cannot be written. The message names it, and its old content is unchanged."""


class RankError(RuntimeError):
    """Another rank failed or ended, so this one cannot continue. The message says which rank failed where."""


class TaskError(Exception):
    """A task cannot be made; the message says why in one line."""
