"""Where tests of CUDA run, and fixtures that several packages use.

Backend "cuda" runs on the device in tests marked ``gpu``; in all others its kernels run on the CPU, see cuda_on_cpu/.
Tests marked ``gpu`` are skipped where there is no device. With CLRFAST_EMULATE_CUDA=1 they run there on an emulated one
(cuda_on_cpu/emulated_device.py), except those marked ``hardware``.
"""

from __future__ import annotations

import gc
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import clrfast
from clrfast import _native
from tests.cuda_on_cpu import build
from tests.cuda_on_cpu.emulated_device import cuda_by_default
from tests.helpers.default_device import default_device
from tests.helpers.optimizers import NO_NATIVE
from tests.helpers.task_modules import OWN_TASK, SOURCES

EMULATED = os.environ.get("CLRFAST_EMULATE_CUDA") == "1" and not torch.cuda.is_available()


def pytest_configure(config: pytest.Config) -> None:
    if _native.why_missing is not None:
        config.addinivalue_line("filterwarnings", f"ignore:{NO_NATIVE}")


def pytest_collection_finish() -> None:
    """Keep imported modules out of garbage collections: `find_batch_size` makes many, of 0.1 s each."""
    gc.collect()
    gc.freeze()


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
        if EMULATED:
            if request.node.get_closest_marker("hardware") is not None:
                pytest.skip("shows what only a device can")
            request.getfixturevalue("one_thread")
            with cuda_by_default(monkeypatch):
                yield
            return
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        with default_device("cuda:0"):
            yield
        return
    # The emulated module holds the CPU's loops as well; watched by sanitizers, it stands in for them.
    watched = ("cuda", "cpp") if build.SANITIZED else ("cuda",)
    if callspec is not None and callspec.params.get("backend") in watched:
        build.install(request.getfixturevalue("emulated")[0], monkeypatch)
    yield


@pytest.fixture
def one_thread():
    """Run torch on one thread: in such small problems more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def sgd_updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one entry with each update of any clrfast.SGD."""
    updates: list[int] = []
    real = clrfast.SGD.step
    monkeypatch.setattr(clrfast.SGD, "step", lambda *args, **options: updates.append(0) or real(*args, **options))
    return updates


@pytest.fixture
def task_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with modules that hold tasks: good.py, broken.py and needs.py."""
    for name, source in SOURCES.items():
        (tmp_path / name).write_text(textwrap.dedent(source))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    yield tmp_path
    for name in SOURCES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.fixture
def own_task(task_modules: Path) -> Iterator[Path]:
    """The working folder, with a task that has validation data: ``own:make_task``."""
    (task_modules / "own.py").write_text(textwrap.dedent(OWN_TASK))
    yield task_modules
    sys.modules.pop("own", None)
