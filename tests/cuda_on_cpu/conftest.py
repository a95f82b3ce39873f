"""Fixtures of the tests that run the CUDA kernels on the CPU."""

from __future__ import annotations

import pytest

from clrfast.optim import _capture as capture
from clrfast.optim._backends import cuda


@pytest.fixture
def emulation(request):
    """What only the emulation shows and decides."""
    if "gpu" in request.keywords:
        pytest.skip("of the emulation")
    controls = request.getfixturevalue("emulated")[1]
    controls.launches()
    yield controls
    controls.ascending(False)
    controls.capturing(False)


@pytest.fixture(params=[True, False], ids=["merged", "two launches"])
def merged(request, monkeypatch):
    """Whether an update launch of any size advances the schedule itself."""
    monkeypatch.setattr(cuda, "MAX_MERGED_CHUNKS", 2**31 if request.param else 0)
    return request.param


@pytest.fixture
def capturing(emulation, monkeypatch):
    monkeypatch.setattr(capture, "is_capturing", lambda devices: True)
    emulation.capturing(True)
