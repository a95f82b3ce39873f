"""Modules of ``clrfast.integrations`` need the framework that they adapt, which need not be installed."""

from __future__ import annotations

import warnings
from importlib import import_module
from types import ModuleType

import pytest

FRAMEWORKS = frozenset({"accelerate", "fastai", "lightning", "transformers"})


def import_or_skip(name: str) -> ModuleType:
    """Import a module; skip the test if it needs a framework that is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the frameworks
            return import_module(name)
    except ModuleNotFoundError as error:
        if name.startswith("clrfast.integrations.") and error.name in FRAMEWORKS:
            pytest.skip(f"{error.name} is not installed")
        raise
