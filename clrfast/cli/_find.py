"""``clrfast find``: the range test, with its curve as JSON and as a picture."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .. import _saving as saving
from ..finder import NoSuggestionError, Suggestion
from ._arguments import UsageError
from ._screen import print_facts, write
from ._task import make_seeded_task, run_range_test


def run(arguments: argparse.Namespace) -> None:
    """Run the range test, write its files and print the suggestion.

    Raises:
        UsageError: the curve has no suggestion; the files are written nevertheless.
    """
    curve = run_range_test(make_seeded_task(arguments), arguments)
    data, picture = arguments.out / "lr_range_test.json", arguments.out / "lr_range_test.png"
    written = [write(data, curve.save)]
    suggestion, problem = None, None
    try:
        suggestion = curve.suggest(arguments.method)
    except NoSuggestionError as error:
        problem = error
    try:
        figure: Any = curve.plot(suggestion=suggestion).figure
        written.append(write(picture, lambda path: saving.write_figure(path, figure)))
    except ModuleNotFoundError as error:
        print(f"no picture: {error.name} is not installed (pip install matplotlib)", file=sys.stderr)
    print_facts(curve, suggestion, written=", ".join(written))
    if suggestion is None:
        raise UsageError(f"no suggestion: {problem}")
    print(_next_lines(suggestion, arguments.optimizer))


def _next_lines(suggestion: Suggestion, optimizer: str) -> str:
    """Return the lines of Python that train with the suggestion."""
    made = {"sgd": "SGD(model.parameters(), weight_decay=1e-4", "adamw": "AdamW(model.parameters()"}[optimizer]
    return (
        "\nnext, in your program:\n\n"
        f"    schedule = clrfast.one_cycle({suggestion.max_lr:.3g}, total_steps=epochs * len(train_loader))\n"
        f"    optimizer = clrfast.{made}, schedule=schedule)"
    )
