"""The only import of the compiled module ``clrfast._C``."""

from __future__ import annotations

import importlib.util
from types import ModuleType

# First, because clrfast._C looks up the OpenMP pool that torch has loaded.
import torch  # noqa: F401

HOW_TO_BUILD = (
    "install a C++17 compiler (Debian: apt install g++; macOS: xcode-select --install) and install clrfast again: "
    "pip install --force-reinstall --no-deps . in a checkout, or python setup.py build_ext --inplace"
)

_C: ModuleType | None
why_missing: str | None = None
"""Why the compiled module is not here; None if it is."""

try:
    from . import _C  # type: ignore[attr-defined,no-redef]
except ImportError as error:
    _C = None
    built = importlib.util.find_spec(f"{__package__}._C") is not None
    why_missing = f"clrfast._C cannot be imported ({error})" if built else "clrfast._C was not built"


def load() -> ModuleType:
    """The compiled module.

    Raises:
        RuntimeError: it is missing; the message says how to build it.
    """
    if _C is None:
        raise RuntimeError(f"the native backend is missing: {why_missing}; {HOW_TO_BUILD}")
    return _C
