"""The plan of a search: which trials are due, given made-up finished ones."""

import math
from dataclasses import replace

import pytest

import clrfast
from clrfast.recipe import Study, TrialSpec
from clrfast.recipe._plan import (
    MAX_ROUNDS,
    MIN_BUDGET,
    default_grid,
    due_momenta,
    due_trials,
    due_weight_decays,
    is_complete,
    momenta_for,
    next_point,
    pair_steps,
    plan_grid,
    refined_values,
    require_enough_time,
    within_deadline,
)
from clrfast.recipe._setting_trials import DEFAULT_MOMENTUM_CYCLE, GRID, SMALL_GRID
from clrfast.recipe._study import RANGE_TEST_STEPS, speedup
from tests.helpers.histories import ending_history
from tests.helpers.problems import clouds
from tests.helpers.studies import Search, decay_loss, make_settings, make_study, make_trial, result_of

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = ("sgd", "adamw")


def stages(due):
    return list(dict.fromkeys(spec.stage for spec in due))


def keys(due):
    return [spec.key for spec in due]


# ------------------------------------------------------------------------------------------------------------- stages


def test_a_search_begins_with_one_range_test_for_each_optimizer():
    assert keys(due_trials(Study(make_settings(), ()))) == ["range test/sgd"]
    assert keys(due_trials(Study(make_settings(1000, optimizers=BOTH), ()))) == ["range test/sgd", "range test/adamw"]


def test_the_stages_come_in_the_order_of_the_report():
    settings = make_settings(2600, planned_steps=2000, find_batch_size=True)
    search = Search(settings, decay_loss(1e-3))
    assert all(len(stages(due)) == 1 for due in search.batches[:-1])
    order = [stages(due)[0] for due in search.batches[::2] if due]  # every other one is with a running trial
    assert order == [
        *["range test", "batch size", "range test"],
        *["weight decay"] * 12,
        "range test",
        *["momentum"] * 8,
    ]
    assert search.batches[-1] == []
    assert is_complete(search.study)
    assert search.study.steps <= 2600
    sizes = {spec.stage: spec.batch_size for due in search.batches for spec in due}
    assert sizes["weight decay"] == sizes["momentum"] == 40  # the fastest
    assert search.seen["range test/sgd"].pop().batch_size == 20
    assert search.seen["range test/sgd/batch size"].pop().batch_size == 40
    assert search.seen["range test/sgd/weight decay"].pop().weight_decay == 1e-3
    assert search.study.batch_sizes.fastest == 40


def test_the_rate_is_not_tested_again_with_the_batch_size_of_the_loader_or_a_small_weight_decay():
    settings = make_settings(2600, planned_steps=2000, find_batch_size=True, batch_size=40)
    search = Search(settings, decay_loss(1e-4))
    assert [key for key in search.keys if key.startswith("range test")] == ["range test/sgd"]


def test_batch_sizes_are_tried_with_the_optimizer_that_holds_the_most():
    for optimizers in (BOTH, BOTH[::-1]):
        settings = make_settings(2000, optimizers=optimizers, find_batch_size=True)
        first = [TrialSpec(f"range test/{name}", "range test", name, RANGE_TEST_STEPS) for name in optimizers]
        (due,) = due_trials(make_study(settings, first, None))
        assert (due.stage, due.optimizer) == ("batch size", "adamw")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        make_settings(464),
        make_settings(2600, planned_steps=2000),
        make_settings(5000, planned_steps=2000, optimizers=BOTH),
        make_settings(2600, planned_steps=2000, find_batch_size=True),
    ],
    ids=["small", "momenta", "both", "batch size"],
)
@pytest.mark.parametrize("best", [0.0, 1e-4, 1e-2])
def test_trials_are_the_same_in_whatever_order_they_end(settings, workers, best):
    """Nor does their plan change while they are due: the key stands for the same settings on all workers."""
    wanted = Search(settings, decay_loss(best))
    for seed in (1, 2):
        search = Search(settings, decay_loss(best), workers, seed)
        assert all(len(specs) == 1 for specs in search.seen.values())
        assert search.seen == wanted.seen
        assert sorted(search.keys) == sorted(set(search.keys)) == sorted(wanted.keys)
        assert search.study.steps == wanted.study.steps <= settings.budget
        assert is_complete(search.study)


