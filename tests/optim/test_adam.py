"""What Adam and AdamW do under a schedule: beta1 is its momentum, beta2 and eps stay with the group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import clrfast
from clrfast import Schedule
from clrfast.schedules import Linear
from tests.helpers.optimizers import (
    BACKENDS,
    RULES,
    all_state,
    assert_near,
    assert_same,
    checkpoint_of,
    give_grads,
    make_params,
    run_steps,
)

pytestmark = [
    pytest.mark.parametrize("backend", BACKENDS),
    pytest.mark.parametrize("rule", [RULES["Adam"], RULES["AdamW"]]),
]
SCHEDULE = clrfast.one_cycle(0.1, 10)
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cycled_beta1_gives_the_numbers_of_torch_under_one_cycle(rule, backend, dtype):
    """torch's bias correction is 1 - beta1**t with the present beta1, not with the product of all."""
    given = {"betas": (0.95, 0.99), "weight_decay": 0.01}
    shown, seen = [], []

    def note(step, optimizer, params):
        (shown if isinstance(optimizer, rule.ours) else seen).append(
            (optimizer.param_groups[0]["lr"], *optimizer.param_groups[0]["betas"])
        )

    def make_scheduled(params):
        optimizer = rule.theirs(params, **given)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.1, total_steps=10, cycle_momentum=True, base_momentum=0.85, max_momentum=0.95
        )
        optimizer.register_step_post_hook(lambda *_: len(seen) < 10 and scheduler.step())
        return optimizer

    schedule = clrfast.schedules.one_cycle_cos(0.1, 10)
    ours, optimizer = run_steps(
        lambda p: rule.ours(p, schedule=schedule, backend=backend, **given), 10, dtype=dtype, before_step=note
    )
    theirs, stock = run_steps(make_scheduled, 10, dtype=dtype, before_step=note)
    torch.testing.assert_close(torch.tensor(shown), torch.tensor(seen), rtol=1e-6, atol=1e-9)
    # The table is float32: its values differ from torch's by half an ulp of float32, whatever the parameters are.
    for a, b in zip([*ours, *all_state(optimizer)], [*theirs, *all_state(stock)], strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-5, atol=1e-5)


def test_the_groups_show_beta1_and_keep_beta2_and_eps(rule, backend):
    schedule = Schedule(0.1, momentum=Linear(0.75, 0.5, 2), total_steps=5)

    def before(step, optimizer, params):
        group = optimizer.param_groups[0]
        assert group["betas"][0] == pytest.approx(max(0.75 - 0.125 * step, 0.5))
        if step == 2:
            group["betas"] = (group["betas"][0], 0.5)
            group["eps"] = 0.25
        assert group["betas"][1] == (0.95 if step < 2 else 0.5)

    def by_hand(step, optimizer, params):
        later = {"eps": 0.25} if step >= 2 else {}
        betas = (max(0.75 - 0.125 * step, 0.5), 0.95 if step < 2 else 0.5)
        optimizer.param_groups[0].update(lr=schedule.table()[step, 0, 0].item(), betas=betas, **later)

    def make(params):
        return rule.make(params, weight_decay=0.0, schedule=schedule, backend=backend)

    ours, optimizer = run_steps(make, 5, before_step=before)
    theirs, stock = run_steps(lambda p: rule.make_theirs(p, weight_decay=0.0), 5, before_step=by_hand)
    assert_near(ours, theirs, steps=5)
    assert_near(all_state(optimizer), all_state(stock), steps=5)


def test_a_schedule_without_momentum_keeps_each_groups_beta1(rule, backend):
    params = make_params([(2,), (3,), (4,)])
    groups = [{"params": params[:1], "betas": (0.5, 0.9)}, {"params": params[1:2], "betas": (0.0, 0.9)}]
    optimizer = rule.make(groups, schedule=clrfast.constant(0.1, 5), backend=backend)
    optimizer.add_param_group({"params": params[2:], "betas": (0.25, 0.75)})
    give_grads(params, 0)
    for _ in range(2):
        optimizer.step()
    assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.9), (0.0, 0.9), (0.25, 0.75)]
    assert optimizer.control.row[:, 1].tolist() == [0.5, 0.0, 0.25]


