"""The import rule: each package knows only those below it, and no modules import each other in a circle.

Read from the source, so that imports inside functions and under TYPE_CHECKING count. Needs nothing but Python:
``python tests/helpers/imports.py`` prints each import that breaks the rule.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "clrfast"

TOWER = (
    ("base",),
    ("plot", "tasks"),
    ("schedules",),
    ("optim",),
    ("training",),
    ("finder",),
    ("batch_size", "diagnosis"),
    ("recipe",),
    ("integrations",),
    ("cli",),
    ("top",),
)
"""The floors, from the ground up. The base is the modules clrfast/_*.py; the top is __init__.py and __main__.py."""

LEAVES = ("plot",)
"""Packages that import nothing else of clrfast, not even the base."""

COMPILED = ("clrfast._C",)
"""Modules that are no Python files."""

Imports = dict[str, set[str]]


def modules(folder: Path) -> dict[str, Path]:
    """Return the files of a package, by the dotted name of their module."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def import_graph(folder: Path) -> Imports:
    """Return for each module of a package the others of it that it imports.

    ``from package import name`` is an import of ``package.name`` where that is a module, else of ``package``.
    """
    paths = modules(folder)
    known = {*paths, *COMPILED}
    return {name: {other for other in _imported(name, path, known) if other in paths} for name, path in paths.items()}


def _imported(name: str, path: Path, known: set[str]) -> Iterator[str]:
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in known else module


def floor(module: str) -> str:
    """The name of the floor in TOWER on which a module stands."""
    _, *parts = module.split(".")
    if not parts or parts == ["__main__"]:
        return "top"
    return "base" if parts[0].startswith("_") else parts[0]


def climbing(graph: Imports) -> Iterator[tuple[str, str]]:
    """Yield each import of a module that does not stand on a lower floor or in the same package."""
    heights = {name: height for height, names in enumerate(TOWER) for name in names}
    for name, others in graph.items():
        for other in sorted(others):
            here, there = floor(name), floor(other)
            if here != there and (here in LEAVES or heights[there] >= heights[here]):
                yield name, other


def circles(graph: Imports) -> Iterator[list[str]]:
    """Yield circles of modules, each imported by the next one, the first again as the last.

    After each circle its first import is taken as removed, so a circle that shares it with another is not found.
    """
    left = {name: set(others) for name, others in graph.items()}
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle = error.args[1]
            yield circle
            left[circle[1]].discard(circle[0])
        else:
            return


def main() -> int:
    """Print what breaks the rule; return the exit code."""
    graph = import_graph(ROOT / PACKAGE)
    broken = [f"{name} imports {other}, which is not below it" for name, other in climbing(graph)]
    broken += [f"a circle, each imported by the next: {', '.join(circle)}" for circle in circles(graph)]
    for line in broken:
        print(line)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
