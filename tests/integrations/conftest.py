"""Fills the table of docs/integrations.md from the tests of this folder.

``CLRFAST_INTEGRATIONS_TABLE=write pytest tests/integrations`` writes it, ``=check`` fails if it would change.
"""

from __future__ import annotations

import os
from importlib.metadata import version

import pytest

from tests.helpers.integrations_table import DOCS, Row, replaced_table

MODE = os.environ.get("CLRFAST_INTEGRATIONS_TABLE", "")

_rows: dict[str, Row] = {}


@pytest.fixture(autouse=True)
def _record(request: pytest.FixtureRequest, record_property) -> None:
    """Put what a test shows into its report, which reaches the process that writes the table."""
    framework, shows = (request.node.get_closest_marker(name) for name in ("framework", "shows"))
    if framework is not None:
        name, package = framework.args
        record_property("framework", (name, version(package).partition("+")[0]))  # without the build of torch
        record_property("shows", [] if shows is None else list(shows.args))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = dict(report.user_properties)
    if (report.when == "call" or report.failed) and not report.skipped and "framework" in found:
        name, number = found["framework"]
        row = _rows.setdefault(name, Row(name, number))
        for what in found["shows"]:
            row.record(what, passed=report.passed)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not MODE or hasattr(session.config, "workerinput"):
        return
    text = DOCS.read_text(encoding="utf-8")
    changed = replaced_table(text, list(_rows.values()))
    if MODE == "write":
        DOCS.write_text(changed, encoding="utf-8")
    elif changed != text:
        print(
            f"\n{DOCS.name}: its table differs from what these tests show; write it with "
            "CLRFAST_INTEGRATIONS_TABLE=write pytest tests/integrations"
        )
        session.exitstatus = 1
