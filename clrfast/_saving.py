"""Writes and reads result files: each write replaces the whole file or nothing, and JSON names its format."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ._errors import NotWrittenError
from ._fields import Fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = TypeVar("Result")

NOT_SAVED = {"saved": False}
"""Metadata of a dataclass field that ``to_plain`` leaves out."""

NEW_MODE = 0o666
"""Permissions of a new file, before the process's umask."""


def to_plain(value: Any) -> Any:
    """Convert ``value`` to what JSON can hold.

    A dataclass becomes a dict, an array or a tuple a list, and a number that is not finite a string.
    """
    if is_dataclass(value):
        saved = (f.name for f in fields(value) if f.metadata.get("saved", True))
        return {name: to_plain(getattr(value, name)) for name in saved}
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, tuple | list):
        return [to_plain(x) for x in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | os.PathLike[str], format_name: str, data: dict[str, Any]) -> None:
    """Write ``data``, a result of ``to_plain``, with the name of its format; see ``write_bytes``."""
    write_text(path, json.dumps({"format": format_name, **data}, indent=1) + "\n")


def write_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write a picture in the format of the path's suffix, PNG without a suffix; see ``write_bytes``."""
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(path).suffix[1:] or "png")
    write_bytes(path, picture.getvalue())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` in UTF-8; see ``write_bytes``."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace the file at ``path``. An interruption leaves either the old content or the new one.

    The content goes into a temporary file in the same folder, which gets the permissions of the old file and then
    replaces it. If ``path`` is a link, its target is replaced. Devices and pipes are written directly.

    Raises:
        NotWrittenError: the folder is missing, the disk is full, ...; the temporary file is removed.
    """
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            target.write_bytes(content)
        else:
            _replace(target, mode, content)
    except OSError as error:
        raise NotWrittenError(f"{os.fspath(path)}: not written ({error.strerror or error})") from error


def _replace(target: Path, mode: int | None, content: bytes) -> None:
    # Nobody else can guess the name, and O_EXCL refuses an existing file or link.
    new = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    permissions = NEW_MODE if mode is None else stat.S_IMODE(mode)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), permissions)
    with _remove_on_failure(new):
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)  # some file systems report a full disk only here
        if mode is not None:
            new.chmod(permissions)  # undo the umask
        os.replace(new, target)


@contextlib.contextmanager
def _remove_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def read_json(
    path: str | os.PathLike[str],
    format_name: str,
    make: Callable[[Fields], Result],
    what: str,
    remedy: str = "give another path",
) -> Result:
    """Read a file that ``write_json`` wrote, and return ``make(fields)``.

    Args:
        make: turns the entries into the result; raises a ValueError for a bad one.
        what: name of the result in messages.
        remedy: what the user can do, at the end of messages.
    Raises:
        ValueError: the file holds something else; the message names the entry.
        OSError: the file is missing or cannot be read.
    """
    try:
        data = Fields(json.loads(Path(path).read_text(encoding="utf-8")))
        if data.text("format") != format_name:
            raise ValueError(f"format: got {data.text('format')!r}, not {format_name!r}")
        return make(data.without("format"))
    except RecursionError:
        problem = "it is nested too deeply"
    except IsADirectoryError:
        problem = "it is a folder"
    except ValueError as error:
        problem = str(error)
    raise ValueError(f"path: {os.fspath(path)} does not hold a saved {what} ({problem}); {remedy}")
