"""The kernels measure the norm of all gradients, and the update clips by it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import clrfast
from tests.helpers.kernels import OPTIMIZERS, SIZES, every_optimizer, kept_by
from tests.helpers.optimizers import (
    DTYPES,
    KERNELS,
    assert_near,
    assert_same,
    give_grads,
    make_params,
    past_the_end,
    randn,
)

pytestmark = pytest.mark.parametrize("backend", KERNELS)


def assert_same_norm(ours, theirs):
    """Require equal norms but for the order of a sum in float64."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0.0, check_dtype=True)


def with_grads(values):
    """Return parameters of zeros whose gradients are ``values``."""
    params = [nn.Parameter(torch.zeros(value.shape, dtype=value.dtype)) for value in values]
    for param, value in zip(params, values, strict=True):
        param.grad = value
    return params


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1, 2])
def test_the_norm_is_that_of_all_elements(backend, dtype, offset):
    for size in SIZES:
        (values,) = randn([(size + offset + 3,)], size)
        grad = values.to(dtype)[offset : offset + size]
        optimizer = clrfast.SGD(with_grads([grad]), lr=0.1, clip_norm=1.0, backend=backend)
        optimizer.step()
        assert optimizer.grad_norm.dtype == torch.float64
        assert_same_norm(optimizer.grad_norm, grad.double().square().sum().sqrt())


def clipped(chosen, rule, dtype, clip_norm=1.0, steps=3, shapes=tuple((size,) for size in SIZES), **options):
    params = make_params(shapes, dtype)
    optimizer = OPTIMIZERS[rule](params, lr=0.01, clip_norm=clip_norm, backend=chosen, **options)
    norms = []
    for step in range(steps):
        give_grads(params, step)
        optimizer.step()
        norms.append(optimizer.grad_norm)
    return params, optimizer, torch.stack(norms)


@every_optimizer
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheduled", [False, True])
def test_the_clipped_update_is_that_of_the_reference(backend, merged, rule, dtype, scheduled):
    schedule = clrfast.one_cycle(0.1, 10) if scheduled else None
    for clip_norm in (1e-3, 1.0, 1e6):
        (ours, optimizer, norms), (theirs, reference, expected) = (
            clipped(chosen, rule, dtype, clip_norm, schedule=schedule) for chosen in (backend, "torch")
        )
        assert_same_norm(norms, expected)
        if dtype == torch.float64:  # the factor is rounded as the sum is
            assert_near([*ours, *kept_by(optimizer)], [*theirs, *kept_by(reference)], steps=3)
        else:
            assert_same([*ours, *kept_by(optimizer)], [*theirs, *kept_by(reference)])
        if scheduled:
            assert_same([optimizer.control.grad_norms], [reference.control.grad_norms])
            assert_same([optimizer.control.grad_norms[:3]], [norms.float()])
            assert optimizer.control.grad_norms[3:].isnan().all()


def test_the_gradients_stay_as_they_are(backend):
    params = make_params([(5000,)])
    give_grads(params, 0)
    before = params[0].grad.clone()
    clrfast.SGD(params, lr=0.1, clip_norm=1e-3, backend=backend).step()
    assert_same([params[0].grad], [before])


