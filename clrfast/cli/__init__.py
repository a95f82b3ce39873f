"""The command line: ``clrfast find``, ``train``, ``recipe``, ``schedule`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Torch is imported only after the arguments have been parsed."""
    from ._commands import main as run

    return run(argv)
