"""The package as a whole: what importing it costs and brings, and what its docstrings claim."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import clrfast
from tests.helpers.frameworks import import_or_skip

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(clrfast.__path__, "clrfast.")
    if not module.name.endswith(("__main__", "._C"))
)


def test_import_loads_no_optional_library():
    code = "import sys, torch; before = set(sys.modules); from clrfast import *; print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "clrfast.optim._sgd" in loaded
    assert not [name for name in loaded if name.split(".")[0] in ("matplotlib", "sklearn", "tqdm", "pandas", "scipy")]


def test_packages_are_attributes_without_an_explicit_import():
    code = "import clrfast; print(clrfast.recipe.find_pair.__name__, clrfast.plot.__name__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "find_pair clrfast.plot\n"
    with pytest.raises(AttributeError, match="module 'clrfast' has no attribute 'nothing'"):
        clrfast.nothing  # noqa: B018


def test_completion_offers_the_public_names_alone():
    packages = {name.rpartition(".")[2] for name in MODULES if name.count(".") == 1 and "._" not in name}
    assert {name for name in dir(clrfast) if name[0] != "_"} == {*clrfast.__all__} - {"__version__"} | packages
    for package in packages:
        module = importlib.import_module(f"clrfast.{package}")
        modules = {name for name in dir(module) if f"clrfast.{package}.{name}" in MODULES}
        assert {name for name in dir(module) if name[0] != "_"} - modules == {*module.__all__}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring_and_its_examples_hold(name):
    module = import_or_skip(name)
    assert module.__doc__
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", clrfast.__all__)
def test_every_public_name_exists_and_has_a_docstring(name):
    value = getattr(clrfast, name)
    assert isinstance(value, str) or value.__doc__
