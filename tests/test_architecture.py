"""The boundaries of the package: what may import what, and what users see."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.helpers.frameworks import FRAMEWORKS, import_or_skip
from tests.helpers.imports import TOWER, circles, climbing, floor, import_graph, modules

ROOT = Path(__file__).parents[1]
PATHS = modules(ROOT / "clrfast")
GRAPH = import_graph(ROOT / "clrfast")

PUBLIC_MODULES = {
    "clrfast.tasks.cifar10",
    "clrfast.tasks.digits",
    *(f"clrfast.integrations.{name}" for name in FRAMEWORKS),
}
"""Modules that users import besides the packages."""

PUBLIC_NAMES = {
    "clrfast": """
        Adam AdamW BatchSizes Diagnosis History LRCurve MomentumTrials NoSuggestionError NotWrittenError RankError
        RateMonitor Recipe SGD Schedule SettingSuggestion StepControl StepOptions Suggestion SweepResult
        Task Trials WeightDecayTrials __version__ as_lr_scheduler constant diagnose find_batch_size
        find_momentum find_recipe find_weight_decay layer_groups lr_ramp one_cycle range_test schedules
        sweep
    """,
    "clrfast.cli": """
        main
    """,
    "clrfast.finder": """
        LRCurve NoSuggestionError RateMonitor RateRecord Suggestion Trials clr_bounds edge minimum_tenth
        range_test slide steepest valley
    """,
    "clrfast.integrations": """
    """,
    "clrfast.optim": """
        Adam AdamW FusedOptimizer SGD StepControl layer_groups
    """,
    "clrfast.plot": """
        Chosen ValLosses lr_curve lr_curves pair_trials rates schedule setting_trials
    """,
    "clrfast.batch_size": """
        BatchSizes StepCost find_batch_size
    """,
    "clrfast.diagnosis": """
        Diagnosis History diagnose
    """,
    "clrfast.recipe": """
        MomentumTrials PairSuggestion PairTrials Recipe SearchSettings SettingSuggestion SettingTrials Study
        Trial TrialSpec WeightDecayTrials find_momentum find_pair find_recipe find_weight_decay
    """,
    "clrfast.schedules": """
        Clipped Constant Cosine CosineRestarts Curve CurveLike Exponential ExponentialDecay FollowLR
        Function InverseSqrt Joined Linear POLICIES Polynomial QUANTITIES Repeated Scaled Schedule
        ScheduleLR Shifted Stretched Tabulated Triangular as_lr_scheduler constant cosine_annealing
        cosine_restarts exp_range exponential_decay flat_cosine inverse_sqrt lr_ramp one_cycle one_cycle_cos
        one_cycle_fastai one_cycle_linear one_cycle_three_phase polynomial_decay step_decay triangular
        triangular2
    """,
    "clrfast.tasks": """
        BUILT_IN Task TaskError find_maker make_task
    """,
    "clrfast.training": """
        CapturedStep DeviceDataset Score StepOptions SweepResult TrainStep crop_and_flip evaluate prefetch
        steps_per_epoch sweep train
    """,
}
"""All that each package exports."""


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


@pytest.mark.parametrize("package", PUBLIC_NAMES)
def test_a_package_exports_the_names_in_the_table_and_no_others(package):
    module = importlib.import_module(package)
    assert set(module.__all__) == set(PUBLIC_NAMES[package].split())
    assert all(hasattr(module, name) for name in module.__all__)


def test_the_table_of_public_names_has_all_packages():
    packages = {name for name, path in PATHS.items() if path.name == "__init__.py"}
    assert PUBLIC_NAMES.keys() == {name for name in packages if "._" not in name}


@pytest.mark.parametrize("name", [name for name in PATHS if "." in name and name != "clrfast.__main__"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the frameworks
def test_no_attribute_of_a_package_hides_a_module(name):
    module = import_or_skip(name)
    package, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(package), attribute) is module


def test_contributing_names_files_that_exist():
    paths = re.findall(r"`((?:clrfast|csrc|tests|benchmarks|docs)/[\w./]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_no_module_of_the_tests_imports_a_test_module():
    """What two of them need is in tests/helpers or a fixture of conftest.py."""
    graph = import_graph(ROOT / "tests")
    arrows = [(name, other) for name, others in graph.items() for other in others]
    assert [(name, other) for name, other in arrows if other.rpartition(".")[2].startswith("test_")] == []
