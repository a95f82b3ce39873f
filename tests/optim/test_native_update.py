"""Native updates equal the reference's bit for bit. The CUDA backend runs its kernels on the CPU; see conftest.py."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import clrfast
from clrfast import _native
from tests.helpers.optimizers import (
    DTYPES,
    LIMITS,
    NATIVE,
    all_state,
    assert_same,
    every_option,
    every_rule,
    give_grads,
    make_params,
    past_the_end,
    randn,
    run_steps,
)

pytestmark = pytest.mark.parametrize("backend", NATIVE)


def both(backend, make, steps=4, shapes=LIMITS, **kwargs):
    results = [run_steps(lambda p, b=b: make(p, b), steps, shapes, **kwargs) for b in ("torch", backend)]
    for (params, optimizer), expected in zip(results, ("torch", backend), strict=True):
        assert optimizer.backend == expected
        assert all(param.isfinite().all() for param in params) or not optimizer.param_groups[0].get("eps", 1)
    (left, reference), (right, native) = results
    assert_same(left, right)
    assert_same(all_state(reference), all_state(native))


@every_option
def test_the_update_equals_the_reference(rule, backend, options):
    def make(params, chosen):
        return rule.ours(params, lr=0.01, backend=chosen, **options)

    for dtype in DTYPES:
        both(backend, make, 3, [(0,), (), (7, 5), (1023,)], dtype=dtype)


@every_rule
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_update_equals_the_reference_at_every_size(rule, backend, dtype):
    both(backend, lambda p, b: rule.make(p, backend=b), dtype=dtype)


@past_the_end
@every_rule
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("momentum", [0.9, clrfast.schedules.Linear(0.0, 0.95, 6)], ids=["constant", "from 0"])
def test_the_update_equals_the_reference_under_a_schedule(rule, backend, dtype, momentum):
    schedule = clrfast.Schedule(
        clrfast.one_cycle(0.05, 6).lr, momentum, clrfast.schedules.Linear(0.0, 0.1, 3), total_steps=6
    )
    both(backend, lambda p, b: rule.make(p, weight_decay=0.0, schedule=schedule, backend=b), steps=8, dtype=dtype)


@past_the_end
@pytest.mark.parametrize("dtype", DTYPES)
def test_nesterov_equals_the_reference_under_a_schedule(backend, dtype):
    schedule = clrfast.one_cycle(0.05, 6, weight_decay=clrfast.schedules.Linear(0.0, 0.1, 3))
    both(backend, lambda p, b: clrfast.SGD(p, nesterov=True, schedule=schedule, backend=b), steps=8, dtype=dtype)


@every_rule
@pytest.mark.parametrize(
    ("dtype", "clip_norm"),
    # The norm is a sum in float64, whose order depends on the backend; test_clip_norm.py has float64 parameters.
    [*((dtype, None) for dtype in DTYPES), *((dtype, 0.5) for dtype in DTYPES if dtype != torch.float64)],
)
def test_the_update_equals_the_reference_when_scaled_clipped_and_skipped(rule, backend, dtype, clip_norm):
    def before(step, optimizer, params):
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(3.0), torch.tensor(2.0 if step in (0, 2) else 0.0)

    both(
        backend,
        lambda p, b: rule.make(p, lr=0.01, clip_norm=clip_norm, backend=b),
        dtype=dtype,
        before_step=before,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_pattern_survives_and_rounds_as_in_torch(backend, dtype):
    """p - 0 * g keeps every pattern, and p - lr * g rounds like torch's conversion from float32."""
    patterns = torch.arange(2**16).to(torch.uint16).view(dtype)
    param = nn.Parameter(patterns.clone())
    param.grad = torch.ones_like(param)
    clrfast.SGD([param], lr=0.0, backend=backend).step()
    assert_same([param.data], [patterns])
    with torch.no_grad():
        param.copy_(patterns)
    clrfast.SGD([param], lr=1e-3, backend=backend).step()
    assert_same([param.data], [(patterns.float() - 1e-3).to(dtype)])


@every_rule
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_the_result_does_not_depend_on_the_number_of_threads(rule, backend, n_threads):
    if backend != "cpp":
        pytest.skip("threads of the CPU")
    before = torch.get_num_threads()
    expected, _ = run_steps(lambda p: rule.make(p, backend="torch"), 3, [(100_000,), (70_000,)])
    torch.set_num_threads(n_threads)
    try:
        params, _ = run_steps(lambda p: rule.make(p, backend=backend), 3, [(100_000,), (70_000,)])
    finally:
        torch.set_num_threads(before)
    assert_same(params, expected)


@every_rule
def test_every_layout_of_memory_is_updated(rule, backend):
    """Transposed, strided and channels-last parameters, and gradients with another layout than their parameter."""
    base, images = randn([(6, 8), (2, 3, 4, 5)], 0)

    def make():
        return [
            nn.Parameter(base.clone().t()),
            nn.Parameter(torch.stack([base, base], -1)[..., 0]),
            nn.Parameter(images.to(memory_format=torch.channels_last)),
            nn.Parameter(base.clone()),
            nn.Parameter(base.clone()[1:, 1:]),
        ]

    results = []
    for b in ("torch", backend):
        params = make()
        optimizer = rule.make(params, lr=0.1, backend=b)
        for step in range(3):
            give_grads(params, step)
            params[3].grad = params[3].grad.t().contiguous().t()
            params[2].grad = params[2].grad.to(memory_format=torch.channels_last)
            optimizer.step()
        results.append(params)
    assert_same(*results)


