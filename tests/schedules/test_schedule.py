import numpy as np
import pytest

from clrfast import Schedule
from clrfast.schedules import Constant, Linear

GROUPS = [{"lr": 1.0, "momentum": 0.9, "weight_decay": 0.1}, {"lr": 2.0, "momentum": 0.5, "weight_decay": 0.0}]


def test_the_table_of_one_group_has_a_row_per_step():
    table = Schedule(Linear(0.0, 1.0, 2), momentum=0.5, total_steps=4).table()
    assert table.dtype == np.float32
    assert table.tolist() == [[[0.0, 0.5, 0.0]], [[0.5, 0.5, 0.0]], [[1.0, 0.5, 0.0]], [[1.0, 0.5, 0.0]]]


def test_the_table_of_several_groups_has_a_column_per_group():
    table = Schedule([1.0, Linear(0.0, 2.0, 1)], weight_decay=[0.25, 0.5]).table(2)
    assert table.tolist() == [[[1.0, 0.0, 0.25], [0.0, 0.0, 0.5]], [[1.0, 0.0, 0.25], [2.0, 0.0, 0.5]]]


def test_the_argument_total_steps_overrides_the_schedules_own():
    assert len(Schedule(0.1, total_steps=5).table(2)) == 2


def test_a_plain_function_is_a_curve():
    assert Schedule(lambda step: 1 / (1 + step)).table(3)[:, 0, 0].tolist() == pytest.approx([1, 1 / 2, 1 / 3])


def test_bound_to_fills_in_the_groups_own_values():
    bound = Schedule(Linear(0.0, 1.0, 1), weight_decay=lambda step: 0.5 + 0 * step, total_steps=2).bound_to(GROUPS)
    assert bound.n_groups == 2
    assert bound.momentum == (Constant(0.9), Constant(0.5))
    np.testing.assert_array_equal(
        bound.table(), np.float32([[[0, 0.9, 0.5], [0, 0.5, 0.5]], [[1, 0.9, 0.5], [1, 0.5, 0.5]]])
    )


def test_a_schedule_survives_its_dict_form():
    bound = Schedule(Linear(0.0, 1.0, 1), momentum=[0.9, 0.8], total_steps=3).bound_to(GROUPS)
    assert Schedule.from_dict(bound.to_dict()) == bound
    unbound = Schedule(0.1)
    assert Schedule.from_dict(unbound.to_dict()) == unbound


def test_a_dict_written_by_hand_is_read():
    assert Schedule.from_dict({"lr": 0.1, "total_steps": 5}) == Schedule(0.1, total_steps=5)
    assert Schedule.from_dict({"lr": [0.1, {"kind": "Constant", "value": 0.2}]}) == Schedule([0.1, 0.2])