def test_trials_that_diverge_do_not_change_the_plan_of_their_stage():
    def loss(spec):
        return math.inf if spec.weight_decay >= 1e-3 or spec.momentum == 0.97 else decay_loss(1e-4)(spec)

    search = Search(make_settings(2600, planned_steps=2000), loss, workers=2)
    assert all(len(specs) == 1 for specs in search.seen.values())
    assert search.study.steps <= 2600


def test_without_a_loss_that_falls_the_weight_decays_end_the_search():
    search = Search(make_settings(2600, planned_steps=2000), lambda spec: 10.0)
    assert set(search.keys) == {"range test/sgd", *(f"weight decay/sgd/{x:g}/{i}" for x in GRID for i in (0, 1))}
    assert is_complete(search.study)


def test_several_optimizers_share_the_budget():
    search = Search(make_settings(5000, planned_steps=2000, optimizers=BOTH), decay_loss(1e-4))
    parts = {name: search.study.for_optimizer(name) for name in BOTH}
    assert sum(part.steps for part in parts.values()) == search.study.steps <= 5000
    alone = Search(make_settings(2500, planned_steps=2000), decay_loss(1e-4))
    assert {key: specs for key, specs in search.seen.items() if "/sgd" in key} == alone.seen
    for name, part in parts.items():
        assert part.steps <= part.budget == 2500
        assert set(part.weight_decay_trials.values) >= set(default_grid(name))
        assert part.momentum_trials is not None


def test_a_trial_of_a_stage_has_the_settings_that_earlier_stages_chose():
    search = Search(make_settings(2600, planned_steps=2000), decay_loss(1e-4))
    rate = search.study.range_test.suggest().max_lr
    trainings = [trial.spec for trial in search.study.trials if trial.spec.max_lr is not None]
    assert {spec.max_lr for spec in trainings} == {rate}
    assert {spec.momentum for spec in trainings if spec.stage == "weight decay"} == {DEFAULT_MOMENTUM_CYCLE}
    assert {spec.weight_decay for spec in trainings if spec.stage == "momentum"} == {
        search.study.weight_decay_trials.suggest().value
    }


# ---------------------------------------------------------------------------------------------- how steps are divided


@pytest.mark.parametrize(
    ("left", "planned_steps", "wanted"),
    [(8000, 1000, 1000), (9000, 1000, 1000), (3999, 1000, 499), (2000, 1000, 250), (1999, 1000, 0), (319, 100, 0)],
)
def test_pairs_are_tried_if_their_trials_are_a_quarter_of_the_training(left, planned_steps, wanted):
    assert pair_steps(Study(make_settings(left, planned_steps=planned_steps), ())) == wanted
    assert pair_steps(Study(make_settings(2 * left, planned_steps=planned_steps, optimizers=BOTH), ())) == wanted


@pytest.mark.parametrize(
    ("steps", "planned_steps", "wanted"),
    [
        (240, 1000, (SMALL_GRID, 40, 0)),
        (479, 1000, (SMALL_GRID, 79, 0)),
        (480, 1000, (GRID, 40, 6)),
        (2199, 1000, (GRID, 183, 6)),
        (2200, 1000, (GRID, 100, 6)),  # the momenta get 10 parts of 22
        (22 * 300, 1000, (GRID, 200, 6)),
        (22 * 300, 3000, (GRID, 300, 6)),
        (22 * 300, 2500, (GRID, 250, 6)),
    ],
)
def test_weight_decays_get_their_share_of_the_budget(steps, planned_steps, wanted):
    assert plan_grid(steps, planned_steps) == wanted


def test_trials_are_long_enough_with_the_advised_budget():
    assert plan_grid(1536 - 3 * RANGE_TEST_STEPS, 10_000) == (GRID, 100, 6)


def test_a_range_test_takes_at_most_the_steps_that_it_is_charged():
    told = []
    clrfast.range_test(clouds(), trials=False, progress=lambda done, total, shown: told.append(total))
    assert max(told) == RANGE_TEST_STEPS


