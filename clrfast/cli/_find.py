"""``clrfast find``: the range test, with its curve as JSON and as a picture."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import Any

from .. import _saving as saving
from ..finder import LRCurve, NoSuggestionError, Suggestion
from ._arguments import UsageError
from ._task import make_seeded_task, run_range_test

WIDTH, MARGIN = 100, 15
"""Width of the printed text and of the names before it, in characters."""


def run(arguments: argparse.Namespace) -> None:
    """Run the range test, write its files and print the suggestion.

    Raises:
        UsageError: the curve has no suggestion; the files are written nevertheless.
    """
    curve = run_range_test(make_seeded_task(arguments), arguments)
    data, picture = arguments.out / "lr_range_test.json", arguments.out / "lr_range_test.png"
    curve.save(data)
    suggestion, problem = None, None
    try:
        suggestion = curve.suggest(arguments.method)
    except NoSuggestionError as error:
        problem = error
    written = [data, picture] if _write_picture(picture, curve, suggestion) else [data]
    facts = {} if suggestion is None else _describe(suggestion)
    facts |= {
        "range test": curve.stop_reason,
        "cost": f"{curve.update_steps} updates and {curve.extra_forward_passes} extra forward passes",
        "written": ", ".join(map(str, written)),
    }
    for name, text in facts.items():
        print(_paragraph(name, text))
    if suggestion is None:
        raise UsageError(f"no suggestion: {problem}")
    print(_next_lines(suggestion, arguments.optimizer))


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


def _next_lines(suggestion: Suggestion, optimizer: str) -> str:
    """Return the lines of Python that train with the suggestion."""
    made = {"sgd": "SGD(model.parameters(), weight_decay=1e-4", "adamw": "AdamW(model.parameters()"}[optimizer]
    return (
        "\nnext, in your program:\n\n"
        f"    schedule = clrfast.one_cycle({suggestion.max_lr:.3g}, total_steps=epochs * len(train_loader))\n"
        f"    optimizer = clrfast.{made}, schedule=schedule)"
    )


def _write_picture(path: Path, curve: LRCurve, suggestion: Suggestion | None) -> bool:
    """Return whether the picture is written; without matplotlib it is not."""
    try:
        figure: Any = curve.plot(suggestion=suggestion).figure
        saving.write_figure(path, figure)
    except ModuleNotFoundError as error:
        print(f'no picture: {error.name} is not installed (pip install "clrfast[plot]")', file=sys.stderr)
        return False
    return True
