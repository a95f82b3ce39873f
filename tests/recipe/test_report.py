"""The HTML report on a recipe."""

import base64
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import clrfast
from clrfast import Diagnosis, Recipe, find_recipe
from clrfast.recipe._plan import MIN_BUDGET
from clrfast.recipe._recipe import conclude
from tests.helpers.problems import clouds
from tests.helpers.studies import Search, decay_loss, make_settings

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
    recipe = find_recipe(task, MIN_BUDGET)
    recipe.save(tmp_path / "recipe.json")
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
    first, *others = recipe.study.trials
    first = replace(first, result=replace(first.result, stop_reason=evil), worker=evil)
    settings = replace(recipe.study.settings, model=evil)
    recipe = replace(
        recipe,
        evidence=dict.fromkeys(recipe.evidence, evil),
        warnings=(evil,),
        diagnoses=(diagnosis,),
        study=replace(recipe.study, settings=settings, trials=(first, *others)),
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


def test_the_report_of_several_optimizers_shows_the_chosen_one():
    study = Search(make_settings(1000, optimizers=("sgd", "adamw")), decay_loss(0.01)).study
    recipe = conclude(study)
    page = Page(recipe.to_html())
    assert recipe.optimizer_name == "adamw"
    assert recipe.evidence["optimizer"] in page.text
    assert page.tags.count("img") == 3  # range test, weight decay, schedule: of AdamW alone
    assert "clrfast.AdamW(model.parameters(), schedule=schedule)" in page.code[1]
    assert f"{len(study.trials)} trials of 1 worker." in page.text


def test_the_report_has_a_row_for_each_worker():
    study = Search(make_settings(), decay_loss(0.0)).study
    trials = tuple(
        replace(trial, worker=f"host:{trial.number % 2}", started=10.0, finished=12.5) for trial in study.trials
    )
    page = Page(conclude(replace(study, trials=trials)).to_html())
    assert f"{len(trials)} trials of 2 workers." in page.text
    for worker in (0, 1):
        numbers = [trial.number for trial in trials if trial.number % 2 == worker]
        cells = f"host:{worker}{len(numbers)}{2.5 * len(numbers):.3g}{', '.join(map(str, numbers))}"
        assert cells in page.text


def test_the_report_of_an_unfinished_search_says_that_it_has_not_ended(tmp_path):
    """While other workers run, from their storage."""
    path, reports = tmp_path / "study.log", []

    def look(done, total, shown):
        if done > 300 and not reports:
            reports.append(Recipe.from_storage(path))

    recipe = find_recipe(clouds(), MIN_BUDGET, storage=path, progress=look)
    (begun,) = reports
    assert not begun.complete
    text = Page(begun.to_html()).text
    n = len(begun.study.trials)
    assert 1 <= n < len(recipe.study.trials)
    assert f"The search has not ended: this is what its {n} finished trials show." in text
    assert f"Found in {begun.steps} training steps (budget: {MIN_BUDGET})" in text
    assert begun.study.trials[0].worker in text
    assert "The search has not ended" not in Page(recipe.to_html()).text


def test_a_report_on_the_range_test_alone_has_usual_values():
    study = Search(make_settings(batch_size=None), decay_loss(0.0)).study
    text = Page(conclude(replace(study, trials=study.trials[:1])).to_html()).text
    assert "The search has not ended: this is what its 1 finished trials show" in text
    assert "not tested; 0.0001 is usual" in text
    assert "the loader's" in text
