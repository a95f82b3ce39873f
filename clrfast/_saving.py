"""Results in files, written whole or not at all; in JSON with the name of their format, and others' are refused."""

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

from ._fields import Fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = TypeVar("Result")

NOT_SAVED = {"saved": False}
"""Metadata of a dataclass's field that ``plain`` leaves out."""

NEW_MODE = 0o666
"""Permissions of a new file, of which the process's umask takes some away."""


class NotWrittenError(OSError):
    """A file could not be written; the message names it, and what was there before is unchanged."""


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
    """Write ``data``, which is plain, as JSON; see ``write_bytes``."""
    write_text(path, json.dumps({"format": format_name, **data}, indent=1) + "\n")


def write_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write a picture in the format that the path's suffix names, PNG without one; see ``write_bytes``."""
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(path).suffix[1:] or "png")
    write_bytes(path, picture.getvalue())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` in UTF-8; see ``write_bytes``."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace the file at ``path``; after an interruption it holds the old content or the new one.

    The content goes into a temporary file in the same folder, which takes the old file's permissions and then its
    place. A link at ``path`` stays, and the file that it leads to is replaced. Devices and pipes are written directly.

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
    # Nobody else can know the name, and O_EXCL takes neither a file that is there nor a link.
    new = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    permissions = NEW_MODE if mode is None else stat.S_IMODE(mode)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), permissions)
    with _removed_on_failure(new):
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)  # some file systems tell only here that the disk is full
        if mode is not None:
            new.chmod(permissions)  # the umask has taken some away
        os.replace(new, target)


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def read(
    path: str | os.PathLike[str],
    format_name: str,
    make: Callable[[Fields], Result],
    what: str,
    remedy: str = "give another path",
) -> Result:
    """What ``make`` makes of the data that ``write`` wrote.

    Raises:
        ValueError: the file holds something else than ``what``; the message names the entry and ends with ``remedy``.
        OSError: there is no such file, or it cannot be read.
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
