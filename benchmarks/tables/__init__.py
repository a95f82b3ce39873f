"""The tables of the docs: for each file of results a function from its contents to Markdown."""

from __future__ import annotations

from collections.abc import Callable

from .evidence import evidence_table
from .loops import range_test_table, sweep_table, train_table
from .markdown import Results
from .optimizer import gpu_step_table, host_table, schedule_table, step_table
from .policies import headline_table, one_cycle_table, super_convergence_table
from .quality import finder_table
from .race import engine_table, recipe_table
from .targets import UNMEASURED
from .untuned import untuned_table

__all__ = ["TABLES", "UNMEASURED", "Results", "evidence_table"]

TABLES: dict[str, Callable[[Results], str]] = {
    "step_cpu": step_table,
    "one_cycle_digits": one_cycle_table,
    "super_convergence": super_convergence_table,
    "headline_gpu": headline_table,
    "schedule_cpu": schedule_table,
    "host_cpu": host_table,
    "host_gpu": host_table,
    "step_gpu": gpu_step_table,
    "finder_quality": finder_table,
    "untuned_training": untuned_table,
    "recipe_quality": recipe_table,
    "recipe_engine": engine_table,
    "range_test_cpu": range_test_table,
    "range_test_gpu": range_test_table,
    "train_cpu": train_table,
    "train_gpu": train_table,
    "sweep_cpu": sweep_table,
    "sweep_gpu": sweep_table,
}
"""By the name of the result file, which is also the name of the markers in docs/benchmarks.md."""
