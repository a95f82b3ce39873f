"""The CUDA backend without a GPU: tests that are parametrised with backend "cuda" run its kernels on the CPU."""

from __future__ import annotations

from types import ModuleType

import pytest

from .cuda_on_cpu import build


@pytest.fixture(scope="session")
def emulated(pytestconfig: pytest.Config) -> tuple[ModuleType, ModuleType]:
    """The native module with the kernels on the CPU, and the emulation's controls."""
    if build.COMPILER is None:
        pytest.skip("no C++ compiler")
    return build.build(pytestconfig.cache.mkdir("cuda_on_cpu"))


@pytest.fixture(autouse=True)
def _backend_is_there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the emulated kernels under backend "cuda", where the test asks for it."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("backend") == "cuda" and "gpu" not in request.keywords:
        build.install(request.getfixturevalue("emulated")[0], monkeypatch)
