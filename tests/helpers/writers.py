"""A logger that keeps what is written to it."""

from __future__ import annotations


class Log:
    """A logger with ``log(values, step=)``, like trackio's and Accelerate's; ``rows`` has ``(values, step)``."""

    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, float], int | None]] = []

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.rows.append((values, step))
