"""``clip_norm`` equals ``torch.nn.utils.clip_grad_norm_`` before the step, and skips updates that are not finite."""

from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from tests.helpers.optimizers import (
    BACKENDS,
    DTYPES,
    all_state,
    assert_near,
    assert_same,
    checkpoint_of,
    every_rule,
    give_grads,
    larger_eps,
    make_params,
    past_the_end,
    run_steps,
)
from tests.helpers.ranks import needs_fully_shard, needs_gloo, run_job

on_every_backend = pytest.mark.parametrize("backend", BACKENDS)
SHAPES = [(3, 4), (5,), (), (0,), (70,)]


def clipped(params, max_norm):
    """Clip as torch does; return the norm in float64."""
    norm = torch.nn.utils.clip_grad_norm_(params, max_norm)
    return norm.double()


@on_every_backend
@every_rule
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_norm", [0.5, 8.0, 1e6])
def test_the_numbers_are_those_of_clip_grad_norm_before_the_step(rule, backend, dtype, max_norm):
    norms, wanted = [], []

    def clip(step, optimizer, params):
        wanted.append(clipped(params, max_norm))

    def note(step, optimizer, params):
        if optimizer.grad_norm is not None:
            norms.append(optimizer.grad_norm.clone())

    given = larger_eps(rule, dtype)
    ours, optimizer = run_steps(
        lambda p: rule.make(p, clip_norm=max_norm, backend=backend, **given), 5, SHAPES, dtype, before_step=note
    )
    theirs, stock = run_steps(lambda p: rule.make_theirs(p, **given), 5, SHAPES, dtype, before_step=clip)
    assert_near(ours, theirs, steps=5)
    assert_near(all_state(optimizer), all_state(stock), steps=5)
    assert optimizer.grad_norm.dtype == torch.float64
    assert optimizer.grad_norm.shape == ()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(torch.stack([*norms, optimizer.grad_norm]), torch.stack(wanted), rtol=4 * eps, atol=0)


@on_every_backend
@every_rule
def test_all_groups_and_layouts_have_one_norm(rule, backend):
    """A gradient of another layout takes the reference path, and its squares count as well."""

    def run(make, clips, **given):
        params = make_params([(3, 4), (5,), (6, 2)])
        groups = [{"params": params[:1], "lr": 0.5}, {"params": params[1:]}]
        optimizer = make(groups, **given)
        for step in range(4):
            give_grads(params, step)
            if step % 2:
                params[2].grad = params[2].grad.t().contiguous().t()
            if step == 3:
                params[1].grad = None
            if clips:
                clipped(params, 0.5)
            optimizer.step()
        return params

    assert_near(run(rule.make, False, clip_norm=0.5, backend=backend), run(rule.make_theirs, True), steps=4)


@on_every_backend
@every_rule
def test_the_norm_is_of_accumulated_gradients_and_leaves_them_alone(rule, backend):
    def run(make, clips, **given):
        params = make_params(SHAPES)
        optimizer = make(params, **given)
        for step in range(3):
            optimizer.zero_grad()
            for part in range(2):
                give = make_params(SHAPES, seed=10 * step + part)
                sum((param * grad.detach()).sum() for param, grad in zip(params, give, strict=True)).backward()
            before = [param.grad.clone() for param in params]
            if clips:
                clipped(params, 0.5)
            optimizer.step()
            if not clips:
                assert_same([param.grad for param in params], before)
        return params

    assert_near(run(rule.make, False, clip_norm=0.5, backend=backend), run(rule.make_theirs, True), steps=3)


@on_every_backend
@every_rule
@pytest.mark.parametrize("fused", [False, True])
def test_the_norm_is_of_unscaled_gradients(rule, backend, fused):
    def run(make, clips, **given):
        params = make_params([(3,), (4, 2)])
        optimizer = make(params, **given)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
        for factor in (1.0, float("inf"), 3.0, -2.0, 1.5):
            optimizer.zero_grad()
            scaler.scale(sum((factor * param * param).sum() for param in params)).backward()
            if clips:
                scaler.unscale_(optimizer)
                clipped(params, 0.5)
            scaler.step(optimizer)
            scaler.update()
        return params, all_state(optimizer)

    (ours, state), (theirs, wanted) = (
        run(rule.make, False, clip_norm=0.5, fused=fused, backend=backend),
        run(rule.make_theirs, True),
    )
    assert_near(ours, theirs, steps=4)
    assert_near(state, wanted, steps=4)


