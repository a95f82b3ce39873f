"""The backend and the device of tests that capture steps."""

from __future__ import annotations

import pytest

from tests.cuda_on_cpu import emulated_graphs

DEVICES = ["emulated", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def backend(request, monkeypatch):
    """Return the optimizer's backend; the default device of the test is one that has graphs."""
    if request.param == "cuda":
        return "cuda"
    emulated_graphs.install(monkeypatch)
    return "torch"
