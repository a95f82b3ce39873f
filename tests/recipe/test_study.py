"""The trials of a search as measurements of the settings, and their JSON form."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import clrfast
from clrfast import Recipe
from clrfast._fields import Fields
from clrfast.recipe import SearchSettings, Study, Trial, TrialSpec
from clrfast.recipe._study import range_test_key
from tests.helpers.studies import Search, decay_loss, make_curve, make_settings, make_study, make_trial, result_of

TRAINING = TrialSpec("weight decay/sgd/0/0", "weight decay", "sgd", 40, 0.1, 0.0, (0.95, 0.85), batch_size=20)


def ended(spec, number=0):
    return make_trial(spec, result_of(spec), number, seconds_per_step=0.5, started=1.0, finished=2.0, n_workers=3)


@pytest.mark.parametrize(
    "spec",
    [
        TRAINING,
        replace(TRAINING, momentum=0.9, repeat=1, optimizer="adamw"),
        TrialSpec("range test/sgd", "range test", "sgd", 112),
        TrialSpec("batch size", "batch size", "sgd", 0),
        TrialSpec("pair/0", "pair", "sgd", 40, 0.3, 0.001, (0.95, 0.85)),
    ],
    ids=lambda spec: spec.stage,
)
def test_a_trial_survives_json(spec):
    trial = ended(spec, 7)
    plain = json.loads(json.dumps(trial.to_plain()))
    again = Trial.from_plain(Fields(plain, "trial"))
    assert again.spec == spec
    for name in ("number", "worker", "started", "finished", "seconds_per_step", "n_workers", "steps"):
        assert getattr(again, name) == getattr(trial, name)
    assert again.to_plain() == trial.to_plain()
    assert str(again) == str(trial)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "look"}, "stage: got 'look'; give one of"),
        ({"optimizer": "lion"}, r"optimizer: got 'lion'; give one of \['sgd', 'adamw'\]"),
        ({"momentum": [0.9]}, r"momentum: got \[0.9\]; give \(upper, lower\)"),
        ({"max_lr": None}, "train_loss: got 40 losses for a training of"),
        ({"steps": 39}, "train_loss: got 40 losses for a training of"),
        ({"steps": "many"}, "steps: got 'many'"),
        (
            {"outcome": {"result": {"train_loss": [1.0], "val_loss": [1.0], "val_steps": [1]}}},
            "val_steps: got .*give steps from 0 on",
        ),
        (
            {"outcome": {"result": {"train_loss": [1.0], "val_loss": [1.0], "val_steps": [0], "lr": [1]}}},
            "lr: this entry is unknown",
        ),
        ({"outcome": {"seconds_per_step": 0}}, "outcome.seconds_per_step: got 0"),
        ({"outcome": {"n_workers": 0}}, "outcome.n_workers: got 0"),
    ],
)
def test_a_wrong_entry_of_a_trial_is_named(changes, message):
    plain = ended(TRAINING).to_plain()
    plain |= {**changes, "outcome": plain["outcome"] | changes.get("outcome", {})}
    with pytest.raises(ValueError, match=message):
        Trial.from_plain(Fields(plain, "trial"))


def test_a_first_range_test_without_an_answer_is_no_trial():
    plain = ended(TrialSpec(range_test_key("sgd"), "range test", "sgd", 112)).to_plain()
    plain["outcome"]["result"]["loss"] = [1.0] * len(plain["outcome"]["result"]["loss"])
    with pytest.raises(ValueError, match="this curve has no answer"):
        Trial.from_plain(Fields(plain, "trial"))
    later = {**plain, "key": range_test_key("sgd", "weight decay")}
    assert Trial.from_plain(Fields(later, "trial")).spec.key == later["key"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizers": []}, "optimizers: got .*; give some of"),
        ({"budget": -1}, "budget: got -1"),
        ({"more": 1}, "more: this entry is unknown"),
        ({"planned_steps": 0}, "planned_steps: got 0"),
        ({"optimizers": [["sgd"]]}, "optimizers: got .*; give some of"),
        ({"digests": 5}, "digests: got 5"),
        ({"digests": {"model": 5}}, "digests.model: got 5; give text"),
    ],
)
def test_a_wrong_entry_of_the_settings_is_named(changes, message):
    plain = {**vars(make_settings()), "optimizers": ["sgd"], **changes}
    with pytest.raises(ValueError, match=message):
        SearchSettings.from_plain(Fields(plain, "settings"))


def test_a_study_survives_its_file(tmp_path):
    settings = make_settings(2600, planned_steps=2000, find_batch_size=True, digests={"model": "ab"})
    study = Search(settings, decay_loss(1e-3)).study
    study.write(tmp_path / "a.json", complete=True)
    again = Study.read(tmp_path / "a.json")
    assert again.settings == settings
    assert [trial.to_plain() for trial in again.trials] == [trial.to_plain() for trial in study.trials]
    assert json.loads((tmp_path / "a.json").read_text())["complete"] is True
    Recipe.load(tmp_path / "a.json").save(tmp_path / "b.json")
    Recipe.load(tmp_path / "b.json").save(tmp_path / "c.json")
    assert (tmp_path / "b.json").read_text() == (tmp_path / "c.json").read_text()


def test_a_study_saves_trials_that_diverged(tmp_path):
    first = make_trial(TrialSpec("range test/sgd", "range test", "sgd", 112), make_curve())
    spec = replace(TRAINING, weight_decay=1.0)
    broken = [
        make_trial(replace(spec, repeat=i), spec.history([1.0, math.inf], [1.0, math.nan], [0, 2]), i + 3)
        for i in (0, 1)
    ]
    fine = [make_trial(replace(TRAINING, repeat=i), 1.0, i + 1) for i in (0, 1)]
    study = Study(make_settings(), (first, *fine, *broken))
    study.write(tmp_path / "x.json")
    read = Study.read(tmp_path / "x.json").weight_decay_trials
    np.testing.assert_array_equal(read.histories[1][0].val_loss, [1.0, math.nan])
    np.testing.assert_array_equal(read.histories[1][0].train_loss, [1.0, math.inf])
    np.testing.assert_array_equal(read.loss, study.weight_decay_trials.loss)
    assert study.steps == 112 + 2 * 40 + 2 * 2
    json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_the_part_with_one_optimizer_has_its_trials_the_batch_sizes_and_its_share_of_the_budget():
    settings = make_settings(3001, optimizers=("sgd", "adamw"), find_batch_size=True)
    study = Search(settings, decay_loss(1e-4)).study
    parts = [study.for_optimizer(name) for name in settings.optimizers]
    assert {part.budget for part in parts} == {1500}
    assert [{trial.spec.optimizer for trial in part.trials if trial.spec.steps} for part in parts] == [
        {"sgd"},
        {"adamw"},
    ]
    assert all(part.batch_size == 40 for part in parts)
    assert sum(part.steps for part in parts) == study.steps
    assert parts[0].for_optimizer("sgd") is parts[0]


def test_values_without_all_their_repeats_do_not_count():
    specs = [
        replace(TRAINING, weight_decay=x, repeat=i) for x, i in ((0.0, 0), (0.0, 1), (1e-3, 0), (1e-4, 1), (1e-3, 1))
    ]
    study = make_study(make_settings(), specs, decay_loss(0.0))
    assert study.weight_decay_trials.values.tolist() == [0.0, 1e-3]
    assert replace(study, trials=study.trials[:4]).weight_decay_trials is None
    assert study.momentum_trials is study.pair_trials is study.range_test is study.batch_sizes is None


def test_the_results_of_a_stage_are_those_of_any_order_of_trials():
    specs = [replace(TRAINING, weight_decay=x, repeat=i) for x in (1e-3, 0.0) for i in (0, 1)]
    given, turned = (make_study(make_settings(), each, decay_loss(0.0)) for each in (specs, specs[::-1]))
    assert str(given.weight_decay_trials) == str(turned.weight_decay_trials)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "clrfast.LRCurve/1"}', '{"format": "clrfast.Recipe/2"}'])
def test_a_file_that_is_no_recipe_is_refused(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json does not hold a saved recipe.*file that Recipe\.save wrote"):
        Recipe.load(path)


def test_a_file_of_the_earlier_format_is_refused_by_its_name(tmp_path):
    (tmp_path / "x.json").write_text('{"format": "clrfast.Recipe/1", "budget": 464}')
    with pytest.raises(ValueError, match=r"clrfast\.Recipe/1"):
        Recipe.load(tmp_path / "x.json")


def test_a_study_without_a_range_test_has_no_recipe(tmp_path):
    Study(make_settings(), ()).write(tmp_path / "x.json")
    with pytest.raises(ValueError, match="the first range test is not among them, so there is no recipe yet"):
        Recipe.load(tmp_path / "x.json")
    assert clrfast.recipe.Study is Study