def test_a_number_equals_a_constant_curve():
    assert Schedule(0.1, total_steps=2) == Schedule(Constant(0.1), total_steps=2)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Schedule(None), "lr: got None"),
        (lambda: Schedule("fast"), "lr: got 'fast'"),
        (lambda: Schedule([]), "lr: got an empty sequence"),
        (lambda: Schedule([0.1, 0.2], momentum=[0.9] * 3), "disagree about the number of groups"),
        (lambda: Schedule(0.1, total_steps=0), "total_steps: got 0"),
        (lambda: Schedule(0.1, total_steps=2.5), "total_steps: got 2.5"),
        (lambda: Schedule(0.1, total_steps=True), "total_steps: got True"),
        (lambda: Schedule(0.1).table(), "total_steps: got None"),
        (lambda: Schedule(0.1).table(0), "total_steps: got 0"),
        (lambda: Schedule(0.1).bound_to(GROUPS), "has no total_steps"),
        (lambda: Schedule([0.1] * 3, total_steps=1).bound_to(GROUPS), "has 3 groups, but the optimizer has 2"),
        (lambda: Schedule(-0.1).table(1), "lr: got -0.1 at step 0"),
        (lambda: Schedule(Linear(0.0, 1e39, 2)).table(3), "lr: got 5e[+]38 at step 1"),
        (lambda: Schedule(0.1, momentum=lambda s: s * np.nan).table(2), "momentum: got nan at step 0"),
        (lambda: Schedule(lambda s: s[:1]).table(2), r"returned shape \(1,\) for steps of shape \(2,\)"),
        (lambda: Schedule(lambda s: s).to_dict(), "has no dict form"),
    ],
)
def test_errors_name_the_bad_argument(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_for_groups_keeps_the_ratios_of_the_rates():
    schedule = Schedule(Linear(0.0, 1.0, 1), total_steps=2).for_groups([{"lr": 0.1}, {"lr": 0.4}, {"lr": 0.0}])
    np.testing.assert_allclose(schedule.table()[1, :, 0], [0.25, 1.0, 0.0])
    with pytest.raises(ValueError, match="already has 3 curves for lr"):
        schedule.for_groups([{"lr": 0.1}])
    for groups in ([], [{"lr": 0.0}]):
        with pytest.raises(ValueError, match="param_groups: their lr are"):
            Schedule(0.1).for_groups(groups)


def test_a_single_curve_serves_all_groups_of_a_table():
    table = Schedule([0.1, 0.2], momentum=0.5, weight_decay=[0.25, None], total_steps=2).table()
    np.testing.assert_allclose(table, [[[0.1, 0.5, 0.25], [0.2, 0.5, 0.0]]] * 2)


def test_for_groups_leaves_out_a_scale_that_a_schedule_has_written():
    schedule, scales = Schedule(1.0, total_steps=1), (0.25, 0.5, 1.0)

    def ratios(rates, **written):
        groups = [{"lr": lr, "lr_scale": scale, **written} for lr, scale in zip(rates, scales, strict=True)]
        return schedule.for_groups(groups).table()[0, :, 0].tolist()

    assert ratios([0.4, 0.4, 0.4]) == [1, 1, 1]
    assert ratios([0.1, 0.2, 0.4]) == [1, 1, 1]  # timm's scheduler has multiplied
    assert ratios([0.4, 0.2, 0.4]) == [1, 0.5, 1]
    for name in ("schedule_step", "scheduled_lr"):
        np.testing.assert_allclose(ratios([0.1, 0.1, 0.4], **{name: 3}), [1, 0.5, 1])


def test_scaled_for_multiplies_the_rates_alone():
    schedule = Schedule(Linear(0.0, 1.0, 1), momentum=0.9, weight_decay=0.1, total_steps=2)
    groups = [{"lr_scale": 0.5}, {}]
    np.testing.assert_allclose(schedule.scaled_for(groups).table()[1], [[0.5, 0.9, 0.1], [1.0, 0.9, 0.1]])
    assert schedule.scaled_for([{}, {"lr_scale": 1}]) is schedule
    each = Schedule([0.2, 0.4], total_steps=1).scaled_for(groups)
    np.testing.assert_allclose(each.table()[0, :, 0], [0.1, 0.4])
    assert Schedule.from_dict(each.to_dict()) == each


def test_with_warm_up_shifts_the_schedule_behind_a_linear_rise():
    decay = Schedule(Linear(1.0, 0.0, 2), momentum=Linear(0.5, 0.25, 2), total_steps=3)
    warm = decay.with_warm_up(4, start_frac=0.5)
    assert warm.total_steps == 7
    assert warm.table()[:, 0, 0].tolist() == [0.5, 0.625, 0.75, 0.875, 1.0, 0.5, 0.0]
    assert warm.table()[:, 0, 1].tolist() == [0.5, 0.5, 0.5, 0.5, 0.5, 0.375, 0.25]
    assert Schedule.from_dict(warm.to_dict()) == warm
    groups = Schedule([1.0, 2.0], total_steps=2).with_warm_up(2)
    assert groups.table()[:, :, 0].tolist() == [[0, 0], [0.5, 1], [1, 2], [1, 2]]
    for bad, named in (
        ({"warm_up_steps": 0}, "warm_up_steps: got 0"),
        ({"warm_up_steps": 1, "start_frac": 2}, "start_"),
    ):
        with pytest.raises(ValueError, match=named):
            decay.with_warm_up(**bad)


def test_in_steps_converts_epochs_to_steps():
    epochs = Schedule(Linear(0.0, 2.0, 2), total_steps=2)
    steps = epochs.in_steps(steps_per_epoch=4)
    assert steps.total_steps == 8
    np.testing.assert_allclose(steps.table()[:, 0, 0], np.arange(8) / 4)


def test_extended_to_keeps_the_last_value_and_continues_recognises_it():
    short = Schedule(Linear(0.0, 1.0, 2), total_steps=3)
    longer = short.extended_to(5)
    assert longer.table()[:, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert longer.continues(short)
    assert short.continues(short)
    assert not short.continues(longer)
    assert not Schedule(0.1, total_steps=5).continues(short)
    function = Schedule(lambda step: 0.1 + 0.01 * step, total_steps=5)
    assert function.extended_to(9).without_functions().continues(function.without_functions())
    assert not function.without_functions().continues(
        Schedule(lambda step: 0.2 + 0 * step, total_steps=5).without_functions()
    )
    with pytest.raises(ValueError, match="total_steps: got 2, less than the 3 before"):
        short.extended_to(2)


def test_an_extended_schedule_resumes_without_a_warning():
    import clrfast
    from tests.helpers.optimizers import run_steps

    schedule = Schedule(Linear(0.0, 1.0, 3), total_steps=4)
    params, optimizer = run_steps(lambda p: clrfast.SGD(p, schedule=schedule), 4, [(2,)])
    longer = clrfast.SGD(params, schedule=schedule.extended_to(10))
    longer.load_state_dict(optimizer.state_dict())
    assert longer.control.host_step == 4
    assert longer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("total_steps", ["a", float("nan"), float("inf"), -1, None])
def test_bad_total_steps_are_refused(total_steps):
    if total_steps is not None:
        with pytest.raises(ValueError, match="total_steps: got"):
            Schedule(0.1, total_steps=total_steps)
    with pytest.raises(ValueError, match="total_steps: got"):
        Schedule(0.1).table(total_steps)
