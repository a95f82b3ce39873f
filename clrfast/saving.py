"""Results in JSON files, with the name of their format: written whole or not at all, and others' files refused."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")

NOT_SAVED = {"saved": False}
"""Metadata of a dataclass's field that ``plain`` leaves out."""


def plain(value: Any) -> Any:
    """Dicts of dataclasses' fields, lists of arrays and tuples; numbers that are not finite become strings."""
    if is_dataclass(value):
        saved = (f.name for f in fields(value) if f.metadata.get("saved", True))
        return {name: plain(getattr(value, name)) for name in saved}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, tuple | list):
        return [plain(x) for x in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write(path: str | os.PathLike[str], format_name: str, data: dict[str, Any]) -> None:
    """Write ``data``, which is plain; whoever interrupts finds the old file or the new one."""
    new = Path(f"{os.fspath(path)}.new")
    new.write_text(json.dumps({"format": format_name, **data}, indent=1) + "\n")
    os.replace(new, path)


def read(
    path: str | os.PathLike[str],
    format_name: str,
    make: Callable[[dict[str, Any]], Result],
    what: str,
    remedy: str = "give another path",
) -> Result:
    """What ``make`` makes of the data that ``write`` wrote.

    Raises:
        ValueError: the file holds something else than ``what``; the message ends with ``remedy``.
    """
    try:
        data = json.loads(Path(path).read_text())
        if data.pop("format") != format_name:
            raise ValueError("unknown format")
        return make(data)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(
            f"path: {os.fspath(path)} does not hold a saved {what} ({type(error).__name__}: {error}); {remedy}"
        ) from None
