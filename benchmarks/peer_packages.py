"""Other packages that benchmarks compare with: whether they are installed, their versions, how to silence them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Iterator


def why_missing(modules: tuple[str, ...]) -> str:
    """Return why one of ``modules`` cannot be imported, or an empty string."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        return f"not installed: {error.name}"
    return ""


@functools.cache
def name_and_version(module: str) -> str:
    """Return the package that ``module`` is installed from, with its version, as in "scikit-learn 1.9.1"."""
    (distribution,) = set(importlib.metadata.packages_distributions()[module])
    return f"{distribution} {importlib.metadata.version(distribution)}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress prints, logs and warnings in the block."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
