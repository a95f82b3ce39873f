"""A group's "lr_scale" (timm's layer decay) multiplies its rate, once."""

import copy
import pickle

import numpy as np
import pytest
import torch

import clrfast
from clrfast.integrations._follow import follow
from tests.helpers.optimizers import BACKENDS, every_rule
from tests.helpers.scheduled_runs import SCHEDULE, STEPS, assert_equal, network, train
from tests.helpers.schedulers import rates_of

SCALES = [0.25, 1.0]
RATES = SCHEDULE.table()[:, 0, 0].astype(np.float64)


def scaled_groups(model, scales=SCALES):
    return [
        {"params": list(model[0].parameters()), "lr_scale": scales[0]},
        {"params": list(model[2].parameters()), "lr_scale": scales[1]},
    ]


def scaled(rule, schedule=SCHEDULE, **options):
    model = network()
    return model, rule.ours(scaled_groups(model), schedule=schedule, **options)


def shown(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def rates_in(optimizer):
    return optimizer.control.host_table[:, :, 0]


@every_rule
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scaled_group_trains_as_one_with_a_scaled_curve(rule, backend):
    model, optimizer = scaled(rule, backend=backend)
    other = network()
    curves = [[0.25 * lr for lr in RATES], list(RATES)]
    schedule = clrfast.Schedule(
        [lambda steps, values=values: np.array(values)[steps.astype(int)] for values in curves],
        SCHEDULE.momentum,
        SCHEDULE.weight_decay,
        STEPS,
    )
    plain = rule.ours(
        [{"params": other[0].parameters()}, {"params": other[2].parameters()}], schedule=schedule, backend=backend
    )
    assert_equal(train(model, optimizer, 0, STEPS), train(other, plain, 0, STEPS))
    np.testing.assert_allclose(rates_in(optimizer), np.outer(RATES, SCALES), rtol=1e-6)


@every_rule
def test_an_adapter_and_the_optimizers_table_have_the_same_rates(rule):
    _, optimizer = scaled(rule)
    model = network()
    theirs = rule.theirs(scaled_groups(model), lr=0.1)
    rates = rates_of(theirs, clrfast.as_lr_scheduler(theirs, SCHEDULE), STEPS)
    np.testing.assert_allclose(rates, rates_in(optimizer), rtol=1e-6)


@every_rule
def test_one_curve_per_group_is_scaled_as_well(rule):
    curves = clrfast.Schedule([0.5, 0.1], total_steps=3)
    _, optimizer = scaled(rule, curves)
    assert shown(optimizer) == pytest.approx([0.125, 0.1])
    theirs = rule.theirs(scaled_groups(network()), lr=0.1)
    clrfast.as_lr_scheduler(theirs, curves)
    assert shown(theirs) == pytest.approx([0.125, 0.1])


@every_rule
def test_a_group_that_is_added_has_its_scale_and_leaves_the_others(rule):
    model, optimizer = scaled(rule)
    train(model, optimizer, 0, 5)
    extra = torch.nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [extra], "lr_scale": 0.5})
    assert shown(optimizer) == pytest.approx([0.25 * RATES[5], RATES[5], 0.5 * RATES[5]])
    train(model, optimizer, 5, 6)
    assert shown(optimizer) == pytest.approx([0.25 * RATES[6], RATES[6], 0.5 * RATES[6]])


@every_rule
@pytest.mark.parametrize("with_schedule", [True, False])
def test_a_loaded_run_is_scaled_once(rule, with_schedule):
    model, optimizer = scaled(rule)
    train(model, optimizer, 0, 5)
    other, loaded = scaled(rule, SCHEDULE if with_schedule else None)
    other.load_state_dict(model.state_dict())
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    np.testing.assert_array_equal(rates_in(loaded), rates_in(optimizer))
    assert_equal(train(model, optimizer, 5, STEPS), train(other, loaded, 5, STEPS))
    loaded.load_state_dict(copy.deepcopy(loaded.state_dict()))
    np.testing.assert_array_equal(rates_in(loaded), rates_in(optimizer))


