"""The README's table: one line for each claim, from the results of several benchmarks."""

from __future__ import annotations

from collections.abc import Mapping

from ..result_files import Row
from .markdown import Results, hardware_and_versions, markdown_table


def evidence_table(results: Mapping[str, Results]) -> str:
    """Return the table; ``results`` are the result files by name."""
    rows = [
        _finder_line(results["finder_quality"]),
        _untuned_line(results["untuned_training"]),
        _cost_line(results["range_test_cpu"]),
        _step_line(results["step_cpu"]),
        ["on a GPU", "not measured yet", "", "`bash benchmarks/gpu.sh`"],
    ]
    note = f"Lower is better. {hardware_and_versions(results['finder_quality'])}; other commits in the linked tables."
    return markdown_table(["what", "clrfast", "others", "command"], rows, note)


def _finder_line(results: Results) -> list[str]:
    rows = {
        row["contender"]: row
        for row in results["rows"]
        if (row["benchmark"], row["split"], row["optimizer"]) == ("regret", "test", "sgd")
    }
    names = {
        "fastai minimum": "fastai's best rule",
        "torch-lr-finder": "torch-lr-finder",
        "lightning": "Lightning",
    }
    others = [f"{rows[name]['mean_regret']:.2f} {title}" for name, title in names.items()]
    what = f"regret of the suggested rate, SGD, {rows['clrfast']['n_tasks']} test tasks (0: best rate, 1: no training)"
    return [what, f"{rows['clrfast']['mean_regret']:.2f}", ", ".join(others), "`python -m benchmarks.finder_quality`"]


def _untuned_line(results: Results) -> list[str]:
    rows = {row["contender"]: row for row in results["rows"] if (row["benchmark"], row["split"]) == ("untuned", "test")}
    names = {
        "AdamWScheduleFree 0.01": "Schedule-Free AdamW (rate 0.01)",
        "Prodigy, cosine": "Prodigy",
        "AdamW 0.001, constant": "AdamW (rate 1e-3)",
    }
    others = [f"{rows[name]['mean_score']:.2f} {title}" for name, title in names.items()]
    ours = rows["clrfast AdamW, 1cycle"]
    what = f"loss after training without tuning, {ours['n_tasks']} test tasks (0: best SGD of a grid, 1: no training)"
    clrfast = f"{ours['mean_score']:.2f} with AdamW, after a search that costs {ours['cost'] - 1:.1f} such runs"
    return [what, clrfast, ", ".join(others), "`python -m benchmarks.untuned_training`"]


def _cost_line(results: Results) -> list[str]:
    return [
        "wall time of a ramp relative to a bare training loop",
        _span(results, "clrfast.range_test"),
        ", ".join(f"{_span(results, name)} {name}" for name in ("torch-lr-finder", "fastai", "Lightning")),
        "`pytest benchmarks/speed/bench_range_test.py`",
    ]


def _span(results: Results, contender: str) -> str:
    """Return the lowest and the highest ratio over the models."""
    ratios = [row["over_bare"] for row in results["rows"] if row["contender"] == contender and "over_bare" in row]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _step_line(results: Results) -> list[str]:
    ours, others = [], []
    for rule in ("SGD", "AdamW"):
        rows = [row for row in results["rows"] if (row["model"], row["rule"]) == ("ResNet-56", rule)]
        ours.append(f"{_time(rows, 'clrfast')} {rule}")
        others.append(f"{_time(rows, f'torch.optim.{rule}(fused=True)')} {rule}")
    return [
        "optimizer and schedule step of ResNet-56 on the CPU",
        ", ".join(ours),
        ", ".join(others) + " of torch.optim(fused=True) and OneCycleLR",
        "`pytest benchmarks/speed/bench_step.py`",
    ]


def _time(rows: list[Row], contender: str) -> str:
    (row,) = (row for row in rows if row["contender"].startswith(contender))
    return f"{row['median_us'] / 1000:.2f} ms"