# ------------------------------------------------------------------------------------------- weight decays and momenta


@pytest.mark.parametrize(
    ("tried", "chosen", "new"),
    [
        ([1e-3, 1e-4, 1e-5, 0.0], 1e-4, [3e-5, 3e-4]),
        ([1e-3, 1e-4, 1e-5, 0.0], 1e-3, [3e-4, 3e-3]),  # also above the largest
        ([1e-3, 1e-4, 1e-5, 0.0], 1e-5, [3e-5]),  # nothing between it and 0
        ([1e-3, 1e-4, 1e-5, 0.0], 0.0, []),
        ([1e-3, 1e-4, 1e-5], 1e-5, [3e-6, 3e-5]),
        ([3e-3, 1e-3, 3e-4, 0.0], 1e-3, []),
        ([3e-3, 1e-3, 3e-4, 0.0], 3e-3, [1e-2]),
        ([1e-1, 1e-4], 1e-4, [3e-5, 3e-3]),
        ([5e-3, 5e-4, 5e-5], 5e-4, [1e-4, 1e-3]),
        ([1.0, 0.1], 1.0, [0.3, 3.0]),
    ],
)
def test_refined_values_bisect_the_exponent(tried, chosen, new):
    assert refined_values(tried, chosen) == new


def ended_decays(runs, best, due):
    """Add the trials that are due, with losses that are lowest at ``best``."""
    for value, repeat in due:
        spec = TrialSpec("", "weight decay", "sgd", 100, 0.1, value, 0.9, repeat)
        runs[value, repeat] = make_trial(spec, decay_loss(best)(spec)).result
    return [value for value, _ in due[::2]]


def rounds(best, max_values):
    runs, found = {}, []
    while due := due_weight_decays(runs, GRID, max_values, "sgd"):
        found.append(ended_decays(runs, best, due))
    return found


def test_refinement_begins_when_the_grid_has_all_its_repeats_and_ends_with_max_values():
    assert rounds(1e-4, 6) == [list(GRID), [3e-5, 3e-4]]
    assert rounds(1e-4, 5) == rounds(1e-4, 0) == rounds(0.0, 9) == [list(GRID)]
    assert rounds(1e-2, math.inf) == [list(GRID), [3e-4, 3e-3], [1e-2], [3e-2]]
    assert len(rounds(1e9, math.inf)) == 1 + MAX_ROUNDS


def test_a_round_is_due_until_all_its_repeats_have_ended():
    runs = {}
    ended_decays(runs, 1e-4, due_weight_decays(runs, GRID, 6, "sgd"))
    first, *others = due_weight_decays(runs, GRID, 6, "sgd")
    ended_decays(runs, 1e-4, [first])
    assert due_weight_decays(runs, GRID, 6, "sgd") == others


def test_constant_momenta_come_before_the_cycle_below_the_best_of_them():
    runs = {}
    due = due_momenta(runs, (0.9, 0.95))
    assert due == [(0.9, 0), (0.9, 1), (0.95, 0), (0.95, 1)]
    for momentum, repeat in due:
        assert (momentum, repeat) in due_momenta(runs, (0.9, 0.95))
        runs[momentum, repeat] = ending_history(2.0 - momentum if momentum == 0.9 else 3.0)
    assert due_momenta(runs, (0.9, 0.95)) == [((0.9, 0.85), 0), ((0.9, 0.85), 1)]
    runs[(0.9, 0.85), 1] = ending_history(1.0)
    assert due_momenta(runs, (0.9, 0.95)) == [((0.9, 0.85), 0)]
    assert due_momenta({key: ending_history(10.0) for key in runs}, (0.9, 0.95)) == []  # no cycle below a failure


def test_momenta_need_several_times_their_memory():
    assert momenta_for(100) == momenta_for(299) == (0.9, 0.95, 0.97)
    assert momenta_for(300) == (0.9, 0.95, 0.97, 0.99)


# --------------------------------------------------------------------------------------------------------------- pairs