@every_rule
@pytest.mark.parametrize("with_schedule", [True, False])
def test_groups_alone_restore_a_run_that_is_scaled_once(rule, with_schedule):
    """torch.distributed.checkpoint saves "state" and "param_groups" only."""
    model, optimizer = scaled(rule)
    train(model, optimizer, 0, 5)
    saved = {name: copy.deepcopy(optimizer.state_dict())[name] for name in ("state", "param_groups")}
    other, loaded = scaled(rule, SCHEDULE if with_schedule else None)
    other.load_state_dict(model.state_dict())
    loaded.load_state_dict(saved)
    assert_equal(train(model, optimizer, 5, STEPS), train(other, loaded, 5, STEPS))
    np.testing.assert_array_equal(rates_in(loaded), rates_in(optimizer))


@every_rule
@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_is_scaled_once(rule, make_copy):
    model, optimizer = scaled(rule)
    train(model, optimizer, 0, 5)
    twin = make_copy(optimizer)
    twin.state_dict()
    assert shown(twin) == shown(optimizer)
    np.testing.assert_array_equal(rates_in(twin), rates_in(optimizer))


@every_rule
def test_a_second_schedule_is_scaled_once_and_without_a_warning(rule):
    model, optimizer = scaled(rule)
    train(model, optimizer, 0, 3)
    optimizer.set_schedule(SCHEDULE)
    np.testing.assert_allclose(rates_in(optimizer), np.outer(RATES, SCALES), rtol=1e-6)
    follow(optimizer, SCHEDULE)
    np.testing.assert_allclose(rates_in(optimizer), np.outer(RATES, SCALES), rtol=1e-6)
    optimizer.set_schedule(SCHEDULE.for_groups(optimizer.param_groups))
    np.testing.assert_allclose(rates_in(optimizer), np.outer(RATES, SCALES), rtol=1e-6)


@every_rule
def test_the_ratios_of_the_rates_are_kept_beside_the_scales(rule):
    groups = scaled_groups(network())
    groups[1]["lr"], groups[0]["lr"] = 0.05, 0.1
    ours, theirs = rule.ours(copy.deepcopy(groups)), rule.theirs(copy.deepcopy(groups))
    for _ in range(2):
        follow(ours, SCHEDULE)
        np.testing.assert_allclose(rates_in(ours), np.outer(RATES, [0.25, 0.5]), rtol=1e-6)
    rates = rates_of(theirs, follow(theirs, SCHEDULE), STEPS)
    np.testing.assert_allclose(rates, np.outer(RATES, [0.25, 0.5]), rtol=1e-6)


@every_rule
@pytest.mark.parametrize("bad", ["much", None, float("nan"), float("inf"), -0.5, True, torch.ones(2)])
@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_a_scale_that_is_no_number_is_refused(rule, bad, kind):
    optimizer = getattr(rule, kind)(scaled_groups(network(), [1.0, bad]), lr=0.1)
    with pytest.raises(ValueError, match=r"param_groups\[1\]\['lr_scale'\]: got .*; give a "):
        follow(optimizer, SCHEDULE)


def test_a_refused_group_is_not_added():
    model = network()
    optimizer = clrfast.SGD(model[0].parameters(), schedule=SCHEDULE)
    with pytest.raises(ValueError, match="lr_scale"):
        optimizer.add_param_group({"params": model[2].parameters(), "lr_scale": "much"})
    assert len(optimizer.param_groups) == 1
    train(model, optimizer, 0, 1)


def test_a_scale_of_0_freezes_its_group():
    model = network()
    before = model[0].weight.clone()
    optimizer = clrfast.SGD(scaled_groups(model, [0.0, 1.0]), schedule=SCHEDULE)
    train(model, optimizer, 0, STEPS)
    optimizer.set_schedule(SCHEDULE.for_groups(optimizer.param_groups))
    assert torch.equal(model[0].weight, before)
    assert (rates_in(optimizer)[:, 0] == 0).all()


@every_rule
def test_rates_that_contain_the_scale_count_without_it(rule):
    groups = scaled_groups(network())
    for group, scale in zip(groups, SCALES, strict=True):
        group["lr"] = 0.01 * scale
    theirs = rule.theirs(groups)
    rates = rates_of(theirs, clrfast.as_lr_scheduler(theirs, SCHEDULE), STEPS)
    np.testing.assert_allclose(rates, np.outer(RATES, SCALES), rtol=1e-6)
