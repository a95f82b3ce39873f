"""Every block of Python in the README and the docs runs, page by page, with a small model and its data at hand.

Those of docs/integrations.md need the frameworks: tests/integrations/test_code_blocks.py runs them.
"""

import re

import pytest

import clrfast
from tests.helpers.code_blocks import FRAMEWORKS, PAGES, ROOT, blocks, execute, names_at_hand, sections

EXECUTED = [page for page in PAGES if page != FRAMEWORKS and blocks(page)]
FENCE = re.compile(r"^```[ \t]*(\S[^\n]*)?\n.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.stem)
def test_all_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    execute(blocks(page), page, names_at_hand())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_has_a_language_that_says_whether_it_runs(page):
    """``{.python}`` shows a file that other tests run."""
    languages = {found[1] for found in FENCE.finditer(page.read_text(encoding="utf-8"))}
    assert languages <= {"python", "sh", "{.python}"}


def test_the_module_of_getting_started_is_complete():
    pytest.importorskip("sklearn")
    (module,) = [block for block in blocks(ROOT / "docs" / "getting-started.md") if "def make_task" in block]
    names = {}
    exec(module, names)
    task = names["make_task"]()
    assert clrfast.range_test(task, steps=20).initial_loss > 1
    assert clrfast.training.evaluate(task).n_samples == 397


def test_a_failing_block_is_reported_with_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nfirst = 1\n\nsecond = missing\n```\n")
    with pytest.raises(NameError) as caught:
        execute(blocks(page), page, {})
    assert caught.traceback[-1].lineno == 5  # counted from 0


def test_blocks_belong_to_the_heading_above_them(tmp_path):
    page = tmp_path / "page.md"
    first, second, third = (f"```python\n{number}\n```\n" for number in range(3))
    page.write_text(f"{first}\n## A\n\n### B\n\n{second}\n{third}\n## C\n\n```sh\nls\n```\n")
    assert sections(page) == {"": ["\n0\n"], "A": ["\n" * 9 + "1\n", "\n" * 13 + "2\n"]}
