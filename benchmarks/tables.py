"""The README's tables, each from the rows of one file of results."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from .speed import kernels

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
    return "\n".join(
        [*lines, "", f"{_where(results)}; n = {n} interleaved rounds. `pytest benchmarks/speed/bench_step.py`"]
    )


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
    return "\n".join([*lines, "", f"{note} `python -m benchmarks.policy_quality.one_cycle_digits`"])


def super_convergence_table(results: Results) -> str:
    """Piecewise-constant rates against 1cycle: tasks and recipes down, shares of the baseline's steps across."""
    runs = [row for row in results["rows"] if row["benchmark"] == "super_convergence"]
    found = {(row["task"], row["recipe"], row["divisor"]): row for row in runs}
    divisors = sorted({row["divisor"] for row in runs}, reverse=True)
    titles = ["all its steps" if divisor == 1 else f"1/{divisor}" for divisor in divisors]
    lines = [f"| validation accuracy, mean (seeds) | {' | '.join(titles)} | in steps (by seed) |"]
    lines.append("|---|" + "---|" * (len(divisors) + 1))
    for goal in (row for row in results["rows"] if row["benchmark"] == "super_convergence_reached"):
        for recipe, steps in goal["steps"].items():
            rows = [found[goal["task"], recipe, divisor] for divisor in divisors]
            rates = [rate for row in rows for rate in row["max_lr"]]
            shares = [[100 * row[f"accuracy_{which}"] for which in ("mean", "min", "max")] for row in rows]
            cells = [
                f"{goal['task']}: {recipe}, rate {min(rates):.2g} to {max(rates):.2g}",
                *(f"{mean:.2f} % ({low:.1f} to {high:.1f})" for mean, low, high in shares),
                f"{_steps(steps)} ({', '.join(_steps(own) for own in goal['steps_by_seed'][recipe])})",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    note = (
        "Columns: the baseline's steps and shares of them; the last one: the shortest run that ends with at least what "
        f"the baseline has after all its steps. n = {runs[0]['n']} seeds; {_where(results)}. "
        "`python -m benchmarks.policy_quality.super_convergence`"
    )
    return "\n".join([*lines, "", note])


def _steps(steps: int | None) -> str:
    return "none" if steps is None else f"{steps:,}"


def headline_table(results: Results) -> str:
    """ResNet-56 on CIFAR-10: the published run, and what followed it."""
    lines = [
        "| ResNet-56 | test accuracy | published | steps | rate up to | time of the steps | one step |",
        "|" + "---|" * 7,
    ]
    for row in results["rows"]:
        lines.append("| " + " | ".join(_headline_cells(row)) + " |")
    first = results["rows"][0]
    note = (
        f"{first['task']}, batch {first['batch_size']}, 1cycle with momentum from 0.95 to 0.80; {first['precision']}, "
        f"the copies in float32. {_where(results, results['environment'].get('gpu'))}. `bash benchmarks/gpu.sh`"
    )
    return "\n".join([*lines, "", note])


def _headline_cells(row: dict[str, Any]) -> list[str]:
    names = {
        "published": "as published",
        "suggested": "at the rate that the range test suggests",
        "copies": "copies in one job, weight decay {}",
    }
    name = names[row["recipe"]]
    if "missing" in row:
        return [name, row["missing"], *[""] * 5]
    several = isinstance(row["weight_decay"], list)
    last = row["accuracy"] if several else row["accuracy"][-1:]
    steps = ", ".join(dict.fromkeys(f"{n:,}" for n in (row["steps"] if several else row["steps"][-1:])))
    return [
        name.format(", ".join(f"{decay:g}" for decay in row["weight_decay"])) if several else name,
        ", ".join(f"{100 * accuracy:.2f} %" for accuracy in last) or "none",
        row.get("published", ""),
        f"{steps} of {row['total_steps']:,}",
        f"{row['max_lr']:.3g}",
        f"{row['seconds']:.1f} s",
        f"{row['us_per_step'] / 1000:.2f} ms" if row.get("us_per_step") else "",
    ]


def schedule_table(results: Results) -> str:
    """Schedules on the host: a row each."""
    lines = ["| on the host | median | quartiles |", "|---|---|---|"]
    for row in results["rows"]:
        name = f"`{row['contender']}`, {row['total_steps']:,} steps"
        lines.append(f"| {name} | {row['median_us']:,.1f} us | {row['q25_us']:,.1f} to {row['q75_us']:,.1f} us |")
    n = " and ".join(dict.fromkeys(str(row["n"]) for row in results["rows"]))
    return "\n".join([*lines, "", f"{_where(results)}; n = {n}. `pytest benchmarks/speed/bench_schedule.py`"])


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
        f"read and written; of a device time, {copies[0]:.1f} us are the measurement's own. {_kernels(own.values())}"
        "`bash benchmarks/gpu.sh`"
    )
    return "\n".join([*lines, "", note])