def long_study(n_pairs=0, budget=8 * 86 + RANGE_TEST_STEPS, **changes):
    """A study whose range tests and first pairs have ended, with the lowest loss at a decay of 1e-3."""
    settings = make_settings(budget, planned_steps=100, **changes)
    specs = [TrialSpec(f"range test/{name}", "range test", name, RANGE_TEST_STEPS) for name in settings.optimizers]
    study = make_study(settings, specs, None)
    for _ in range(n_pairs):
        free = due_trials(study)[0]
        spec = replace(free, **vars(next_point(study)))
        trial = make_trial(spec, decay_loss(1e-3)(spec), len(study.trials))
        study = Study(settings, (*study.trials, trial))
    return study


def test_a_pair_gets_its_settings_when_it_starts():
    due = due_trials(long_study())
    assert keys(due) == [f"pair/{i}" for i in range(8)]
    assert {(spec.steps, spec.max_lr, spec.momentum) for spec in due} == {(86, None, DEFAULT_MOMENTUM_CYCLE)}


def test_running_pairs_take_slots_and_stay_due():
    study = long_study(3)
    point = next_point(study)
    running = [replace(due_trials(study)[2], **vars(point))]
    due = due_trials(study, running)
    assert due[0] == running[0]
    assert keys(due) == ["pair/5", "pair/3", "pair/4", "pair/6", "pair/7"]
    assert next_point(study, running) != point
    not_placed = [due_trials(study)[2]]
    assert keys(due_trials(study, not_placed)) == keys(due)
    assert next_point(study, not_placed) == point


def test_running_trials_alone_are_due_once_the_budget_is_taken():
    study = long_study(7)
    running = [replace(due_trials(study)[0], **vars(next_point(study)))]
    assert due_trials(study, running) == running
    assert due_trials(long_study(8)) == []
    assert is_complete(long_study(8))
    assert not is_complete(study)


def test_a_key_that_was_given_back_is_free_again():
    study = long_study(4)
    gap = Study(study.settings, tuple(trial for trial in study.trials if trial.spec.key != "pair/1"))
    assert keys(due_trials(gap))[0] == "pair/1"


def test_a_pair_that_diverges_leaves_steps_for_another():
    study = long_study(7)
    last = due_trials(study)[0]
    diverged = make_trial(replace(last, **vars(next_point(study))), math.inf, 8)
    assert diverged.steps == 8
    ended = [replace(trial, result=diverged.result) for trial in study.trials[1:]]
    assert len(due_trials(Study(study.settings, (study.trials[0], *ended)))) == 7  # 632 of 688 steps are left


def test_pairs_end_if_no_improvement_is_expected_unless_another_sampler_decides():
    search = Search(make_settings(100 * 86 + RANGE_TEST_STEPS, planned_steps=86), decay_loss(1e-3, lambda x: x * x))
    assert 3 < len(search.keys) - 1 < 60
    assert is_complete(search.study)
    other = Study(replace(search.study.settings, sampler="TPESampler"), search.study.trials)
    assert keys(due_trials(other))
    assert not is_complete(other)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_pairs_of_several_workers_keep_the_budget_and_are_tried_once(workers):
    settings = make_settings(2 * (8 * 86 + RANGE_TEST_STEPS), planned_steps=100, optimizers=BOTH)
    search = Search(settings, decay_loss(1e-3, lambda x: x * x), workers)
    pairs = [trial.spec for trial in search.study.trials if trial.spec.stage == "pair"]
    assert len({(spec.optimizer, spec.max_lr, spec.weight_decay) for spec in pairs}) == len(pairs) == 16
    assert {spec.optimizer for spec in pairs} == set(BOTH)
    assert search.study.steps <= settings.budget


# ------------------------------------------------------------------------------------------------------------- budgets


def timed_study(seconds, *, per_step=0.01, tested=1.0, n_workers=1, **changes):
    """A study with a budget of time whose first range test took ``tested`` seconds from 1000 s on."""
    settings = make_settings(None, seconds=seconds, deadline=1000.0 + seconds, **changes)
    specs = [TrialSpec(f"range test/{name}", "range test", name, RANGE_TEST_STEPS) for name in settings.optimizers]
    times = {"started": 1000.0, "finished": 1000.0 + tested, "seconds_per_step": per_step, "n_workers": n_workers}
    return Study(settings, tuple(make_trial(spec, result_of(spec), i, **times) for i, spec in enumerate(specs)))