def test_nothing_is_written_outside_a_view(backend):
    memory = torch.zeros(100)
    param = nn.Parameter(memory[10:20])
    param.grad = torch.ones(10)
    clrfast.SGD([param], lr=1.0, backend=backend).step()
    assert memory.tolist() == [0.0] * 10 + [-1.0] * 10 + [0.0] * 80


@every_rule
def test_parameters_that_share_memory_are_updated_one_after_the_other(rule, backend):
    """No update is lost, as with torch.optim.SGD."""

    def run(chosen):
        params = make_params([(60_000,), (60_000,), (7,)])
        params[1].data = params[0].data
        optimizer = rule.make(params, schedule=clrfast.one_cycle(0.1, 8), backend=chosen)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        for step in range(5):
            give_grads(params, step)
            optimizer.step()
        torch.set_num_threads(threads)
        return params

    assert_same(run(backend), run("torch"))


def test_a_step_ends_in_a_child_forked_during_a_step(backend):
    """The thread that holds the lock does not exist in the child."""
    if backend != "cpp" or not hasattr(os, "fork"):
        pytest.skip("of fork")
    script = """
import os, signal, threading, torch, clrfast
torch.set_num_threads(1)
param = torch.nn.Parameter(torch.ones(3_000_000))
param.grad = torch.zeros_like(param)
optimizer = clrfast.SGD([param], lr=0.5, backend="cpp")
done = threading.Event()
def step():
    while not done.is_set():
        optimizer.step()
thread = threading.Thread(target=step)
thread.start()
codes = []
for _ in range(5):
    child = os.fork()
    if not child:
        signal.alarm(20)
        optimizer.step()
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
thread.join()
raise SystemExit(any(codes))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_step_ends_in_a_forked_child(backend):
    """OpenMP's threads do not exist in the child."""
    if backend != "cpp" or not hasattr(os, "fork"):
        pytest.skip("of OpenMP and fork")
    script = """
import os, signal, torch, clrfast
torch.set_num_threads(2)
params = [torch.nn.Parameter(torch.ones(40_000)) for _ in range(3)]
for param in params:
    param.grad = torch.ones_like(param)
optimizer = clrfast.SGD(params, lr=0.5, backend="cpp")
optimizer.step()
child = os.fork()
if not child:
    signal.alarm(20)
    optimizer.step()
    os._exit(0 if params[0][0] == 0 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@every_rule
def test_autograd_counts_an_update_as_an_in_place_change(rule, backend):
    param = nn.Parameter(torch.ones(3))
    loss = (param**2).sum()
    param.grad = torch.ones(3)
    rule.make([param], lr=0.1, backend=backend).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_binding_refuses_what_memory_safety_forbids(backend):
    module = _native.load()
    rows = np.zeros((1, 10), dtype=np.int64)
    group = (0.1, 0.0, 0.0, 0.0, 0.0, 0.0)

    def sgd(rows=rows, groups=(group,)):
        if backend == "cpp":
            module.sgd_(rows, list(groups), None, True, 1.0, 1.0, 1)
        else:
            module.sgd_cuda_(rows, [(*group, 0, 0) for group in groups], (None, 0.0, 0.0, 0, 0, 0, 0), 0, 0, 0, 0, 0)

    for column, value, named in (
        (9, 1, "group out of range"),
        (8, 64, "unknown dtype"),
        (7, -1, "negative numel"),
        (6, 4, "aligned"),
    ):
        bad = rows.copy()
        bad[0, column] = value
        with pytest.raises(ValueError, match=named):
            sgd(bad)
    bad = rows.copy()
    bad[0, [1, 7]] = 8
    with pytest.raises(ValueError, match="no memory"):
        sgd(bad)
    with pytest.raises(ValueError, match="must be"):
        sgd(np.zeros((1, 9), dtype=np.int64))
    with pytest.raises(TypeError):
        sgd(rows.astype(np.int32))
    with pytest.raises(ValueError, match="a control needs all of its memory"):
        module.advance_(((8, 1, 1, 8, 8, 8, 0, 8, 8), 0.98, 0.0, None, 0.0))


@every_rule
def test_many_groups_are_updated_with_their_own_options(rule, backend):
    def make(params, backend):
        groups = [{"params": [p], "lr": 0.01 * (i + 1), "weight_decay": 0.1 * (i % 3)} for i, p in enumerate(params)]
        return rule.make(groups, lr=0.1, backend=backend)

    results = [run_steps(lambda p, b=b: make(p, b), 3, [(5,)] * 40)[0] for b in ("torch", backend)]
    assert_same(*results)


@every_rule
def test_parameters_without_a_gradient_are_left_alone(rule, backend):
    params = make_params([(3,), (4,)])
    before = [param.clone() for param in params]
    optimizer = rule.make(params, lr=0.1, backend=backend)
    optimizer.step()
    assert_same(params, before)
    assert not optimizer.state_dict()["state"]


def test_memory_between_the_elements_is_not_written(backend):
    memory = randn([(20,), (20,)], 0)
    before = [values.clone() for values in memory]
    param = nn.Parameter(memory[0][::2])
    param.grad = memory[1][::2]
    clrfast.SGD([param], lr=0.5, backend=backend).step()
    assert_same([memory[0][1::2], memory[1]], [before[0][1::2], before[1]])
    assert_same([memory[0][::2]], [before[0][::2] - 0.5 * before[1][::2]])
