"""The HTML report on a recipe."""

import base64
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import clrfast
from clrfast import Diagnosis, find_recipe
from clrfast.recipe._recipe import conclude
from clrfast.recipe._step_allocation import MIN_BUDGET, RANGE_TEST_STEPS
from clrfast.recipe._study import Study
from tests.helpers.problems import clouds

pytestmark = pytest.mark.usefixtures("one_thread")


class Page(HTMLParser):
    """The text, the tags and the references of a page. It fails if the tags do not close in order."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self.references, self.code, self._open = "", [], [], [], []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self._open and self._open[-1] == "code":
            self.code.append(data)


def test_the_report_contains_everything_and_refers_to_nothing_outside():
    recipe = find_recipe(clouds(), 2600, planned_steps=2000, batch_sizes=True)
    html = recipe.to_html("two <clouds>", saved="some 'where'.json")
    page = Page(html)
    for told in (*recipe.evidence.values(), *recipe.warnings):
        assert told in page.text
    for heading in ("What was chosen", "Learning rate", "Batch size", "Weight decay", "Momentum", "Next steps"):
        assert heading in page.text
    assert "two <clouds>" in page.text
    assert """clrfast.Recipe.load("some 'where'.json")""" in page.text
    curves = len(recipe.study.range_tests)
    assert page.tags.count("img") == curves + 3  # weight decay, momentum, schedule
    assert page.references.pop(0) == "data:,"
    assert [x[:22] for x in page.references] == ["data:image/png;base64,"] * (curves + 3)
    assert base64.b64decode(page.references[0][22:]).startswith(b"\x89PNG")
    outside = re.sub(r'"data:[^"]*"', "", html)
    assert not re.search(r"https?:|//|@import|url\(|<script|javascript", outside, re.IGNORECASE)


def test_the_code_of_the_report_runs(tmp_path):
    task = clouds()
    recipe = find_recipe(task, MIN_BUDGET, saved=tmp_path / "recipe.json")
    by_file, by_numbers = Page(recipe.to_html(saved=str(tmp_path / "recipe.json"))).code
    names = {"epochs": 2, **vars(task)}
    exec(by_file, names)
    assert len(names["optimizer"].control.losses) == 40
    lr, momentum, weight_decay = recipe.schedule(40).table()[10, 0]
    shown = {}
    exec(by_numbers, {"clrfast": clrfast, "total_steps": 40, **vars(task)}, shown)
    np.testing.assert_allclose(shown["schedule"].table()[10, 0], [lr, momentum, weight_decay], rtol=0.01)


def test_markup_in_any_text_of_the_report_is_escaped():
    evil = "<script>alert('&amp;\"')</script>"
    recipe = find_recipe(clouds(), MIN_BUDGET)
    diagnosis = Diagnosis("plateau", (0, 1), 1.0, evil, evil)
    curve = replace(recipe.study.range_test, stop_reason=evil)
    recipe = replace(
        recipe,
        evidence=dict.fromkeys(recipe.evidence, evil),
        warnings=(evil,),
        diagnoses=(diagnosis,),
        study=replace(recipe.study, model=evil, range_test=curve),
    )
    html = recipe.to_html(evil, saved=evil)
    assert html.startswith("<!doctype html>\n")
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count(evil) >= 10


def test_the_report_has_its_tables_without_matplotlib(monkeypatch):
    recipe = find_recipe(clouds(), MIN_BUDGET)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = Page(recipe.to_html())
    assert "img" not in page.tags
    assert "table" in page.tags
    assert "no picture: matplotlib.figure is not installed" in page.text


def test_the_report_shows_pairs():
    recipe = find_recipe(clouds(), 8 * 100, planned_steps=100)
    page = Page(recipe.to_html())
    assert "Rate and weight decay" in page.text
    assert f"{recipe.study.pair_trials.loss[-1]:.4g}" in page.text
    assert page.tags.count("img") == 3  # range test, pairs, schedule


def test_an_incomplete_recipe_has_a_report():
    study = find_recipe(clouds(), MIN_BUDGET).study
    begun = conclude(Study(500, 1000, RANGE_TEST_STEPS, "model", None, range_test=study.range_test))
    text = Page(begun.to_html()).text
    assert "It was interrupted" in text
    assert "not tested; 0.0001 is usual" in text
    assert "the loader's" in text
