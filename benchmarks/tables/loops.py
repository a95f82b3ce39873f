"""Tables of whole loops: range tests, 1cycle runs and sweeps."""

from __future__ import annotations

from ..result_files import Row
from .markdown import Results, hardware_and_versions, markdown_table, ratio


def range_test_table(results: Results) -> str:
    """Return the table of range tests of the same steps, each as a multiple of a bare loop."""
    return _ratio_table(results, "wall time relative to a bare loop", "over_bare", "bench_range_test")


def train_table(results: Results) -> str:
    """Return the table of 1cycle runs: how much faster each is than a usual loop in stock torch."""
    return _ratio_table(results, "times as fast as the first row", "faster_by", "bench_train")


def _ratio_table(results: Results, title: str, name: str, benchmark: str) -> str:
    """Return a table of the ratio ``name``: contenders down, models across."""
    models = list(dict.fromkeys(row["model"] for row in results["rows"]))
    contenders = dict.fromkeys(row["contender"] for row in results["rows"])
    found = {(row["contender"], row["model"]): row for row in results["rows"]}
    rows = [[each, *(ratio(found.get((each, model)), name) for model in models)] for each in contenders]
    where = hardware_and_versions(results)
    note = f"{_rounds(results)}, each from a fresh model. {where}. `pytest benchmarks/speed/{benchmark}.py`"
    return markdown_table([title, *models], rows, note)


def _rounds(results: Results) -> str:
    """Return a sentence on the numbers of steps and rounds."""
    measured = [row for row in results["rows"] if "missing" not in row]
    by_steps: dict[int, list[Row]] = {}
    for row in measured:
        by_steps.setdefault(row["steps"], []).append(row)
    parts = [
        f"{steps} steps, n >= {min(row['n'] for row in rows)}: {', '.join(dict.fromkeys(row['model'] for row in rows))}"
        for steps, rows in by_steps.items()
    ]
    return f"Median (quartiles) over n interleaved rounds ({'; '.join(parts)}), at the same steps on the same data"


def sweep_table(results: Results) -> str:
    """Return the table of K copies in one job: models and numbers of copies down."""
    found = {(row["model"], row["copies"], row["contender"]): row for row in results["rows"]}
    rows = [
        [
            f"{model}: {copies} {'copy' if copies == 1 else 'copies'}",
            *(ratio(found.get((model, copies, contender)), "faster_by") for contender in ("together", "auto")),
        ]
        for model, copies in dict.fromkeys((model, copies) for model, copies, _ in found)
    ]
    n, steps = min(row["n"] for row in results["rows"]), {row["steps"] for row in results["rows"]}
    note = (
        f"Median (quartiles) over n >= {n} interleaved rounds; range tests for as many weight decays, {min(steps)} to "
        f"{max(steps)} steps each. {hardware_and_versions(results)}. `pytest benchmarks/speed/bench_sweep.py`"
    )
    return markdown_table(["times as fast as one by one", "together", 'what "auto" takes'], rows, note)
