"""``clrfast find``: the range test, with its curve as JSON and as a picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .. import _saving as saving
from ..finder import LRCurve, NoSuggestionError, Suggestion
from ._arguments import UsageError
from ._task import make_seeded_task, run_range_test


def run(arguments: argparse.Namespace) -> None:
    """Run the range test, write its files and print the suggestion.

    Raises:
        UsageError: the curve has no suggestion; the files are written all the same.
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
    print(f"range test: {curve.stop_reason}")
    if suggestion is not None:
        print(f"suggested learning rate: {suggestion}")
    print(f"cost: {curve.update_steps} updates and {curve.extra_forward_passes} extra forward passes")
    print("written: " + ", ".join(map(str, written)))
    if suggestion is None:
        raise UsageError(f"no suggestion: {problem}")


def _write_picture(path: Path, curve: LRCurve, suggestion: Suggestion | None) -> bool:
    """Return whether the picture is written; without matplotlib it is not."""
    try:
        figure: Any = curve.plot(suggestion=suggestion).figure
        saving.write_figure(path, figure)
    except ModuleNotFoundError as error:
        print(f'no picture: {error.name} is not installed (pip install "clrfast[plot]")', file=sys.stderr)
        return False
    return True
