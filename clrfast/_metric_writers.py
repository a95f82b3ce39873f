"""Writes series of numbers to the loggers of experiments: TensorBoard, W&B, trackio, MLflow, Lightning, Accelerate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WriteRow = Callable[[dict[str, float], int], None]
"""``write(values by name, step)``."""


def write_series(
    writer: Any, prefix: str, series: Mapping[str, Sequence[float] | NDArray[Any]], start: int = 0
) -> None:
    """Write series of one length, a row per step; values that are not finite are left out.

    Args:
        writer: an object with ``add_scalar(name, value, step)``, as TensorBoard's ``SummaryWriter`` has it;
            ``log_metrics(values, step=step)``, as MLflow and Lightning have it; or ``log(values, step=step)``,
            as W&B, trackio and Accelerate have it.
        prefix: comes before every name, with a slash.
        series: numbers by name.
        start: step of the first row.
    Raises:
        TypeError: the writer has none of these methods.
    """
    write = _row_writer(writer, prefix)
    columns = {f"{prefix}/{name}": np.asarray(values, dtype=np.float64).tolist() for name, values in series.items()}
    for offset, row in enumerate(zip(*columns.values(), strict=True)):
        finite = {name: value for name, value in zip(columns, row, strict=True) if math.isfinite(value)}
        if finite:
            write(finite, start + offset)


def _row_writer(writer: Any, prefix: str) -> WriteRow:
    if hasattr(writer, "add_scalar"):

        def add_scalars(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        return add_scalars
    if hasattr(writer, "log_metrics"):
        return lambda values, step: writer.log_metrics(values, step=step)
    if hasattr(writer, "define_metric"):  # W&B refuses steps below its own last one, so these series have their own
        own_step = f"{prefix}/step"
        writer.define_metric(own_step)
        writer.define_metric(f"{prefix}/*", step_metric=own_step)
        return lambda values, step: writer.log({own_step: step, **values})
    if hasattr(writer, "log"):
        return lambda values, step: writer.log(values, step=step)
    raise TypeError(
        f"writer: got {type(writer).__name__}; give an object with add_scalar(name, value, step), "
        "log_metrics(values, step=) or log(values, step=), for example a TensorBoard SummaryWriter or a W&B run"
    )