def _kernels(rows: Iterable[dict[str, Any]]) -> str:
    """A sentence: what the profiler saw of each step."""
    told = [f"{row['model']}, {row['dtype']}: {kernels.told(row)}" for row in rows if "kernels" in row]
    return f"By the profiler, clrfast's eager steps are: {'; '.join(told)}. " if told else ""


def host_table(results: Results) -> str:
    """The host's time of an eager step, and of the checks before a replay: a table each."""
    steps, replays = (
        [row for row in results["rows"] if row["benchmark"] == kind] for kind in ("host_step", "host_replay")
    )
    lines = [
        f"| one eager step of {steps[0]['model']} ({steps[0]['n_tensors']} tensors) | median (quartiles) | faster by |",
        "|---|---|---|",
    ]
    for row in steps:
        factor = f"{row['faster_by']:.1f}x" if "faster_by" in row else ""
        lines.append(f"| {row['contender']} | {_spread(row)} | {factor} |")
    lines += ["", "| one replay | checks, median (quartiles) | whole call |", "|---|---|---|"]
    for row in replays:
        size = f"{row['n_modules']} modules, {row['n_tensors']} tensors"
        name = f"{row['model'].partition(',')[0]} ({size}): {row['contender']}"
        lines.append(f"| {name} | {_spread(row, 'checks_')} | {_spread(row)} |")
    n = min(row["n"] for row in steps)
    where = _where(results, results["environment"].get("gpu"))
    return "\n".join([*lines, "", f"{where}; n >= {n} interleaved rounds. `pytest benchmarks/speed/bench_host.py`"])


def _spread(row: dict[str, Any], prefix: str = "") -> str:
    """Median and quartiles of a time; nothing where there is none."""
    if f"{prefix}median_us" not in row:
        return ""
    median, low, high = (row[f"{prefix}{name}_us"] for name in ("median", "q25", "q75"))
    return f"{median:,.1f} us ({low:,.1f} to {high:,.1f})"


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
    commits: dict[str, list[str]] = {}
    for row in chosen:
        commits.setdefault(row["commit"], []).append(row["contender"])
    most = max(commits, key=lambda commit: len(commits[commit]))
    others = [f"{', '.join(names)} at {commit}" for commit, names in commits.items() if commit != most]
    measured = f" ({'; '.join([*others, f'all others at {most}'])})" if others else ""
    note = (
        f"{chosen[0]['n_tasks']} tasks, {chosen[0]['n'] // chosen[0]['n_tasks']} seeds, finders at their own defaults; "
        f"spread: highest over lowest suggestion of a task's seeds, on the worst task. {_where(results)}{measured}. "
        "`python -m benchmarks.finder_quality`"
    )
    return "\n".join([*lines, "", note])