@on_every_backend
@every_rule
def test_gradients_unscaled_by_hand_are_clipped_once(rule, backend):
    params = make_params([(3,)])
    optimizer = rule.make(params, clip_norm=0.5, fused=True, backend=backend)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    scaler.scale((params[0] ** 2).sum()).backward()
    scaler.unscale_(optimizer)
    wanted = params[0].grad.double().norm()
    scaler.step(optimizer)
    torch.testing.assert_close(optimizer.grad_norm, wanted, rtol=1e-6, atol=0)


@on_every_backend
@every_rule
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("schedule", [None, clrfast.one_cycle(0.1, 8)], ids=["stock", "scheduled"])
def test_a_norm_that_is_not_finite_skips_the_update(rule, backend, value, schedule):
    def run(bad_steps):
        params = make_params([(3,), (4,)])
        optimizer = rule.make(params, clip_norm=0.5, schedule=schedule, backend=backend)
        for step in range(5):
            give_grads(params, step)
            if step in bad_steps:
                before = [tensor.detach().clone() for tensor in (*params, *all_state(optimizer))]
                shown = [group["lr"] for group in optimizer.param_groups]
                params[1].grad[2] = value
                optimizer.step()
                assert not optimizer.grad_norm.isfinite()
                if before[len(params) :]:
                    assert_same([*params, *all_state(optimizer)], before)
                if backend != "cuda" and schedule is not None:  # the host learns of a skipped update only by waiting
                    assert [group["lr"] for group in optimizer.param_groups] == shown
                    assert optimizer.control.host_step == step
                if schedule is not None:
                    optimizer.control.synchronize()
                    optimizer.follower.synchronize(optimizer.param_groups)
                give_grads(params, step)
            optimizer.step()
        return params, optimizer

    (ours, optimizer), (wanted, alone) = run({0, 2}), run(())
    assert_same([*ours, *all_state(optimizer)], [*wanted, *all_state(alone)])
    if schedule is not None:
        assert int(optimizer.control.step) == 5
        assert_same([optimizer.control.grad_norms], [alone.control.grad_norms])


@past_the_end
@on_every_backend
@every_rule
def test_the_norms_of_all_steps_are_recorded_and_saved(rule, backend):
    schedule = clrfast.one_cycle(0.1, 4)
    wanted = []
    params = make_params(SHAPES)
    optimizer = rule.make(params, schedule=schedule, clip_norm=0.5, backend=backend)
    for step in range(6):
        give_grads(params, step)
        wanted.append(torch.linalg.vector_norm(torch.cat([param.grad.reshape(-1) for param in params])))
        optimizer.step()
        if step == 2:
            saved = checkpoint_of(optimizer)
    torch.testing.assert_close(optimizer.control.grad_norms, torch.stack(wanted[:4]), rtol=1e-6, atol=0)
    resumed = rule.make(params, schedule=schedule, clip_norm=0.5, backend=backend)
    resumed.load_state_dict(copy.deepcopy(saved))
    assert_same([resumed.control.grad_norms[:3]], [optimizer.control.grad_norms[:3]])
    assert resumed.control.grad_norms[3].isnan()
    del saved["clrfast"]["progress"]["grad_norms"]  # saved before there were any
    old = rule.make(params, schedule=schedule, backend=backend)
    old.load_state_dict(saved)
    assert int(old.control.step) == 3
    assert old.control.grad_norms.isnan().all()


@on_every_backend
@every_rule
def test_without_clip_norm_no_norm_is_measured(rule, backend):
    _, optimizer = run_steps(lambda p: rule.make(p, schedule=clrfast.one_cycle(0.1, 4), backend=backend), 2)
    assert optimizer.grad_norm is None
    assert optimizer.control.grad_norms.isnan().all()


