"""Builds the native module with csrc/cuda/*.cu compiled for the CPU, and puts it under backend "cuda"."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pybind11
import pytest
import torch
from filelock import FileLock

from clrfast import _native, _torch_compat
from clrfast.optim._backends import cuda

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SOURCES = [
    *sorted(ROOT.glob("csrc/cuda/*.cu")),
    *(ROOT / "csrc" / name for name in ("cpu/update.cpp", "bindings.cpp")),
    HERE / "controls.cpp",
]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))

FLAGS = [
    *("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
    # Memory is read as another type than the one that other code has written.
    "-fno-strict-aliasing",
    '-DCLRFAST_CUDA="emulated"',
    *(f"-I{path}" for path in (HERE / "include", ROOT / "csrc")),
    *(f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))),
]
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SANITIZED = os.environ.get("CLRFAST_SANITIZE") == "1"  # needs the sanitizers' libraries to be preloaded


def build(folder: Path, cudart_version: int = 13000) -> tuple[ModuleType, ModuleType]:
    """Return the module that replaces ``clrfast._C`` and the controls of the emulation; build only what has changed."""
    target = library(folder, "emulated", SOURCES, f"-DEMULATED_CUDART_VERSION={cudart_version}")
    return loaded("_C", target), loaded("_emulation", target)


def library(folder: Path, name: str, sources: Sequence[Path], *more_flags: str) -> Path:
    """Return the library of ``sources`` in ``folder``; build it only if they or the headers have changed."""
    flags = [*FLAGS, *more_flags]
    headers = [path for start in (ROOT / "csrc", HERE, *{s.parent for s in sources}) for path in start.glob("**/*.h")]
    text = "".join(path.read_text() for path in [*sources, *sorted(headers)]) + f"{flags} {SANITIZED} {pybind11}"
    target = folder / f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    with FileLock(target.with_suffix(".lock")):  # workers of pytest-xdist share the folder
        if not target.exists():
            objects = [target.with_name(f"{target.stem}_{source.parent.name}_{source.stem}.o") for source in sources]
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda source, to: compiled("-c", *flags, "-xc++", source, to=to), sources, objects))
            compiled("-shared", *objects, to=target)
            for path in objects:
                path.unlink()
    return target


def compiled(*arguments: str | Path, to: Path) -> None:
    """Run the compiler; ``to`` is its output."""
    # The bindings compile slowly with sanitizers, and the memory accesses to check are in the other sources.
    sanitize = SANITIZE if SANITIZED and not to.stem.endswith(("bindings", "controls", "variants")) else []
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [str(COMPILER), *sanitize, *map(str, arguments), "-o", str(to)]
    made = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert made.returncode == 0, made.stderr


def loaded(name: str, path: Path) -> ModuleType:
    """Import the module ``name`` of a library."""
    # pybind11 makes a module only once per name, so each build has a prefix.
    spec = importlib.util.spec_from_file_location(f"{path.stem}.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def install(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have backend "cuda" run ``module`` on tensors in the CPU's memory."""
    if _torch_compat.EXCHANGE_API is not None:
        module.set_exchange_api_(torch.Tensor, _torch_compat.EXCHANGE_API)
    monkeypatch.setattr(_native, "_C", module)
    monkeypatch.setattr(_native, "why_missing", None)
    monkeypatch.setattr(cuda, "why_not", lambda device: None if device.type == "cpu" else "not emulated")
    module.load_cuda()
    monkeypatch.setattr(cuda, "_stream_handle", lambda device: 0)
    monkeypatch.setattr(cuda, "_device_guard", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(cuda.CudaUpdate, "device_type", 1)
