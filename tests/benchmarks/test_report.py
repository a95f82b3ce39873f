"""The tables of the README and the docs, and the plot, show the results."""

import pytest

from benchmarks import report
from benchmarks.speed import speed_plot
from benchmarks.tables.markdown import markdown_table, ratio


def test_tables_and_plot_show_the_current_results():
    for path, tables in report.pages().items():
        text = path.read_text()
        assert report.rendered(text, tables) == text
    assert speed_plot.is_current()


def test_a_missing_marker_is_named():
    with pytest.raises(SystemExit, match=r"wanted the markers <!-- step_cpu --> .* once, found them 0 times"):
        report.rendered("no markers", {"step_cpu": "a table"})


def test_a_table_is_markdown_with_a_note_below():
    table = markdown_table(["a", "b"], [["1", "2"]], "note")
    assert table == "| a | b |\n|---|---|\n| 1 | 2 |\n\nnote"


def test_a_missing_ratio_says_why():
    assert ratio(None, "faster_by") == ""
    assert ratio({"missing": "not installed"}, "faster_by") == "not installed"