BAD = [0, 0.0, -1.0, float("nan"), float("inf"), "1", True, torch.tensor(1.0), torch.ones(2), [1.0], 1j]


@on_every_backend
@every_rule
@pytest.mark.parametrize("value", BAD, ids=repr)
def test_a_bad_clip_norm_is_refused_and_changes_nothing(rule, backend, value):
    params = make_params([(3,)])
    with pytest.raises(ValueError, match=r"clip_norm: got .*; give a finite number above 0, or None"):
        rule.make(params, clip_norm=value, backend=backend)
    optimizer = rule.make(params, clip_norm=2.0, backend=backend)
    with pytest.raises(ValueError, match=r"clip_norm: got .*; give a finite number above 0, or None"):
        optimizer.clip_norm = value
    assert optimizer.clip_norm == optimizer.defaults["clip_norm"] == 2.0


@on_every_backend
@every_rule
def test_any_real_number_is_a_clip_norm_and_a_new_one_holds_from_the_next_step_on(rule, backend):
    values = [None, 1, np.float32(0.5), Fraction(1, 4), None]

    def renew(step, optimizer, params):
        optimizer.clip_norm = values[step]

    def clip(step, optimizer, params):
        if values[step] is not None:
            clipped(params, float(values[step]))

    ours, optimizer = run_steps(lambda p: rule.make(p, backend=backend), 5, SHAPES, before_step=renew)
    theirs, _ = run_steps(rule.make_theirs, 5, SHAPES, before_step=clip)
    assert_near(ours, theirs, steps=5)
    assert optimizer.defaults["clip_norm"] is None


@on_every_backend
@every_rule
def test_the_norm_of_large_gradients_does_not_overflow(rule, backend):
    """The square of a float32 gradient overflows float32."""
    (param,) = params = make_params([(3,)])
    optimizer = rule.make(params, clip_norm=1.0, backend=backend)
    param.grad = torch.full((3,), 1e30)
    optimizer.step()
    torch.testing.assert_close(optimizer.grad_norm.item(), 3**0.5 * 1e30, rtol=1e-6, atol=0)
    assert param.isfinite().all()
    assert all(tensor.isfinite().all() and tensor.any() for tensor in all_state(optimizer))


@on_every_backend
@every_rule
def test_a_step_without_gradients_has_a_norm_of_0(rule, backend):
    params = make_params([(3,)])
    optimizer = rule.make(params, clip_norm=1.0, backend=backend)
    optimizer.step()
    assert optimizer.grad_norm == 0
    assert not optimizer.state_dict()["state"]


@on_every_backend
@every_rule
def test_master_weights_are_updated_by_clipped_gradients(rule, backend):
    def run(clip_norm):
        params = make_params([(30,)], torch.bfloat16)
        optimizer = rule.make(params, clip_norm=clip_norm, master_weights=True, backend=backend)
        for step in range(3):
            give_grads(params, step)
            if clip_norm is None:
                factor = (0.5 / (params[0].grad.double().norm() + 1e-6)).item()
                optimizer.grad_scale = torch.tensor(1 / factor)
            optimizer.step()
        return all_state(optimizer)

    assert_near(run(0.5), run(None), steps=3)


@pytest.mark.slow
@needs_gloo
@needs_fully_shard
def test_the_norm_of_sharded_gradients_is_that_of_all_ranks(tmp_path):
    first, second = run_job("clip_on_ranks", tmp_path)
    assert first.keys() == {"SGD", "Adam", "AdamW"}
    for name, results in first.items():
        assert results["norms"] == second[name]["norms"]
        assert results["norms"] == pytest.approx(results["torchs norms"], rel=1e-6)
        assert results["params"] == pytest.approx(results["torchs params"], rel=1e-5, abs=1e-6)
        assert results["recorded"] == pytest.approx(results["norms"], rel=1e-6)


def test_parameters_are_not_needed_for_a_norm():
    optimizer = clrfast.AdamW([{"params": []}], clip_norm=1.0)
    optimizer.step()
    assert optimizer.grad_norm == 0
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert "clip_norm" not in optimizer.param_groups[1]
