"""Tests of what only a CUDA device can show; `pytest -m gpu` runs them.

That the kernels compute the reference's numbers is tested in tests/optim/test_native_update.py and
tests/cuda_on_cpu/test_kernels.py, whose tests run on a device as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
