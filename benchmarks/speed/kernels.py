"""Device time by kernel, from a profiler's events: why a step is slow."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """A kernel, copy or fill on the device, with its full name; times in microseconds."""

    name: str
    start_us: float
    end_us: float


def by_kernel(events: Iterable[Event], separators: set[str]) -> dict[str, Any]:
    """Return the launches of a step, as medians over several steps.

    Args:
        events: of all steps, in any order.
        separators: full names of the events that separate the steps; they do not count.
    Returns:
        ``launches``, their number; ``kernels``, a dict per function with its ``name``, the ``count`` of its launches
        and their total ``us``; ``gap_us``, the time between launches. Zeros without any step.
    """
    steps: list[list[Event]] = [[]]
    for event in sorted(events, key=lambda event: event.start_us):
        if event.name not in separators:
            steps[-1].append(event)
        elif steps[-1]:
            steps.append([])
    steps = [step for step in steps if step]
    names = dict.fromkeys(function_of(event.name) for step in steps for event in step)
    return {
        "launches": statistics.median_low([*map(len, steps)] or [0]),
        "kernels": [
            {
                "name": name,
                "count": statistics.median_low(len(_of(step, name)) for step in steps),
                "us": round(statistics.median(sum(map(_us, _of(step, name))) for step in steps), 2),
            }
            for name in names
        ],
        "gap_us": round(statistics.median([*map(_gap_us, steps)] or [0.0]), 2),
    }


def function_of(name: str) -> str:
    """Return the bare function of a kernel: ``update_kernel`` for ``void clrfast::update_kernel<float>(...)``."""
    found = re.search(r"(\w+)\s*[<(]", name.replace("(anonymous namespace)::", ""))
    return found[1] if found else name


def _of(step: list[Event], function: str) -> list[Event]:
    return [event for event in step if function_of(event.name) == function]


def _us(event: Event) -> float:
    return event.end_us - event.start_us


def _gap_us(step: list[Event]) -> float:
    return sum(max(after.start_us - before.end_us, 0.0) for before, after in itertools.pairwise(step))
