"""Options of the benchmarks."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tiny", action="store_true", help="tiny models, few rounds: checks that it runs, measures nothing"
    )
    parser.addoption("--results", type=Path, help="folder for the result files (default: none are written)")
