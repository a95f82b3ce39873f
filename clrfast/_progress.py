"""Progress reports of long calls: a tqdm bar, or the caller's own function."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, dict[str, float]], None]
"""``progress(done, total, shown)``: steps done, the maximum number of all steps, and named values to show."""

AT_MOST = "{desc}: {n_fmt} steps, at most about {total_fmt} [{elapsed}, {rate_fmt}{postfix}]"
"""Form of the line, in place of a bar, for work that usually ends below its total."""


def show_progress(
    progress: Progress | bool | None, name: str, *, reaches_total: bool = True
) -> contextlib.AbstractContextManager[Progress | None]:
    """Return a context that yields the function to report progress to, or None for no reports.

    Args:
        progress: a function, True for a bar, False or None for nothing. None also logs, once per process, that True
            shows a bar.
        name: label of the bar.
        reaches_total: whether the reports end at their total. If not, the line has no bar and no percentage.
    Raises:
        ValueError: ``progress`` is none of these.
    """
    if progress is None:
        _log_bar_hint()
    if progress is None or progress is False:
        return contextlib.nullcontext()
    if progress is True:
        return progress_bar(name, reaches_total)
    if not callable(progress):
        raise ValueError(f"progress: got {progress!r}; give True for a bar, or progress(done, total, shown)")
    return contextlib.nullcontext(progress)


@functools.cache
def _log_bar_hint() -> None:
    logger.info("progress=True shows a bar while this runs, if tqdm is installed")


@contextlib.contextmanager
def progress_bar(name: str, reaches_total: bool = True) -> Iterator[Progress]:
    """Show a bar on standard error, and yield the function that advances it; without tqdm there is no bar."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda done, total, shown: None
        return
    with tqdm(desc=name, unit="step", leave=False, bar_format=None if reaches_total else AT_MOST) as bar:

        def show(done: int, total: int, shown: dict[str, float]) -> None:
            bar.total = total
            bar.set_postfix({key: f"{value:.3g}" for key, value in shown.items()}, refresh=False)
            bar.update(max(done - bar.n, 0))  # a run that is repeated starts from its first step again

        yield show
