"""Where backend "cuda" runs (on a CUDA device in tests marked ``gpu``, else its kernels run on the CPU), and on how
many threads."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from .cuda_on_cpu import build


@pytest.fixture(scope="session")
def emulated(pytestconfig: pytest.Config) -> tuple[ModuleType, ModuleType]:
    """The native module with the kernels on the CPU, and the emulation's controls."""
    if build.COMPILER is None:
        pytest.skip("no C++ compiler")
    return build.build(pytestconfig.cache.mkdir("cuda_on_cpu"))


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    callspec = getattr(request.node, "callspec", None)
    if request.node.get_closest_marker("gpu") is not None:
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        torch.set_default_device("cuda:0")
        yield
        torch.set_default_device(None)
        return
    # The emulated module holds the CPU's loops as well; watched by sanitizers, it stands in for them.
    watched = ("cuda", "cpp") if build.SANITIZED else ("cuda",)
    if callspec is not None and callspec.params.get("backend") in watched:
        build.install(request.getfixturevalue("emulated")[0], monkeypatch)
    yield


@pytest.fixture
def one_thread():
    """For so little work more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