@pytest.mark.parametrize(("n_tensors", "sums"), [(1, 1), (1013, 1), (1014, 2), (3000, 3)])
def test_many_tensors_take_the_expected_number_of_launches(backend, emulation, n_tensors, sums):
    """The sum's argument has room for one tensor less than that of SGD's update, which holds 1014."""
    shapes = [(1 + index % 7,) for index in range(n_tensors)]
    emulation.launches()
    _, _, norms = clipped(backend, "SGD", torch.float32, steps=1, shapes=shapes)
    assert emulation.launches() == sums + 1 + -(-n_tensors // 1014)
    assert_same_norm(norms, clipped("torch", "SGD", torch.float32, steps=1, shapes=shapes)[2])


def test_one_norm_covers_all_groups_dtypes_and_sizes(backend):
    def run(chosen):
        params = [param for dtype in DTYPES for param in make_params([(size,) for size in SIZES], dtype)]
        groups = [{"params": params[::2]}, {"params": params[1::2], "lr": 0.5}]
        optimizer = clrfast.AdamW(groups, clip_norm=1.0, master_weights=True, backend=chosen)
        give_grads(params, 0)
        params[7].grad = None
        optimizer.step()
        return optimizer.grad_norm, [param for param in params if param.dtype != torch.float64]

    (norm, ours), (expected, theirs) = run(backend), run("torch")
    assert_same_norm(norm, expected)
    assert_same(ours, theirs)


@pytest.mark.parametrize("numel", [0, 3])
def test_a_step_without_gradients_has_a_norm_of_0(backend, numel):
    params = make_params([(numel,)])
    if not numel:
        give_grads(params, 0)
    before = params[0].detach().clone()
    optimizer = clrfast.SGD(params, lr=0.1, clip_norm=1.0, backend=backend)
    optimizer.step()
    assert float(optimizer.grad_norm) == 0.0
    assert_same(params, [before])


def test_large_gradients_do_not_overflow(backend):
    """The norm of float32 gradients is finite although their squares are not."""
    optimizer = clrfast.SGD(with_grads([torch.full((10,), 1e38)]), lr=1.0, clip_norm=1.0, backend=backend)
    optimizer.step()
    assert_same_norm(optimizer.grad_norm, torch.full((10,), 1e38).double().norm())
    torch.testing.assert_close(optimizer.param_groups[0]["params"][0].detach(), torch.full((10,), -(0.1**0.5)))


@every_optimizer
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_norm_that_is_not_finite_skips_the_update(backend, merged, rule, scheduled):
    def run(chosen, bad):
        params = make_params([(5,), (4097,)])
        schedule = clrfast.one_cycle(0.1, 10) if scheduled else None
        optimizer = OPTIMIZERS[rule](params, lr=0.1, schedule=schedule, clip_norm=1.0, backend=chosen)
        for step in range(4):
            give_grads(params, step)
            if step == 2:
                params[1].grad[4000] = bad
                before = [param.detach().clone() for param in params]
            optimizer.step()
            if step == 2:
                assert_same(params, before)
        if scheduled:
            assert int(optimizer.control.step) == 3
        control = [optimizer.control.grad_norms, optimizer.control.row] if scheduled else []
        return [*params, *kept_by(optimizer), *control]

    for bad in (math.nan, math.inf, -math.inf):
        assert_same(run(backend, bad), run("torch", bad))


@pytest.mark.parametrize("scheduled", [False, True])
def test_the_norm_is_that_of_the_unscaled_gradients_and_an_overflow_skips(backend, merged, scheduled):
    def run(chosen):
        params = make_params([(5,), (4097,)])
        schedule = clrfast.one_cycle(0.1, 10) if scheduled else None
        optimizer = clrfast.AdamW(params, schedule=schedule, clip_norm=1.0, backend=chosen)
        norms = []
        for step in range(4):
            give_grads(params, step)
            optimizer.grad_scale = torch.tensor(8.0)
            optimizer.found_inf = torch.tensor(3.0 if step == 1 else 0.0)
            optimizer.step()
            norms.append(optimizer.grad_norm)
            unscaled = torch.cat([param.grad.double() / 8 for param in params])
            assert_same_norm(norms[-1], unscaled.square().sum().sqrt())
        return [*params, *kept_by(optimizer), *([optimizer.control.grad_norms] if scheduled else [])]

    assert_same(run(backend), run("torch"))


def with_norms(backend, losses):
    """Return an optimizer that follows a schedule of three steps, after a step for each of ``losses``."""
    params = make_params([(5,)])
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 3), clip_norm=1.0, backend=backend)
    optimizer.control.watch_divergence()
    for step, loss in enumerate(losses):
        give_grads(params, step)
        optimizer.step(loss=torch.tensor(loss))
    return optimizer


def test_no_norm_is_recorded_after_a_stop(backend, merged):
    before, after = with_norms(backend, [1.0, math.nan]), with_norms(backend, [1.0, math.nan, 1.0])
    assert after.control.stop
    assert before.control.grad_norms.isnan().tolist() == [False, False, True]
    assert_same([after.control.grad_norms], [before.control.grad_norms])


@past_the_end
def test_no_norm_is_recorded_past_the_end_of_the_schedule(backend, merged):
    before, after = with_norms(backend, [1.0] * 3), with_norms(backend, [1.0] * 5)
    assert before.control.grad_norms.isfinite().all()
    assert_same([after.control.grad_norms], [before.control.grad_norms])
