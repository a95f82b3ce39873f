"""Fixtures of the finder's tests."""

from __future__ import annotations

from typing import Any

import pytest

import clrfast


@pytest.fixture
def host_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that counts every update as made until it synchronizes, as with a CUDA device."""
    advance = clrfast.StepControl.advance

    def counted(control: clrfast.StepControl, *arguments: Any) -> None:
        before = control.host_step
        advance(control, *arguments)
        control.host_step = before + 1

    monkeypatch.setattr(clrfast.StepControl, "advance", counted)
