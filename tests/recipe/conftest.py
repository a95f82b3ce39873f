"""Fixtures of the recipe's tests."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from clrfast.recipe import _search, _stages


class StageCalls(list[tuple[str, dict[str, Any]]]):
    """Calls of the functions that measure, in their order: the name and the keyword arguments of each."""

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self]


@pytest.fixture
def stage_calls(monkeypatch: pytest.MonkeyPatch) -> StageCalls:
    """A record of what a search measures from now on."""
    calls = StageCalls()

    def recorded(name, real, *args, **options):
        calls.append((name, options))
        return real(*args, **options)

    for name in ("range_test", "find_batch_size", "find_pair", "find_weight_decay", "find_momentum"):
        module = _search if name == "range_test" else _stages
        monkeypatch.setattr(module, name, partial(recorded, name, getattr(module, name)))
    return calls