@pytest.mark.parametrize("betas", [(0.5, 0.95), [0.5, 0.95]], ids=["tuple", "list"])
def test_a_beta1_written_by_hand_is_refused(rule, backend, betas):
    params = make_params([(2,)])
    give_grads(params, 0)
    optimizer = rule.make(params, schedule=SCHEDULE, backend=backend)
    before = params[0].detach().clone()
    optimizer.param_groups[0]["betas"] = betas
    with pytest.raises(RuntimeError, match=r"param_groups\[0\]\['betas'\] was set to .0\.5, 0\.95.*schedule sets"):
        optimizer.step()
    assert_same(params, [before])
    assert not optimizer.state
    assert int(optimizer.control.step) == 0


def test_a_new_group_gets_the_scheduled_beta1_of_the_present_step(rule, backend):
    params = make_params([(2,), (3,)])
    optimizer = rule.make(params[:1], schedule=SCHEDULE, backend=backend)
    for step in range(3):
        give_grads(params[:1], step)
        optimizer.step()
    optimizer.add_param_group({"params": params[1:], "betas": (0.1, 0.5)})
    first, second = (group["betas"] for group in optimizer.param_groups)
    assert first[0] == second[0] == pytest.approx(SCHEDULE.table()[3, 0, 1])
    assert (first[1], second[1]) == (0.95, 0.5)
    give_grads(params, 3)
    optimizer.step()
    assert [optimizer.state[param]["step"].item() for param in params] == [4.0, 1.0]


def test_setting_a_schedule_keeps_moments_and_steps(rule, backend):
    def run(changes):
        params = make_params([(3,)])
        optimizer = rule.make(params, weight_decay=0.0, backend=backend)
        for step in range(4):
            if step == 2 and changes:
                optimizer.set_schedule(Schedule(0.1, momentum=0.8, total_steps=5))
            give_grads(params, step)
            optimizer.step()
        return [*params, *all_state(optimizer)]

    for a, b in zip(run(True), run(False), strict=True):  # 0.1 and 0.8 are float32 in a table
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-5, atol=1e-6)


def test_a_schedule_whose_momentum_reaches_1_changes_nothing(rule, backend):
    params = make_params([(3,)])
    optimizer = rule.make(params, schedule=SCHEDULE, backend=backend)
    give_grads(params, 0)
    optimizer.step()
    before, control = dict(optimizer.param_groups[0]), optimizer.control
    with pytest.raises(ValueError, match="schedule: its momentum reaches 1; it is beta1 here, so keep it below 1"):
        optimizer.set_schedule(Schedule(0.1, momentum=Linear(0.5, 1.0, 4), total_steps=5))
    assert optimizer.control is control
    assert optimizer.param_groups[0] == before
    optimizer.step()
    assert int(optimizer.control.step) == 2


def test_a_late_parameter_has_its_own_bias_correction(rule, backend):
    def run(make, before_step=None, **given):
        params = make_params([(3,), (4,)])
        optimizer = make(params, **given)
        for step in range(5):
            give_grads(params, step)
            if step < 3:
                params[1].grad = None
            if before_step is not None:
                before_step(step, optimizer, params)
            optimizer.step()
        return params, optimizer

    def by_hand(step, optimizer, params):
        lr, momentum, _ = SCHEDULE.table()[step, 0].tolist()
        optimizer.param_groups[0].update(lr=lr, betas=(momentum, 0.95))

    ours, optimizer = run(rule.make, schedule=SCHEDULE, backend=backend)
    theirs, _ = run(rule.make_theirs, by_hand)
    assert_near(ours, theirs, steps=5)
    assert [optimizer.state[param]["step"].item() for param in ours] == [5.0, 2.0]


def test_a_resumed_run_shows_and_uses_the_beta1_of_its_step(rule, backend):
    params, optimizer = run_steps(lambda p: rule.make(p, schedule=SCHEDULE, backend=backend), 4)
    saved = checkpoint_of(optimizer)
    copies = [nn.Parameter(param.detach().clone()) for param in params]
    resumed = rule.make(copies, betas=(0.3, 0.4), eps=0.5, backend=backend)
    resumed.load_state_dict(saved)
    assert resumed.param_groups[0]["betas"] == optimizer.param_groups[0]["betas"]
    assert resumed.param_groups[0]["eps"] == 1e-8
    for step in range(4, 8):
        for each, trained in ((params, optimizer), (copies, resumed)):
            give_grads(each, step)
            trained.step()
    assert_same([*params, *all_state(optimizer)], [*copies, *all_state(resumed)])
