"""Curves of a range test, made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from clrfast import LRCurve
from clrfast.finder._divergence import find_divergence
from clrfast.finder._smoothing import Floats

RATES = np.geomspace(1e-7, 10, 100)
"""The rates of the hand-made losses below."""


def make_curve(**changes: Any) -> LRCurve:
    """A curve of seven rates whose loss falls, then diverges; ``changes`` replace its fields."""
    lr = np.geomspace(1e-3, 1.0, 7)
    loss = np.array([2.0, 1.9, 1.5, 1.0, 0.9, 3.0, 8.0])
    fields = {"lr": lr, "loss": loss, "initial_loss": 2.0, "stopped": "diverged", "stop_reason": "diverged at 1"}
    return LRCurve(**{**fields, **changes})


def descent(at: float, depth: float = 1.0, start: float = 2.0) -> Floats:
    """A loss that falls from ``start`` by ``depth`` around the rate ``at``, over about a factor of ten."""
    return start - depth / (1 + (at / RATES) ** 2)


def explosion(at: float) -> Floats:
    """A loss that climbs by one at the rate ``at``, and by four powers of ten over the next factor of ten."""
    return (RATES / at) ** 4


def noisy(loss: Floats, size: float, seed: int = 0) -> Floats:
    """``loss`` with Gaussian noise of standard deviation ``size``."""
    return loss + size * np.random.default_rng(seed).normal(size=len(loss))


def stopped_curve(loss: Floats, start: float = 2.0) -> LRCurve:
    """The curve of ``loss`` over ``RATES`` as a range test would record it: cut where it has diverged."""
    index, _ = find_divergence(np.concatenate(([start], loss)))
    n = len(loss) if index is None else index
    kind = "completed" if index is None else "diverged" if math.isfinite(loss[n - 1]) else "non-finite"
    return LRCurve(RATES[:n], loss[:n], start, kind, "made by hand")


CLEAN = descent(1e-2) + explosion(1.0)
"""A loss without noise that falls around 0.01 and diverges at 1."""
