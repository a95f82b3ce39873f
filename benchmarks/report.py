"""Write the results into the README's tables, between its markers, and into docs/speed.png.

python -m benchmarks.report
python -m benchmarks.report --check  fails if tables or plot do not show the current results

Nothing else writes figures into the docs.
"""

from __future__ import annotations

import argparse
import json
import re

from .environment import ROOT
from .result_files import RESULTS
from .speed import speed_plot
from .tables import TABLES, UNMEASURED


def rendered(readme: str) -> str:
    """Return ``readme`` with every table replaced by that of the current results."""
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
        if not speed_plot.is_current():
            speed_plot.draw()
    elif after != before:
        raise SystemExit("README.md: its tables are not those of benchmarks/results; run python -m benchmarks.report")
    elif not speed_plot.is_current():
        raise SystemExit(f"{speed_plot.PATH.name}: it is not of the results; run python -m benchmarks.report")


if __name__ == "__main__":
    main()
