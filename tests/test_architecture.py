"""The boundaries of the house: what may import what, and what the public sees."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imported_modules(path: Path) -> set[str]:
    """The dotted names that a file imports, anywhere in it; ``from a import b`` gives ``a`` and ``a.b``."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def test_no_test_module_imports_another():
    """What two of them need stands in tests/helpers or is a fixture of conftest.py."""
    tests = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "tests").rglob("test_*.py")
    }
    assert {name: sorted(imported_modules(path) & tests.keys()) for name, path in tests.items()} == {
        name: [] for name in tests
    }
