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


def gpu_step_table(results: Results) -> str:
    """Optimizer step on a GPU: models and dtypes, contenders down; eager and in a CUDA graph side by side."""
    steps = [row for row in results["rows"] if row["benchmark"] == "step_gpu"]
    found = {(row["model"], row["dtype"], row["contender"], row["captured"]): row for row in steps}
    eager = [row for row in steps if not row["captured"]]
    own = {(row["model"], row["dtype"]): row for row in eager if row["contender"].startswith("clrfast")}
    lines = [
        "| one step | device time | quartiles | in a graph | clrfast is faster by | of copy bandwidth | launches "
        "| host time | in a graph |",
        "|" + "---|" * 9,
    ]
    for row in eager:
        case = row["model"], row["dtype"]
        replay = found[(*case, row["contender"], True)]
        ratio = row["device_median_us"] / own[case]["device_median_us"]
        cells = [
            f"{row['model']}, {row['dtype']} ({row['size']}): `{row['contender']}`",
            f"{row['device_median_us']:,.1f} us",
            f"{row['device_q25_us']:,.1f} to {row['device_q75_us']:,.1f} us",
            f"{replay['device_median_us']:,.1f} us",
            "" if row is own[case] else f"{ratio:.2f}x",
            f"{100 * row['of_copy']:.0f} %",
            str(row.get("launches", "")),  # counted at the end of a run
            f"{row['host_median_us']:,.1f} us",
            f"{replay['host_median_us']:,.1f} us",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    copies = {row["bytes"]: row["median_us"] for row in results["rows"] if row["benchmark"] == "copy_gpu"}
    speed = max(n_bytes / us for n_bytes, us in copies.items()) / 1e6
    e = results["environment"]
    gpu = f"{e['gpu']}, driver {e['driver']}, CUDA {e['cuda']}" if "gpu" in e else "no GPU: a dry run"
    low, high = (pick(row["device_n"] for row in steps) for pick in (min, max))
    note = (
        f"{_where(results, gpu)}; n = {low} to {high} interleaved rounds. A copy on the device moves {speed:.2f} TB/s, "
        f"read and written; of a device time, {copies[0]:.1f} us are the measurement's own. `bash benchmarks/gpu.sh`"
    )
    return "\n".join([*lines, "", note])


def regret_table(results: Results) -> str:
    """Finders by the training that follows: a row each, over all tasks, and the means over those not chosen on."""
    rows = [row for row in results["rows"] if row["benchmark"] == "regret"]
    mean_regrets = {(row["tasks"], row["contender"]): row["mean_regret"] for row in rows}
    measured = {row["tasks"] for row in rows}
    heads = {"HELD_OUT": "held-out half", "FRESH": "fresh tasks"}
    parts = [tasks for tasks in heads if tasks in measured]
    chosen = sorted((row for row in rows if row["tasks"] == "all"), key=lambda row: row["mean_regret"])
    columns = ["rate from", "mean regret", *(heads[tasks] for tasks in parts), "median", "worst task"]
    columns += ["divergent", "no answer", "spread", "steps"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in chosen:
        cells = [
            row["contender"],
            f"{row['mean_regret']:.2f}",
            *(f"{mean_regrets[tasks, row['contender']]:.2f}" for tasks in parts),
            f"{row['median_regret']:.2f}",
            f"{row['worst_regret']:.2f} ({row['worst_task']})",
            f"{100 * row['divergent']:.0f} %",
            f"{100 * row['no_answer']:.0f} %",
            f"{row['spread']:.3g}x",
            f"{row['steps']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    note = (
        f"{chosen[0]['n_tasks']} tasks, {chosen[0]['n'] // chosen[0]['n_tasks']} seeds, finders at their own defaults; "
        f"spread: highest over lowest suggestion of a task's seeds, on the worst task. {_where(results)}. "
        "`python -m benchmarks.regret`"
    )
    return "\n".join([*lines, "", note])


def range_test_table(results: Results) -> str:
    """Range tests of the same steps: contenders down, models across, each as a multiple of a bare loop."""
    rows = [row for row in results["rows"] if "missing" not in row]
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = ["| wall time over a bare loop's | " + " | ".join(models) + " |", "|---|" + "---|" * len(models)]
    for contender in dict.fromkeys(row["contender"] for row in rows):
        cells = {row["model"]: row for row in rows if row["contender"] == contender}
        told = [
            f"{row['over_bare']:.2f} ({row['over_bare_q25']:.2f} to {row['over_bare_q75']:.2f})"
            for row in (cells[model] for model in models)
        ]
        lines.append(f"| {contender} | " + " | ".join(told) + " |")
    work = ", ".join(f"{model}: {n} steps" for model, n in {row["model"]: row["steps"] for row in rows}.items())
    n = min(row["n"] for row in rows)
    note = (
        f"Median (quartiles) over n >= {n} interleaved rounds; {work}; each at the same steps on the same data. "
        f"{_where(results)}. `pytest benchmarks/bench_range_test.py`"
    )
    return "\n".join([*lines, "", note])


def _where(results: Results, hardware: str | None = None) -> str:
    e = results["environment"]
    hardware = hardware or f"{e['cpu']}, {e['cores']} cores"
    return f"{hardware}, torch {e['torch']}, commit {e['commit']}"


TABLES: dict[str, Callable[[Results], str]] = {
    "step_cpu": step_table,
    "one_cycle_digits": one_cycle_table,
    "schedule_cpu": schedule_table,
    "step_gpu": gpu_step_table,
    "regret": regret_table,
    "range_test_cpu": range_test_table,
}

UNMEASURED = {
    "step_gpu": """\
Not yet measured on a GPU. `bash benchmarks/gpu.sh` measures it.

| one step | target |
|---|---|
| from 25.6M parameters on | >= 90 % of the measured copy bandwidth |
| ResNet-50 on an H200 | <= 132 us of device time; >= 1.15x as fast as torch 2.11's fused |
| 1.24B parameters in float32 on an H200 | <= 6.4 ms of device time |
| ResNet-56 | <= 4 us of device time; >= 3x as fast as torch 2.11's fused |
| host time of an eager step with 167 tensors | >= 5x less than torch 2.11's fused |
| waits of the host for the device | 0 |""",
}
"""What stands in place of a table whose results are not there yet."""


def rendered(readme: str) -> str:
    """``readme`` with every table anew."""
    for name, table in TABLES.items():
        path = RESULTS / f"{name}.json"
        unmeasured = name in UNMEASURED and not path.exists()
        text = UNMEASURED[name] if unmeasured else table(json.loads(path.read_text()))
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
