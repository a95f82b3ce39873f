"""Errors of several packages that users catch; public as names of ``clrfast``."""

__all__ = ["NotWrittenError", "RankError"]


class NotWrittenError(OSError):
    """A file cannot be written. The message names it, and its old content is unchanged."""


class RankError(RuntimeError):
    """Another rank failed or ended, so this one cannot go on. The message says which failed where."""
