"""timm: layer decay (lr_scale), its training loop's scaler, clipping, EMA and checkpoints. It needs no adapter."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import tests.helpers.torchvision_operators  # noqa: F401 - so that timm can import torchvision

pytest.importorskip("timm")

import timm
from timm.models import resume_checkpoint
from timm.optim import Lion, param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler

import clrfast
from clrfast import range_test
from tests.helpers.small_data import equal, weights_of

pytestmark = [pytest.mark.framework("timm", "timm")]

STEPS, BREAK, MAX_LR = 12, 7, 0.02
COSINE = clrfast.Schedule(lambda steps: 0.5 * MAX_LR * (1 + np.cos(math.pi * steps / STEPS)), total_steps=STEPS)
LOSS = nn.CrossEntropyLoss()


def make_model():
    torch.manual_seed(0)
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, in_chans=1, **size)


def make_batches():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (STEPS, 16), generator=generator)
    images = torch.randn(STEPS, 16, 1, 16, 16, generator=generator) + labels[..., None, None, None] / 3
    return list(zip(images, labels, strict=True))


def groups_of(model):
    return param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)


def train(model, optimizer, first=0, last=STEPS, *, before_step=None, scaler=None, **scaler_options):
    """Train on the batches from ``first`` to ``last`` and return the losses."""
    losses = []
    for step, (x, y) in enumerate(make_batches()[first:last], first):
        loss = LOSS(model(x), y)
        losses.append(loss.item())
        if before_step is not None:
            before_step(step)
        if hasattr(optimizer, "control") and optimizer.control is not None:
            optimizer.control.record(loss)
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler(loss, optimizer, parameters=model.parameters(), **scaler_options)
        optimizer.zero_grad()
    return losses


@pytest.mark.shows("trains")
def test_layer_decay_trains_as_under_timms_own_scheduler():
    model, other = make_model(), make_model()
    optimizer = clrfast.AdamW(groups_of(model), schedule=COSINE)
    theirs = torch.optim.AdamW(groups_of(other), lr=MAX_LR)
    scheduler = CosineLRScheduler(theirs, t_initial=STEPS, t_in_epochs=False)
    rates = []

    def step_scheduler(step):
        scheduler.step_update(step)
        rates.append([group["lr"] for group in theirs.param_groups])

    losses = train(model, optimizer)
    expected = train(other, theirs, before_step=step_scheduler)
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert scales == {0.125, 0.25, 0.5, 1.0}
    np.testing.assert_allclose(optimizer.control.host_table[:, :, 0], rates, rtol=1e-6)
    assert optimizer.control.losses.tolist() == losses
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for a, b in zip(weights_of(model), weights_of(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # AdamW turns rounding of a gradient of 0 into steps


@pytest.mark.shows("trains")
def test_layer_decay_equals_a_plain_loop_with_scaled_curves():
    model, other = make_model(), make_model()
    optimizer, groups = clrfast.AdamW(groups_of(model), schedule=COSINE), groups_of(other)
    table = COSINE.table()[:, 0, 0].astype(np.float64)
    scales = [group.pop("lr_scale") for group in groups]
    curves = [lambda steps, scale=scale: scale * table[steps.astype(int)] for scale in scales]
    plain = clrfast.AdamW(groups, schedule=clrfast.Schedule(curves, total_steps=STEPS))
    assert train(model, optimizer) == train(other, plain)
    assert equal(weights_of(model), weights_of(other))


def test_an_optimizer_of_timm_follows_a_schedule_with_its_layer_decay():
    model, other = make_model(), make_model()
    ours, theirs = (Lion(groups_of(each), lr=MAX_LR) for each in (model, other))
    follows = clrfast.as_lr_scheduler(ours, COSINE)
    scheduler = CosineLRScheduler(theirs, t_initial=STEPS, t_in_epochs=False)
    ours.register_step_post_hook(lambda *_: follows.step())
    train(model, ours)
    train(other, theirs, before_step=scheduler.step_update)
    for a, b in zip(weights_of(model), weights_of(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.shows("finds the plain loop's rate")
@pytest.mark.parametrize("make", [clrfast.AdamW, torch.optim.AdamW])
@pytest.mark.parametrize("scheduled", [False, True])
def test_the_search_keeps_the_layer_decay_once(make, scheduled):
    """timm's scheduler has already multiplied the groups' rates by their scales."""
    model, rates = make_model(), []
    optimizer = make(groups_of(model), lr=MAX_LR)
    if scheduled:
        CosineLRScheduler(optimizer, t_initial=STEPS, t_in_epochs=False).step_update(3)
    before, groups = weights_of(model), copy.deepcopy(optimizer.state_dict()["param_groups"])
    optimizer.register_step_pre_hook(lambda *_: rates.append([group["lr"] for group in optimizer.param_groups]))
    curve = range_test(model, LOSS, make_batches(), optimizer=optimizer, steps=20, max_lr=1.0)
    np.testing.assert_allclose(
        rates, np.outer(curve.lr[: len(rates)], [group["lr_scale"] for group in groups]), rtol=1e-6
    )
    assert equal(weights_of(model), before)
    assert optimizer.state_dict()["param_groups"] == groups
    other = make_model()
    plain = make(
        [{**group, "lr": MAX_LR * group["lr_scale"], "lr_scale": 1.0} for group in groups_of(other)], lr=MAX_LR
    )
    expected = range_test(other, LOSS, make_batches(), optimizer=plain, steps=20, max_lr=1.0)
    np.testing.assert_allclose(curve.loss, expected.loss, rtol=1e-4)


@pytest.mark.shows("resumes bit for bit")
def test_a_run_resumes_from_timms_checkpoint(tmp_path):
    def new(**options):
        model = make_model()
        return model, clrfast.AdamW(groups_of(model), **options), NativeScaler("cpu")

    whole, optimizer, scaler = new(schedule=COSINE)
    train(whole, optimizer, scaler=scaler)
    first, first_optimizer, scaler = new(schedule=COSINE)
    train(first, first_optimizer, 0, BREAK, scaler=scaler)
    saver = CheckpointSaver(first, first_optimizer, amp_scaler=scaler, checkpoint_dir=tmp_path, recovery_dir=tmp_path)
    saver.save_recovery(0, BREAK)
    second, second_optimizer, scaler = new()
    resume_checkpoint(second, saver.find_recovery(), second_optimizer, scaler, log_info=False)
    assert second_optimizer.control.synchronize() == BREAK
    train(second, second_optimizer, BREAK, scaler=scaler)
    assert equal(weights_of(second), weights_of(whole))
    assert second_optimizer.control.losses.tolist() == optimizer.control.losses.tolist()
    np.testing.assert_array_equal(second_optimizer.control.host_table, optimizer.control.host_table)


@pytest.mark.shows("mixed precision")
def test_a_step_that_timms_scaler_skips_does_not_advance_the_schedule():
    model = make_model()
    optimizer, scaler = clrfast.AdamW(groups_of(model), schedule=COSINE), NativeScaler("cpu")

    def break_step(step):
        handle = model.head.weight.register_hook(lambda grad: grad * (math.inf if step == 2 else 1))
        handles.append(handle)

    handles = []
    for step in range(4):
        train(model, optimizer, step, step + 1, scaler=scaler, before_step=break_step)
        handles.pop().remove()
    assert optimizer.control.synchronize() == 3


@pytest.mark.shows("clipping")
def test_timms_clipping_and_the_optimizers_own_agree():
    model, other = make_model(), make_model()
    optimizer = clrfast.AdamW(groups_of(model), schedule=COSINE)
    train(model, optimizer, scaler=NativeScaler("cpu"), clip_grad=0.1, clip_mode="norm")
    clipping = clrfast.AdamW(groups_of(other), schedule=COSINE, clip_norm=0.1)
    train(other, clipping)
    assert (clipping.control.grad_norms > 0.1).all()
    for a, b in zip(weights_of(model), weights_of(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_moving_average_of_the_weights_does_not_see_a_search():
    model = make_model()
    ema = ModelEmaV3(model, decay=0.9)
    optimizer = clrfast.AdamW(groups_of(model), schedule=COSINE)
    optimizer.register_step_post_hook(lambda *_: ema.update(model))
    before = weights_of(ema.module)
    range_test(model, LOSS, make_batches(), optimizer=optimizer, steps=5, max_lr=1.0)
    assert equal(weights_of(ema.module), before)
    train(model, optimizer, 0, 2)
    assert not equal(weights_of(ema.module), before)
