"""Progress of a long call: to a bar, or to whatever its caller wants to hear it."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, dict[str, float]], None]
"""``progress(done, total, shown)``: steps done of about so many, and what is worth showing beside them."""


def showing(progress: Progress | bool | None, name: str) -> contextlib.AbstractContextManager[Progress | None]:
    """The user's ``progress`` argument as a block that yields whom to tell: nobody, a function, or a bar for True."""
    if progress is None:
        _tell_of_the_bar()
    if progress is None or progress is False:
        return contextlib.nullcontext()
    if progress is True:
        return progress_bar(name)
    if not callable(progress):
        raise ValueError(f"progress: got {progress!r}; give True for a bar, or progress(done, total, shown)")
    return contextlib.nullcontext(progress)


@functools.cache
def _tell_of_the_bar() -> None:
    """Once in a process: whoever waits for a long call learns how to see how far it is."""
    logger.info("progress=True shows a bar while this runs, if tqdm is installed")


@contextlib.contextmanager
def progress_bar(name: str) -> Iterator[Progress]:
    """A bar on standard error, if tqdm is installed: yields a ``Progress``."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda done, total, shown: None
        return
    with tqdm(desc=name, unit="step", leave=False) as bar:

        def show(done: int, total: int, shown: dict[str, float]) -> None:
            bar.total = total
            bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()}, refresh=False)
            bar.update(done - bar.n)

        yield show
