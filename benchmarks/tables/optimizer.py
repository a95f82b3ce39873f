"""Tables of single optimizer steps, of the host's time and of schedules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..result_files import Row
from .markdown import Results, hardware_and_versions, markdown_table, microseconds, percent


def step_table(results: Results) -> str:
    """Return the table of optimizer steps on the CPU: models and contenders down."""
    ours = {(row["model"], row["rule"]): row for row in results["rows"] if row["contender"].startswith("clrfast")}
    rows = []
    for row in results["rows"]:
        our_row = ours[row["model"], row["rule"]]
        factor = "" if row is our_row else f"{row['median_us'] / our_row['median_us']:.1f}x"
        name = f"{row['model']}, {row['rule']}: {row['contender']}"
        quartiles = f"{row['q25_us']:,.0f} to {row['q75_us']:,.0f} us"
        rows.append([name, f"{row['median_us']:,.0f} us", quartiles, factor])
    n = " and ".join(dict.fromkeys(str(row["n"]) for row in ours.values()))
    sizes = "; ".join(dict.fromkeys(f"{row['model']}: {row['size']}" for row in ours.values()))
    note = f"{sizes}. {hardware_and_versions(results)}; n = {n} interleaved rounds, each step after a write to 48 MB. "
    note += "`pytest benchmarks/speed/bench_step.py`"
    return markdown_table(["one step", "median", "quartiles", "clrfast is faster by"], rows, note)


def schedule_table(results: Results) -> str:
    """Return the table of schedules on the host: one contender per line."""
    rows = [
        [
            f"`{row['contender']}`, {row['total_steps']:,} steps",
            f"{row['median_us']:,.1f} us",
            f"{row['q25_us']:,.1f} to {row['q75_us']:,.1f} us",
        ]
        for row in results["rows"]
    ]
    n = " and ".join(dict.fromkeys(str(row["n"]) for row in results["rows"]))
    note = f"{hardware_and_versions(results)}; n = {n}. `pytest benchmarks/speed/bench_schedule.py`"
    return markdown_table(["on the host", "median", "quartiles"], rows, note)


def host_table(results: Results) -> str:
    """Return two tables: the host's time of an eager step, and of the checks before a replay."""
    steps, replays = (
        [row for row in results["rows"] if row["benchmark"] == kind] for kind in ("host_step", "host_replay")
    )
    step_head = [
        f"one eager step of {steps[0]['model']} ({steps[0]['n_tensors']} tensors)",
        *("median (quartiles)", "faster by"),
    ]
    step_rows = [
        [row["contender"], microseconds(row), f"{row['faster_by']:.1f}x" if "faster_by" in row else ""] for row in steps
    ]
    replay_rows = [
        [
            f"{row['model'].partition(',')[0]} ({row['n_modules']} modules, {row['n_tensors']} tensors): "
            f"{row['contender']}",
            *(microseconds(row, "checks_"), microseconds(row)),
        ]
        for row in replays
    ]
    where = hardware_and_versions(results, results["environment"].get("gpu"))
    n = min(row["n"] for row in steps)
    note = f"{where}; n >= {n} interleaved rounds. `pytest benchmarks/speed/bench_host.py`"
    replay_head = ["one replay", "checks, median (quartiles)", "whole call"]
    return f"{markdown_table(step_head, step_rows)}\n\n{markdown_table(replay_head, replay_rows, note)}"


GPU_STEP_HEAD = [
    *("one step", "device time", "quartiles", "in a graph", "clrfast is faster by", "of copy bandwidth", "launches"),
    *("host time", "in a graph"),
]


def gpu_step_table(results: Results) -> str:
    """Return the table of optimizer steps on a GPU: cases and contenders down; eager beside replayed."""
    steps = [row for row in results["rows"] if row["benchmark"] == "step_gpu"]
    replays = {_contender(row): row for row in steps if row["captured"]}
    eager = [row for row in steps if not row["captured"]]
    ours = {_case(row): row for row in eager if row["contender"].startswith("clrfast")}
    rows = [_gpu_step_cells(row, replays[_contender(row)], ours[_case(row)]) for row in eager]
    return markdown_table(GPU_STEP_HEAD, rows, _gpu_step_note(results, steps, ours.values()))


def _case(row: Row) -> tuple[Any, ...]:
    return row["model"], row["dtype"], row["rule"], row["clips"]


def _contender(row: Row) -> tuple[Any, ...]:
    return *_case(row), row["contender"]


def _gpu_step_cells(row: Row, replay: Row, ours: Row) -> list[str]:
    return [
        f"{row['model']}, {row['dtype']} ({row['size']}): `{row['contender']}`",
        f"{row['device_median_us']:,.1f} us",
        f"{row['device_q25_us']:,.1f} to {row['device_q75_us']:,.1f} us",
        f"{replay['device_median_us']:,.1f} us",
        "" if row is ours else f"{row['device_median_us'] / ours['device_median_us']:.2f}x",
        percent(row["of_copy"]),
        str(row.get("launches", "")),  # counted at the end of a run
        f"{row['host_median_us']:,.1f} us",
        f"{replay['host_median_us']:,.1f} us",
    ]


def _gpu_step_note(results: Results, steps: list[Row], ours: Iterable[Row]) -> str:
    copies = {row["bytes"]: row["median_us"] for row in results["rows"] if row["benchmark"] == "copy_gpu"}
    speed = max(n_bytes / us for n_bytes, us in copies.items()) / 1e6
    e = results["environment"]
    gpu = f"{e['gpu']}, driver {e['driver']}, CUDA {e['cuda']}" if "gpu" in e else "no GPU: a dry run"
    low, high = (pick(row["device_n"] for row in steps) for pick in (min, max))
    return (
        f"{hardware_and_versions(results, gpu)}; n = {low} to {high} interleaved rounds. A copy on the device moves "
        f"{speed:.2f} TB/s, read and written; {copies[0]:.1f} us of a device time are overhead of the measurement. "
        f"{_profile(ours)}`bash benchmarks/gpu.sh`"
    )


def _profile(rows: Iterable[Row]) -> str:
    """Return a sentence on the kernels that the profiler found in each step."""
    kernels = {f"{row['model']}, {row['dtype']}, `{row['contender']}`": row for row in rows if "kernels" in row}
    steps = [f"{name}: {kernel_summary(row)}" for name, row in kernels.items()]
    return f"According to the profiler, clrfast's eager steps are: {'; '.join(steps)}. " if steps else ""


def kernel_summary(found: dict[str, Any]) -> str:
    """Return the result of ``kernels.by_kernel`` as one line of text."""
    kernels = [f"{kernel['count']} {kernel['name']} {kernel['us']:.1f} us" for kernel in found["kernels"]]
    return ", ".join([*kernels, f"gaps {found['gap_us']:.1f} us"])
