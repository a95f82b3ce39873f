"""What several commands print: the facts of a suggestion, and the files that were written."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..finder import LRCurve, Suggestion

WIDTH, MARGIN = 100, 15
"""Width of the printed text and of the names before it, in characters."""


def print_facts(curve: LRCurve, suggestion: Suggestion | None, **others: str) -> None:
    """Print a paragraph for each fact of the suggestion, if there is one, and of the range test, then the others."""
    facts = {} if suggestion is None else _describe(suggestion)
    facts |= {
        "range test": curve.stop_reason,
        "cost": f"{curve.update_steps} updates and {curve.extra_forward_passes} extra forward passes",
    }
    for name, text in (facts | others).items():
        print(_paragraph(name, text))


def write(path: Path, write_to: Callable[[Path], Any]) -> str:
    """Call ``write_to(path)``; return the path, with a note if there was such a file before."""
    existed = os.path.exists(path)  # not path.exists(), which raises for a name that is too long
    write_to(path)
    return f"{path} (replaced)" if existed else str(path)


def _describe(suggestion: Suggestion) -> dict[str, str]:
    """Return what a user wants to know of a suggestion, by name, in the order in which it is printed."""
    return {
        "learning rate": f"{suggestion.max_lr:.3g}, the highest rate of a 1cycle",
        "interval": f"{suggestion.low:.2g} to {suggestion.high:.2g}",
        "confidence": suggestion.confidence,
        "why": f"{suggestion.method}: {suggestion.reason}",
    }


def _paragraph(name: str, text: str) -> str:
    """Return one paragraph with ``name`` in its margin; file names stay whole."""
    margin = f"{name:{MARGIN}}"
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=margin,
        subsequent_indent=" " * MARGIN,
        break_long_words=False,
        break_on_hyphens=False,
    )
