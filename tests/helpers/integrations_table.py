"""The table of frameworks in docs/integrations.md: what the tests of each have shown, and with which version."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "integrations.md"
BEGIN, END = "<!-- integrations -->", "<!-- end integrations -->"

COLUMNS = (
    "trains",
    "finds the plain loop's rate",
    "resumes bit for bit",
    "mixed precision",
    "accumulation",
    "clipping",
    "two processes",
)
"""What a test can show of a framework, in the order of the table."""

EXAMPLES = {
    "Lightning": "lightning_digits.py",
    "Hugging Face Trainer": "transformers_text.py",
    "Accelerate": "accelerate_digits.py",
    "fastai": "fastai_digits.py",
    "Ignite": "ignite_digits.py",
    "skorch": "skorch_digits.py",
    "timm": "timm_digits.py",
    "PEFT": "peft_text.py",
    "DistributedDataParallel": "ddp_digits.py",
    "FSDP2": "fsdp_digits.py",
    "ZeroRedundancyOptimizer": "zero_digits.py",
}
"""The example of each framework, in the order of the table."""

ON_RANKS = "DistributedDataParallel", "FSDP2", "ZeroRedundancyOptimizer"
"""The frameworks that share a section of the page."""


@dataclass
class Row:
    """What the tests have shown of one framework: True if all tests of a column passed."""

    name: str
    version: str
    shown: dict[str, bool] = field(default_factory=dict)

    def record(self, what: str, *, passed: bool) -> None:
        if what not in COLUMNS:
            raise ValueError(f"shows: got {what!r}; give one of {COLUMNS}")
        self.shown[what] = passed and self.shown.get(what, True)


def count_lines(example: Path) -> int:
    """Count the lines of an example that import from clrfast or use what was imported.

    A line counts if one of these names is on it; an import counts as one line.
    """
    source = example.read_text(encoding="utf-8")
    tree = ast.parse(source)
    names = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (node.module if isinstance(node, ast.ImportFrom) else alias.name or "").partition(".")[0] == "clrfast"
    }
    lines = set()
    for node in ast.walk(tree):
        if (isinstance(node, ast.Name) and node.id in names) or (
            isinstance(node, ast.Import | ast.ImportFrom)
            and any((alias.asname or alias.name).partition(".")[0] in names for alias in node.names)
        ):
            lines.add(node.lineno)
    return len(lines)


def replaced_table(text: str, rows: list[Row]) -> str:
    """Return ``text`` with the table of ``rows`` between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def table(rows: list[Row]) -> str:
    """Draw the table: "yes" where every test of a column passed, "no" where one failed, nothing where there is none."""
    head = ["framework", "tested with", "lines", *COLUMNS]
    lines = [head, ["---"] * len(head)]
    order = list(EXAMPLES)
    for row in sorted(rows, key=lambda row: order.index(row.name)):
        section = "-".join(ON_RANKS if row.name in ON_RANKS else row.name.split()).lower()
        shown = (("yes" if row.shown[what] else "no") if what in row.shown else "" for what in COLUMNS)
        n_lines = str(count_lines(ROOT / "examples" / EXAMPLES[row.name]))
        lines.append([f"[{row.name}](#{section})", row.version, n_lines, *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
