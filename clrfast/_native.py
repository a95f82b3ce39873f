"""The one place that imports the compiled module ``clrfast._C``, and says why it is missing."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

# Before clrfast._C, which uses the OpenMP threads of torch.
import torch  # noqa: F401

HOW_TO_BUILD = (
    "install a C++17 compiler (Debian: apt install g++; macOS: xcode-select --install) and install clrfast again: "
    "pip install --force-reinstall --no-deps . in a checkout, or python setup.py build_ext --inplace"
)

HERE = Path(__file__).resolve().parent


def hidden_build() -> Path | None:
    """Return the folder of another clrfast on ``sys.path`` that has the compiled module; None if there is none.

    ``python -m``, pytest and torchrun import the checkout that they are started in, which hides the one that
    ``pip install .`` has built.
    """
    for entry in sys.path:
        folder = Path(entry).resolve() / "clrfast"
        if folder != HERE and any((folder / f"_C{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
            return folder
    return None


_C: ModuleType | None
why_missing: str | None = None
"""The reason why the compiled module is missing; None if it is there."""

try:
    from . import _C  # type: ignore[attr-defined,no-redef]
except ImportError as error:
    _C = None
    built = importlib.util.find_spec(f"{__package__}._C") is not None
    why_missing = f"clrfast._C cannot be imported ({error})" if built else "clrfast._C was not built"
    hidden = hidden_build()
    if hidden is not None and not built:
        why_missing = f"this clrfast, in {HERE}, was not built, and it hides the one in {hidden}, which was"
        HOW_TO_BUILD = "start Python in another folder, or build the checkout, too: pip install -e ."


def load() -> ModuleType:
    """Return the compiled module.

    Raises:
        RuntimeError: it is missing; the message says how to build it.
    """
    if _C is None:
        raise RuntimeError(f"the native backend is missing: {why_missing}; {HOW_TO_BUILD}")
    return _C
