"""Write the results into the tables of the README and of docs/benchmarks.md, and into docs/speed.png.

python -m benchmarks.report
python -m benchmarks.report --check  fails if tables or plot do not show the current results

Nothing else writes figures into the docs.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path

from .environment import ROOT
from .result_files import RESULTS
from .speed import speed_plot
from .tables import TABLES, UNMEASURED, evidence_table

README, BENCHMARKS = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"


def pages() -> dict[Path, dict[str, str]]:
    """Return the tables of each page, by the name between their markers."""
    results = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    tables = {name: table(results[name]) if name in results else UNMEASURED[name] for name, table in TABLES.items()}
    return {README: {"evidence": evidence_table(results)}, BENCHMARKS: tables}


def rendered(text: str, tables: Mapping[str, str]) -> str:
    """Return ``text`` with all ``tables`` between their markers.

    Raises:
        SystemExit: the markers of a table are not there exactly once.
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        text, count = re.subn(
            f"{begin}.*?{end}", lambda _, t=table, b=begin, e=end: f"{b}\n{t}\n{e}", text, flags=re.DOTALL
        )
        if count != 1:
            raise SystemExit(f"wanted the markers {begin} and {end} once, found them {count} times")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail instead of writing")
    check = parser.parse_args().check
    for path, tables in pages().items():
        before = path.read_text()
        after = rendered(before, tables)
        if not check:
            path.write_text(after)
        elif after != before:
            raise SystemExit(f"{path.name}: its tables differ from benchmarks/results; run python -m benchmarks.report")
    if not speed_plot.is_current():
        if check:
            raise SystemExit(f"{speed_plot.PATH.name}: it differs from the results; run python -m benchmarks.report")
        speed_plot.draw()


if __name__ == "__main__":
    main()
