"""The benchmarks are a tower as clrfast is: each floor imports only those below it."""

from pathlib import Path

import benchmarks
from tests.helpers.imports import circles, import_graph

FLOORS = [
    {"environment"},
    {"result_files", "peer_packages", "intervals"},
    {"tables", "task_library"},
    {"oracle"},
    {"quality_command"},
    {"finder_quality", "recipe_quality", "policy_quality"},
    {"speed", "untuned_training"},
    {"report"},
]
GRAPH = import_graph(Path(benchmarks.__file__).parent)


def part(module):
    """The package or module right below ``benchmarks`` that a module belongs to."""
    return [*module.split("."), ""][1]


def test_every_module_stands_on_a_floor():
    assert {part(module) for module in GRAPH} - {""} == set.union(*FLOORS)


def test_no_import_climbs():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    climbing = [
        (module, other)
        for module, others in GRAPH.items()
        for other in others
        if part(other) and part(module) != part(other) and floor[part(module)] <= floor[part(other)]
    ]
    assert climbing == []


def test_no_modules_import_each_other_in_a_circle():
    assert list(circles(GRAPH)) == []
