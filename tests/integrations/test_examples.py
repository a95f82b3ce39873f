"""Each example is short, names the command that starts it, and runs."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tests.helpers.torchvision_operators  # noqa: F401 - so that timm can import torchvision
from tests.helpers.integrations_table import COLUMNS, EXAMPLES, ROOT, Row, count_lines, replaced_table

PACKAGES = {"Hugging Face Trainer": "transformers", "Lightning": "lightning", "PEFT": "peft"}
"""Packages that are not called as their framework, in lower case."""

COMMAND = re.compile(r'pip install -c constraints\.txt "\.\[(?P<extras>[\w,]+)\]" && (?P<run>.*)')


def header(name):
    docstring = ast.get_docstring(ast.parse((ROOT / "examples" / name).read_text(encoding="utf-8")))
    return COMMAND.search(" ".join(docstring.split()))


@pytest.mark.parametrize("name", EXAMPLES.values())
def test_an_example_has_at_most_40_lines_and_names_its_command(name):
    assert len((ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()) <= 40
    assert header(name)["run"].endswith(f"examples/{name}")


def test_the_table_lists_all_examples():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES.values())


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "name"), EXAMPLES.items())
def test_an_example_runs(framework, name, tmp_path):
    package = PACKAGES.get(framework, framework.lower())
    if "digits" in name:
        pytest.importorskip("sklearn")
    if package in ("accelerate", "fastai", "ignite", "lightning", "peft", "skorch", "timm", "transformers"):
        pytest.importorskip(package)
    command = header(name)["run"].replace("examples/", f"{ROOT / 'examples'}{os.sep}")
    if framework == "timm":
        command = command.replace("python ", "python -m tests.helpers.torchvision_operators ")
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, shell=True, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    # A rank of gloo may abort while Python ends, after all of its work: see run_rank in tests/helpers/ranks.py.
    assert done.returncode == 0 or "terminate called without an active exception" in done.stderr, done.stderr
    assert done.stdout.strip()


def test_lines_that_use_a_name_of_clrfast_are_counted(tmp_path):
    example = tmp_path / "example.py"
    example.write_text(
        "import torch\nimport clrfast\nfrom clrfast.integrations import x as y\nprint(y(\n    clrfast.z))\ny\n"
    )
    assert count_lines(example) == 5


def test_a_column_is_no_where_one_of_its_tests_failed():
    row = Row("Lightning", "1.2")
    row.record("trains", passed=True)
    row.record("clipping", passed=True)
    row.record("clipping", passed=False)
    with pytest.raises(ValueError, match="shows: got 'flies'"):
        row.record("flies", passed=True)
    text = replaced_table("a\n<!-- integrations -->\nold\n<!-- end integrations -->\nb\n", [row])
    assert text.startswith("a\n<!-- integrations -->\n| framework |")
    assert text.endswith("|\n<!-- end integrations -->\nb\n")
    cells = text.splitlines()[4].split("|")
    assert [cells[4 + COLUMNS.index(name)].strip() for name in ("trains", "clipping", "accumulation")] == [
        "yes",
        "no",
        "",
    ]