def recipe_table(results: Results) -> str:
    """The short recipe against a full grid: tasks down, budgets across."""
    rows = results["rows"]
    budgets = sorted({row["budget"] for row in rows})
    columns = ["test loss", "untrained", "defaults: mean, best", "the grid's best", "by one seed's grid"]
    for budget in budgets:
        columns += [f"recipe, {100 * budget:.0f} %", "of the gain (by search)", "over the best default"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    tasks: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["budget"]):
        tasks.setdefault(row["task"], []).append(row)
    for task, of_task in tasks.items():
        row = of_task[0]
        cells = [
            f"{task}{' *' if row['half'] == 'TUNING' else ''}",
            f"{row['untrained']:.3g}",
            f"{row['default']:.4g}, {row['best_default']:.4g}",
            f"{row['best']:.4g} ({row['best_lr']:.2g}, {row['best_weight_decay']:g})",
            ", ".join(_percent(part) for part in row["reached_by_grid_seed"]),
        ]
        for row in of_task:
            by_search = ", ".join(_percent(part) for part in row["reached_by_search"])
            cells += [
                f"{row['recipe']:.4g}",
                f"{_percent(row['reached'])} ({by_search})",
                _percent(row["reached_over_best_default"] if _is_to_gain(row) else None),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    by_budget = {budget: [row for row in rows if row["budget"] == budget] for budget in budgets}
    told = []
    for budget, of_budget in by_budget.items():
        dearest = max(row["cost"] for row in of_budget)
        reached = _reached(of_budget, [row["reached"] for row in of_budget])
        told.append(
            f"With {100 * budget:.0f} % ({100 * dearest:.1f} % the dearest search) the recipe reaches {reached}."
        )
    once = by_budget[budgets[0]]
    by_grid = _reached(once, [statistics.mean(row["reached_by_grid_seed"]) for row in once])
    told.append(f"What one seed's whole grid would choose, by the test loss itself, reaches {by_grid}.")
    note = (
        f"{' '.join(told)} n = {rows[0]['n']} searches (in brackets), each setting trained with "
        f"{rows[0]['n_fresh']} seeds; the percentages above are the budgets, of the updates of the grid with one seed. "
        f"{_where(results)}. `python -m benchmarks.recipe_quality`"
    )
    return "\n".join([*lines, "", note])


def _is_to_gain(row: dict[str, Any]) -> bool:
    """Whether the best cell is better than the best default by more than a fiftieth of its gain over their mean."""
    return row["best_default"] - row["best"] > (row["default"] - row["best"]) / 50


def _reached(rows: list[dict[str, Any]], reached: list[float]) -> str:
    """On how many of the tasks it was enough, and the mean and median of all."""
    enough = [
        f"{sum(part >= 0.95 for part in half)} of the {len(half)} {title}"
        for title, name in (("tasks marked *", "TUNING"), ("others", "HELD_OUT"))
        if (half := [part for row, part in zip(rows, reached, strict=True) if row["half"] == name])
    ]
    mean, median = (_percent(of(reached)) for of in (statistics.mean, statistics.median))
    return f"95 % of the gain over the mean default on {' and '.join(enough)} (mean {mean}, median {median})"


def _percent(part: float | None) -> str:
    return "nothing to gain" if part is None else f"{100 * part:.0f} %"


def range_test_table(results: Results) -> str:
    """Range tests of the same steps, each as a multiple of a bare loop."""
    return _ratio_table(results, "wall time over a bare loop's", "over_bare", "bench_range_test")


def train_table(results: Results) -> str:
    """Whole 1cycle runs, by how much faster than stock torch as people write it."""
    return _ratio_table(results, "times as fast as the first row", "faster_by", "bench_train")


def _ratio_table(results: Results, title: str, ratio: str, benchmark: str) -> str:
    """Contenders down, models across."""
    lines = [f"| {title} | " + _across(results)]
    for contender, cells in _by_contender(results):
        lines.append(f"| {contender} | " + " | ".join(_ratio(cell, ratio) for cell in cells) + " |")
    note = f"{_work(results)}, each from a fresh model. {_where(results)}. `pytest benchmarks/speed/{benchmark}.py`"
    return "\n".join([*lines, "", note])


def sweep_table(results: Results) -> str:
    """K copies in one job: models and numbers of copies down."""
    rows = {(row["model"], row["copies"], row["contender"]): row for row in results["rows"]}
    lines = [
        '| times as fast as one by one | together | what "auto" takes |',
        "|---|---|---|",
    ]
    for model, copies in dict.fromkeys((model, copies) for model, copies, _ in rows):
        name = f"{model}: {copies} {'copy' if copies == 1 else 'copies'}"
        cells = (rows.get((model, copies, contender)) for contender in ("together", "auto"))
        lines.append(f"| {name} | " + " | ".join(_ratio(cell, "faster_by") for cell in cells) + " |")
    n, steps = min(row["n"] for row in results["rows"]), {row["steps"] for row in results["rows"]}
    note = (
        f"Median (quartiles) over n >= {n} interleaved rounds; range tests for as many weight decays, {min(steps)} to "
        f"{max(steps)} steps each. {_where(results)}. `pytest benchmarks/speed/bench_sweep.py`"
    )
    return "\n".join([*lines, "", note])


def _across(results: Results) -> str:
    """The rest of a table's head, with a column for each model."""
    models = dict.fromkeys(row["model"] for row in results["rows"])
    return " | ".join(models) + " |\n|---|" + "---|" * len(models)


def _by_contender(results: Results) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Contenders with a row for each model, None where there is none."""
    rows = results["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    found = {(row["contender"], row["model"]): row for row in rows}
    contenders = dict.fromkeys(row["contender"] for row in rows)
    return [(contender, [found.get((contender, model)) for model in models]) for contender in contenders]


def _ratio(row: dict[str, Any] | None, name: str) -> str:
    """Median and quartiles of a ratio; why there are none."""
    if row is None:
        return ""
    if "missing" in row:
        return row["missing"]
    return f"{row[name]:.2f} ({row[f'{name}_q25']:.2f} to {row[f'{name}_q75']:.2f})"


def _work(results: Results) -> str:
    """How much was measured."""
    rows = [row for row in results["rows"] if "missing" not in row]
    steps: dict[int, list[str]] = {}
    for row in rows:
        if row["model"] not in (models := steps.setdefault(row["steps"], [])):
            models.append(row["model"])
    n = {count: min(row["n"] for row in rows if row["steps"] == count) for count in steps}
    told = "; ".join(f"{count} steps, n >= {n[count]}: {', '.join(models)}" for count, models in steps.items())
    return f"Median (quartiles) over n interleaved rounds ({told}), at the same steps on the same data"


def _where(results: Results, hardware: str | None = None) -> str:
    e = results["environment"]
    hardware = hardware or f"{e['cpu']}, {e['cores']} cores"
    return f"{hardware}, torch {e['torch']}, commit {e['commit']}"


TABLES: dict[str, Callable[[Results], str]] = {
    "step_cpu": step_table,
    "one_cycle_digits": one_cycle_table,
    "super_convergence": super_convergence_table,
    "headline_gpu": headline_table,
    "schedule_cpu": schedule_table,
    "host_cpu": host_table,
    "host_gpu": host_table,
    "step_gpu": gpu_step_table,
    "finder_quality": regret_table,
    "recipe_quality": recipe_table,
    "range_test_cpu": range_test_table,
    "range_test_gpu": range_test_table,
    "train_cpu": train_table,
    "train_gpu": train_table,
    "sweep_cpu": sweep_table,
    "sweep_gpu": sweep_table,
}

UNMEASURED = {
    "step_gpu": """\
Not yet measured on a GPU. `bash benchmarks/gpu.sh` measures it.

| one step | target |
|---|---|
| from 25.6M parameters on | >= 90 % of the measured copy bandwidth |
| ResNet-50 in float32 on an H200 | <= 132 us of device time; >= 1.15x as fast as torch's fused |
| 1.24B parameters in float32 on an H200 | <= 6.4 ms of device time |
| ResNet-56, the L2 cache flushed | <= 6 us of device time; >= 3x as fast as torch's fused |
| host time of an eager step with 167 tensors | >= 3x less than torch's fused |
| waits of the host for the device | 0 |

The arithmetic of ResNet-56: the launch takes about 2 us, three dependent trips to memory 0.8 us each, the last stores
about 1 us; moving its 17 MB alone takes 4 us at 4.3 TB/s. The baseline is the torch that runs, 2.11 there. From 2.13 on
with CUDA 13, torch has kernel arguments of 32 KB too, which by its own report gained 13 % on an H200.""",
    "headline_gpu": """\
Not yet measured on a GPU. The target: the published 91.5 %, or little less, for the images are CIFAR-10, JPEG-q75
re-encoded; 9,310 steps in at most 95 seconds on an H200.""",
    "host_gpu": """\
Not yet measured on a GPU; `pytest benchmarks/speed/bench_host.py --device cuda` measures it.

| the host's time | target |
|---|---|
| an eager step with 167 tensors | >= 3x less than torch 2.11's fused |
| the checks of one replay of ResNet-56 | <= 60 us |""",
    "range_test_gpu": """\
Not yet measured on a GPU. The target: a range test of ResNet-56 at batch 128, captured, at least 3 times as fast as the
fastest peer's.""",
    "train_gpu": """\
Not yet measured on a GPU. The targets: a 1cycle run at least twice as fast as stock torch as people write it, and 100
captured steps of ResNet-56 at batch 512 in under a second on an H200.""",
    "sweep_gpu": """\
Not yet measured on a GPU. The target: 8 copies of the digits CNN in at most twice the time of one.""",
}
"""What stands in place of a table whose results are not there yet."""
