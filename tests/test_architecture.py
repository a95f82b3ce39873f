"""The boundaries of the package: what may import what, and what users see."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.helpers.imports import TOWER, circles, climbing, floor, import_graph, modules

ROOT = Path(__file__).parents[1]
PATHS = modules(ROOT / "clrfast")
GRAPH = import_graph(ROOT / "clrfast")

PUBLIC_MODULES = {"clrfast.tasks.cifar10", "clrfast.tasks.digits"}
"""Modules that users import beside the packages."""


def test_every_module_stands_on_a_floor():
    assert {floor(name) for name in PATHS} <= {name for names in TOWER for name in names}


def test_no_import_climbs():
    assert list(climbing(GRAPH)) == []


def test_no_modules_import_each_other_in_a_circle():
    assert list(circles(GRAPH)) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from ..finder import LRCurve", "clrfast.finder"),
        ("from clrfast.finder import _curve", "clrfast.finder._curve"),
        ("import clrfast.finder._curve", "clrfast.finder._curve"),
        ("def late():\n    from ..finder._curve import LRCurve", "clrfast.finder._curve"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import clrfast.finder", "clrfast.finder"),
    ],
)
def test_every_form_of_import_is_seen(tmp_path, source, name):
    folder = tmp_path / "clrfast"
    for file in ("__init__.py", "optim/__init__.py", "finder/__init__.py", "finder/_curve.py"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    (folder / "optim" / "_sgd.py").write_text(source)
    (folder / "finder" / "_curve.py").write_text("from ..optim import _sgd")
    (folder / "finder" / "__init__.py").write_text("from ._curve import LRCurve")
    graph = import_graph(folder)
    assert graph["clrfast.optim._sgd"] == {name}
    assert list(climbing(graph)) == [("clrfast.optim._sgd", name)]
    assert any({"clrfast.optim._sgd", "clrfast.finder._curve"} <= set(circle) for circle in circles(graph))


def test_modules_that_users_do_not_import_begin_with_an_underscore():
    packages = {f"clrfast.{name}" for names in TOWER for name in names} - {"clrfast.base", "clrfast.top"}
    public = {name for name in PATHS if not any(part.startswith("_") for part in name.split("."))}
    assert public - {"clrfast"} == packages | PUBLIC_MODULES


@pytest.mark.parametrize("name", [name for name in PATHS if "." in name and name != "clrfast.__main__"])
def test_no_attribute_of_a_package_hides_a_module(name):
    module = importlib.import_module(name)
    package, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(package), attribute) is module


def test_no_module_of_the_tests_imports_a_test_module():
    """What two of them need is in tests/helpers or a fixture of conftest.py."""
    graph = import_graph(ROOT / "tests")
    arrows = [(name, other) for name, others in graph.items() for other in others]
    assert [(name, other) for name, other in arrows if other.rpartition(".")[2].startswith("test_")] == []
