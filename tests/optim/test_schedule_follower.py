"""The schedule follows what the user does to the parameter groups, or refuses it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import clrfast
from clrfast.schedules._group_values import set_momentum
from tests.helpers.optimizers import BACKENDS, every_rule
from tests.helpers.scheduled_runs import SCHEDULE, STEPS, assert_equal, made, network, train


@every_rule
def test_a_rate_of_0_written_by_the_user_is_refused(rule):
    model, optimizer = made(rule)
    train(model, optimizer, 0, 2)
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(RuntimeError, match="the schedule sets it"):
        train(model, optimizer, 2, 3)


@every_rule
@pytest.mark.parametrize("all_of_the_group", [False, True])
def test_a_step_written_into_the_groups_moves_the_schedule(rule, all_of_the_group):
    model, optimizer = made(rule)
    train(model, optimizer, 0, 3)
    optimizer.param_groups[0]["schedule_step"] = 20
    table = SCHEDULE.table()[:, 0]
    if all_of_the_group:  # checkpoint tools write them all
        lr, momentum, weight_decay = table[20].tolist()
        optimizer.param_groups[0].update(lr=lr, weight_decay=weight_decay)
        set_momentum(optimizer.param_groups[0], momentum)
    train(model, optimizer, 3, 4)
    assert optimizer.control.synchronize() == 21
    assert optimizer.param_groups[0]["lr"] == pytest.approx(table[21, 0])


@every_rule
def test_a_step_written_together_with_a_rate_is_refused_and_moves_nothing(rule):
    model, optimizer = made(rule)
    train(model, optimizer, 0, 3)
    optimizer.param_groups[0].update(schedule_step=20, lr=0.123)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"was set to 0\.123, but the schedule sets it \(.* at step 20\)"):
            train(model, optimizer, 3, 4)
    assert int(optimizer.control.step) == 3


@every_rule
def test_a_written_step_is_saved_and_survives_a_new_group(rule):
    model, optimizer = made(rule)
    train(model, optimizer, 0, 3)
    optimizer.param_groups[0]["schedule_step"] = 1
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["param_groups"][0]["schedule_step"] == int(saved["clrfast"]["progress"]["step"]) == 1
    optimizer.param_groups[0]["schedule_step"] = 2
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert optimizer.control.synchronize() == 2


@pytest.mark.parametrize("step", [-1, 2.5, True, "3"])
def test_a_written_step_that_is_not_a_whole_number_is_refused(step):
    model, optimizer = made()
    optimizer.param_groups[0]["schedule_step"] = step
    with pytest.raises(
        RuntimeError, match=r"param_groups\[0\]\['schedule_step'\]: got .*; it is the number of applied"
    ):
        train(model, optimizer, 0, 1)


@every_rule
def test_zero_gradients_at_the_schedules_own_rate_of_0_are_a_step(rule):
    params = [nn.Parameter(torch.ones(2))]
    for momentum in (None, 0.9):
        schedule = clrfast.Schedule(lr=clrfast.schedules.Linear(0.0, 0.1, 4), momentum=momentum, total_steps=6)
        optimizer = rule.ours(params, schedule=schedule)
        for _ in range(3):
            params[0].grad = torch.zeros(2)
            optimizer.step(loss=1.0)
        assert optimizer.control.synchronize() == 3
        assert optimizer.control.losses[:3].tolist() == [1.0] * 3


@every_rule
def test_written_steps_that_differ_between_groups_are_refused(rule):
    model = network()
    optimizer = rule.ours([{"params": [param]} for param in model.parameters()], schedule=SCHEDULE)
    train(model, optimizer, 0, 1)
    optimizer.param_groups[1]["schedule_step"] = 7
    with pytest.raises(RuntimeError, match=r"'schedule_step' are \[1, 7\]; all groups follow one schedule"):
        train(model, optimizer, 1, 2)


@every_rule
@pytest.mark.parametrize("schedule", [SCHEDULE, clrfast.Schedule(lr=0.05, momentum=0.9, total_steps=STEPS)])
def test_a_run_continues_with_groups_that_are_made_again(rule, schedule):
    """Loading a checkpoint with assign=True replaces all parameters in the middle of a run."""

    def run(replaces):
        model, optimizer = made(rule, schedule=schedule)
        train(model, optimizer, 0, 6)
        if replaces:
            state = {name: optimizer.state[param] for name, param in model.named_parameters()}
            model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
            optimizer.param_groups.clear()
            optimizer.state.clear()
            optimizer.add_param_group({"params": list(model.parameters())})
            optimizer.state.update({param: state[name] for name, param in model.named_parameters()})
        return train(model, optimizer, 6, STEPS), optimizer.control.synchronize()

    (ours, step), (wanted, _) = run(True), run(False)
    assert_equal(ours, wanted)
    assert step == STEPS


@every_rule
def test_groups_with_curves_of_their_own_can_be_made_again(rule):
    model = network()
    first, second = list(model.parameters())[:2], list(model.parameters())[2:]
    schedule = clrfast.Schedule(lr=[0.1, 0.01], momentum=0.9, total_steps=10)
    optimizer = rule.ours([{"params": first}, {"params": second}], schedule=schedule)
    train(model, optimizer, 0, 2)
    optimizer.param_groups.clear()
    train(model, optimizer, 2, 3)  # nothing is updated, so the schedule does not move
    optimizer.add_param_group({"params": first})
    with pytest.raises(RuntimeError, match="there are 1, and the schedule has curves for 2; add the missing groups"):
        train(model, optimizer, 2, 3)
    optimizer.add_param_group({"params": second})
    train(model, optimizer, 2, 3)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.1), pytest.approx(0.01)]
    assert optimizer.control.synchronize() == 3


def test_reordered_groups_keep_their_curves():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    curves = [clrfast.schedules.Linear(1.0, 1.0, 4), clrfast.schedules.Linear(1.0, 0.0, 4)]
    optimizer = clrfast.SGD([{"params": [p]} for p in params], schedule=clrfast.Schedule(lr=curves, total_steps=5))
    for step in range(5):
        for param in params:
            param.grad = torch.ones(1)
        if step == 2:
            optimizer.param_groups.reverse()
        optimizer.step()
    assert [param.item() for param in params] == [-5.0, -2.5]


@every_rule
def test_a_step_without_groups_does_nothing(rule):
    model, optimizer = made(rule)
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    optimizer.step()
    assert optimizer.state_dict()["param_groups"] == []
    optimizer.param_groups.extend(groups)
    train(model, optimizer, 0, 1)
    assert optimizer.control.synchronize() == 1


@every_rule
def test_a_removed_group_leaves_the_others_alone(rule):
    model = network()
    optimizer = rule.ours([{"params": [param]} for param in model.parameters()], schedule=SCHEDULE)
    train(model, optimizer, 0, 2)
    removed = optimizer.param_groups.pop(1)["params"][0].detach().clone()
    after = train(model, optimizer, 2, 3)
    assert torch.equal(after[1], removed)
    assert optimizer.control.synchronize() == 3


def remove_last_group(optimizer):
    for param in optimizer.param_groups.pop()["params"]:
        optimizer.state.pop(param, None)


@every_rule
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("schedule", [SCHEDULE, clrfast.Schedule(lr=0.05, momentum=0.9, total_steps=STEPS)])
def test_a_copy_made_after_a_group_was_removed_saves_and_loads(rule, backend, copied, schedule):
    """No step between the removal and the copy lets the schedule follow the groups."""

    def run(change):
        model = network()
        first, *_, last = params = list(model.parameters())
        optimizer = rule.ours([first], schedule=schedule, backend=backend)
        optimizer.add_param_group({"params": [last]})
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        remove_last_group(optimizer)
        optimizer = change(optimizer)
        (group,) = optimizer.param_groups
        for param in group["params"]:
            param.grad = torch.ones_like(param)
        optimizer.step()
        return group["params"], optimizer

    def copied_and_loaded(optimizer):
        made = copied(optimizer)
        made.load_state_dict(made.state_dict())
        return made

    (ours, optimizer), (wanted, _) = run(copied_and_loaded), run(lambda optimizer: optimizer)
    assert_equal(ours, wanted)
    assert optimizer.control.synchronize() == 2


def test_a_copy_made_after_groups_were_reordered_keeps_their_curves():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    curves = [clrfast.schedules.Linear(1.0, 1.0, 4), clrfast.schedules.Linear(1.0, 0.0, 4)]
    optimizer = clrfast.SGD([{"params": [p]} for p in params], schedule=clrfast.Schedule(lr=curves, total_steps=5))
    optimizer.param_groups.reverse()
    optimizer = copy.deepcopy(optimizer)
    for _ in range(5):
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones(1)
        optimizer.step()
    assert [group["params"][0].item() for group in optimizer.param_groups] == [-2.5, -5.0]


@every_rule
@pytest.mark.parametrize("prepare", ["load_state_dict", "init_state"])
@pytest.mark.parametrize("change", ["remove", "append", "clear"])
def test_groups_that_changed_since_the_last_step_are_followed_first(rule, prepare, change):
    model = network()
    first, second, third, _ = params = list(model.parameters())
    optimizer = rule.ours([{"params": [first]}, {"params": [second]}], schedule=SCHEDULE)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    if change == "append":
        optimizer.param_groups.append({**optimizer.param_groups[0], "params": [third]})
    for _ in range({"remove": 1, "append": 0, "clear": 2}[change]):
        remove_last_group(optimizer)
    n_groups = len(optimizer.param_groups)
    if prepare == "init_state":
        optimizer.init_state()
        assert len(optimizer.state) == n_groups
    else:
        stock = rule.theirs([{"params": group["params"]} for group in optimizer.param_groups] or [{"params": []}])
        saved = stock.state_dict()
        saved["param_groups"] = saved["param_groups"][:n_groups]
        optimizer.load_state_dict(saved)
    optimizer.step()
    assert optimizer.control.synchronize() == 1 + (n_groups > 0)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(float(SCHEDULE.lr(2)))] * n_groups
