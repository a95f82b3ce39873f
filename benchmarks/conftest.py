"""Options of the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from . import measure


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tiny", action="store_true", help="tiny models, few rounds: checks that it runs, measures nothing"
    )
    parser.addoption("--results", type=Path, help="folder for the result files (default: none are written)")
    parser.addoption("--device", default="cpu", help="cpu (the default) or cuda, where a benchmark knows both")


@dataclass(frozen=True)
class Setting:
    """Where and how a benchmark runs."""

    tiny: bool
    device: torch.device
    folder: Path | None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        """All rows so far, as ``name_cpu.json`` or ``name_gpu.json``."""
        if self.folder is not None:
            measure.write(self.folder / f"{name}_{'gpu' if self.on_gpu else 'cpu'}.json", rows)


@pytest.fixture
def setting(request: pytest.FixtureRequest) -> Setting:
    option = request.config.getoption
    return Setting(option("--tiny"), torch.device(option("--device")), option("--results"))
