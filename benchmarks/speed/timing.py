"""Interleaved timing and its statistics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

Key = TypeVar("Key", bound=Hashable)


def wall_seconds(call: Callable[[], Any]) -> float:
    """Return the seconds of one call by the host's clock."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def finished_seconds(call: Callable[[], Any]) -> float:
    """Return the seconds of one call, including the work that it queues on a CUDA device."""

    def finish() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return wall_seconds(finish)


def interleaved(
    contenders: Mapping[Key, Callable[[], Any]],
    rounds: int,
    warm_up: int = 5,
    *,
    timer: Callable[[Callable[[], Any]], float] = wall_seconds,
    limit_s: float = math.inf,
) -> dict[Key, np.ndarray]:
    """Time every contender ``rounds`` times, in turns.

    Every round calls every contender once, in a new random order. A noisy moment then hits all of them alike, and none
    always finds the caches as the same neighbour left them.

    Args:
        warm_up: untimed rounds before the first timed one.
        timer: returns the seconds of one call.
        limit_s: seconds after which no further round begins.
    Returns:
        seconds by contender, ``[rounds]`` each; fewer rounds if ``limit_s`` ended them.
    """
    rng = np.random.default_rng(0)
    names = list(contenders)
    seconds: dict[Key, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + limit_s
    for round_ in range(warm_up + rounds):
        if round_ > warm_up and time.perf_counter() > end:
            break
        for index in rng.permutation(len(names)):
            elapsed = timer(contenders[names[index]])
            if round_ >= warm_up:
                seconds[names[index]].append(elapsed)
    return {name: np.array(values) for name, values in seconds.items()}


def statistics(seconds: np.ndarray) -> dict[str, Any]:
    """Return median and quartiles in microseconds, and n."""
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75]) * 1e6
    return {"median_us": round(median, 1), "q25_us": round(low, 1), "q75_us": round(high, 1), "n": len(seconds)}


def ratios(seconds: np.ndarray, others: np.ndarray, name: str) -> dict[str, float]:
    """Return median and quartiles of ``seconds / others``, round by round, as ``name``, ``name_q25``, ``name_q75``."""
    low, median, high = np.quantile(seconds / others, [0.25, 0.5, 0.75])
    return {name: round(median, 3), f"{name}_q25": round(low, 3), f"{name}_q75": round(high, 3)}
