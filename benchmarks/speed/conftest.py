"""Options of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .setting import Setting


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tiny", action="store_true", help="tiny models, few rounds: checks that it runs, measures nothing"
    )
    parser.addoption("--results", type=Path, help="folder for the result files (default: none are written)")
    parser.addoption("--device", default="cpu", help="cpu (the default) or cuda, for benchmarks that know both")


@pytest.fixture
def setting(request: pytest.FixtureRequest) -> Setting:
    option = request.config.getoption
    return Setting(option("--tiny"), torch.device(option("--device")), option("--results"))