def test_a_budget_of_time_is_one_of_steps_once_a_step_is_timed():
    assert Study(make_settings(None, seconds=10.0, deadline=1010.0), ()).budget == 0
    assert timed_study(10.0).budget == RANGE_TEST_STEPS + 900
    assert timed_study(10.0, n_workers=2).budget == RANGE_TEST_STEPS + 1800
    assert timed_study(10.0, n_workers=4).budget == RANGE_TEST_STEPS + 2700
    both = timed_study(10.0, optimizers=BOTH)
    assert [both.for_optimizer(name).budget for name in BOTH] == [both.budget // 2] * 2


def test_workers_beyond_those_of_a_stage_are_no_gain():
    assert [speedup(n) for n in (1, 2, 3, 5, 6, 7, 99)] == [1, 2, 3, 3, 6, 6, 6]


def test_a_trial_is_due_only_if_it_is_expected_to_end_before_the_deadline():
    study = timed_study(10.0)
    due = due_trials(study)
    assert stages(due) == ["weight decay"]
    length = 0.01 * due[0].steps
    assert within_deadline(study, due, 1010.0 - length - 1e-6) == due
    assert within_deadline(study, due, 1010.0 - length + 1e-3) == []
    slow = make_trial(due[0], 1.0, 1, seconds_per_step=0.1)
    slowed = Study(study.settings, (*study.trials, slow))
    assert within_deadline(slowed, due_trials(slowed), 1010.0 - length - 1e-6) == []  # the slowest trial counts
    assert within_deadline(Study(make_settings(), study.trials), due, 1e9) == due  # no deadline


def test_range_tests_batch_sizes_and_the_first_pairs_always_run():
    settings = {"planned_steps": 100, "find_batch_size": True}
    study = timed_study(10.0, **settings)
    assert stages(within_deadline(study, due_trials(study), 1e9)) == ["batch size"]
    timed = {"seconds": 10.0, "deadline": 1010.0, "budget": None}
    for n_pairs, n_due in ((0, 8), (2, 6), (3, 0)):
        long = long_study(n_pairs)
        trials = tuple(replace(trial, seconds_per_step=0.01, finished=1.0) for trial in long.trials)
        long = Study(replace(long.settings, **timed), trials)
        assert len(within_deadline(long, due_trials(long_study(n_pairs)), 1e9)) == n_due


def test_a_search_whose_time_is_up_is_complete_if_no_trial_would_have_ended():
    study = timed_study(10.0)
    due = due_trials(study)
    length = 0.01 * due[0].steps
    for ended, complete in ((1010.0 - 2 * length, False), (1010.0 - 0.5 * length, True)):
        last = make_trial(due[0], 1.0, 1, finished=ended, seconds_per_step=0.01)
        assert is_complete(Study(study.settings, (*study.trials, last))) == complete


def test_too_little_time_is_an_error_that_names_the_minimum():
    needed = 1.0 + (MIN_BUDGET - RANGE_TEST_STEPS) * 0.01
    message = r"budget: got 2 s; a step takes about 10 ms here, .* take about (4\.5) s; .* with another study_name"
    with pytest.raises(ValueError, match=message):
        require_enough_time(timed_study(2.0))
    with pytest.raises(ValueError, match="budget: got"):
        require_enough_time(timed_study(0.99 * needed))
    require_enough_time(timed_study(1.01 * needed))
    require_enough_time(Study(make_settings(None, seconds=0.1, deadline=1000.1), ()))  # before anything is timed
    require_enough_time(Study(make_settings(), timed_study(2.0).trials))


def test_too_little_time_is_an_error_also_if_several_range_tests_end_together():
    with pytest.raises(ValueError, match=r"budget: got 5 s; .* take about 9\.2 s"):
        require_enough_time(timed_study(5.0, optimizers=BOTH))


def test_a_search_that_has_begun_its_trials_is_not_refused():
    study = timed_study(2.0)
    (spec, *_) = due_trials(timed_study(10.0))
    require_enough_time(Study(study.settings, (*study.trials, make_trial(spec, 1.0, 1))))
