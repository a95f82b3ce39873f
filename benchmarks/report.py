"""Render benchmarks/results/*.json into the README, between its markers; the only writer of figures there.

python -m benchmarks.report          writes
python -m benchmarks.report --check  fails if the README's tables are not those of the results
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from typing import Any

from .measure import RESULTS, ROOT

Results = dict[str, Any]


def step_table(results: Results) -> str:
    """Optimizer step: a table over models, contenders down."""
    ours = [row for row in results["rows"] if row["contender"].startswith("clrfast")]
    own = {row["model"]: row["median_us"] for row in ours}
    lines = ["| one step | median | quartiles | clrfast is faster by |", "|---|---|---|---|"]
    for row in results["rows"]:
        ratio = row["median_us"] / own[row["model"]]
        factor = "" if row in ours else f"{ratio:.1f}x"
        name = f"{row['model']} ({row['size']}): `{row['contender']}`"
        quartiles = f"{row['q25_us']:,.0f} to {row['q75_us']:,.0f} us"
        lines.append(f"| {name} | {row['median_us']:,.0f} us | {quartiles} | {factor} |")
    n = " and ".join(f"{row['n']}" for row in ours)
    return "\n".join([*lines, "", f"{_where(results)}; n = {n} interleaved rounds. `pytest benchmarks/bench_step.py`"])


def one_cycle_table(results: Results) -> str:
    """1cycle on digits: runs down, epochs across."""
    rows = results["rows"]
    epochs = sorted({row["epochs"] for row in rows})
    lines = [
        "| validation accuracy, mean (worst seed) | " + " | ".join(f"{e} epochs" for e in epochs) + " |",
        "|---|" + "---|" * len(epochs),
    ]
    for run in dict.fromkeys(row["run"] for row in rows):
        cells = {row["epochs"]: row for row in rows if row["run"] == run}
        values = [f"{100 * cells[e]['accuracy_mean']:.2f} % ({100 * cells[e]['accuracy_min']:.1f})" for e in epochs]
        lines.append(f"| {run} | " + " | ".join(values) + " |")
    low, high = min(rows[0]["suggested"]), max(rows[0]["suggested"])
    note = f"n = {rows[0]['n']} seeds, suggested rates {low:.2f} to {high:.2f}; {_where(results)}."
    return "\n".join([*lines, "", f"{note} `python -m benchmarks.one_cycle_digits`"])


def schedule_table(results: Results) -> str:
    """Schedules on the host: a row each."""
    lines = ["| on the host | median | quartiles |", "|---|---|---|"]
    for row in results["rows"]:
        name = f"`{row['contender']}`, {row['total_steps']:,} steps"
        lines.append(f"| {name} | {row['median_us']:,.1f} us | {row['q25_us']:,.1f} to {row['q75_us']:,.1f} us |")
    n = " and ".join(dict.fromkeys(str(row["n"]) for row in results["rows"]))
    return "\n".join([*lines, "", f"{_where(results)}; n = {n}. `pytest benchmarks/bench_schedule.py`"])


def _where(results: Results) -> str:
    e = results["environment"]
    return f"{e['cpu']}, {e['cores']} cores, torch {e['torch']}, commit {e['commit']}"


TABLES: dict[str, Callable[[Results], str]] = {
    "step_cpu": step_table,
    "one_cycle_digits": one_cycle_table,
    "schedule_cpu": schedule_table,
}


def rendered(readme: str) -> str:
    """``readme`` with every table anew."""
    for name, table in TABLES.items():
        text = table(json.loads((RESULTS / f"{name}.json").read_text()))
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        readme, count = re.subn(
            f"{begin}.*?{end}", lambda _, t=text, b=begin, e=end: f"{b}\n{t}\n{e}", readme, flags=re.DOTALL
        )
        if count != 1:
            raise SystemExit(f"README.md: wanted the markers {begin} and {end} once, found them {count} times")
    return readme


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail instead of writing")
    path = ROOT / "README.md"
    before = path.read_text()
    after = rendered(before)
    if not parser.parse_args().check:
        path.write_text(after)
    elif after != before:
        raise SystemExit("README.md: its tables are not those of benchmarks/results; run python -m benchmarks.report")


if __name__ == "__main__":
    main()
