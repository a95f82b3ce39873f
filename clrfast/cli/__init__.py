"""The command line: ``clrfast find``, ``train``, ``recipe``, ``schedule`` and ``doctor``, a module each."""

from ._main import main

__all__ = ["main"]
