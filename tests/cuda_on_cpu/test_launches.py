"""How many launches a step takes, and what happens where one is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import clrfast
from clrfast.optim._backends import cuda
from tests.helpers.kernels import CHUNK, OPTIMIZERS, every_optimizer, kept_by, prepared
from tests.helpers.optimizers import KERNELS, assert_same, give_grads, make_params

from . import build

pytestmark = pytest.mark.parametrize("backend", KERNELS)


# Each number of tensors is the most that one size of the argument holds.
LIMITS = {
    "SGD": [(1, 1), (118, 1), (119, 1), (246, 1), (247, 1), (1014, 1), (1015, 2), (3000, 3)],
    "AdamW": [(1, 1), (58, 1), (59, 1), (122, 1), (123, 1), (506, 1), (507, 2), (1500, 3)],
}


@pytest.mark.parametrize(
    ("rule", "n_tensors", "launches"), [(rule, *limit) for rule, limits in LIMITS.items() for limit in limits]
)
def test_many_tensors_take_the_expected_number_of_launches(backend, emulation, merged, rule, n_tensors, launches):
    shapes = [(1 + index % 7,) for index in range(n_tensors)]
    results = []
    for chosen in ("torch", backend):
        params = make_params(shapes)
        optimizer = OPTIMIZERS[rule](params, schedule=clrfast.one_cycle(0.1, 4), backend=chosen)
        for step in range(2):
            give_grads(params, step)
            emulation.launches()
            optimizer.step(loss=torch.tensor(1.0))
        results.append([*params, *kept_by(optimizer)])
    assert emulation.launches() == (0 if merged else 1) + launches
    assert_same(*results)


@pytest.mark.parametrize(("rule", "launches"), [("SGD", 1), ("AdamW", 2)])
def test_a_step_without_a_schedule_is_one_launch_and_one_more_to_count(backend, emulation, rule, launches):
    """The second one advances the number of the step, to which the counters of the parameters refer."""
    params = make_params([(3,)] * 5)
    give_grads(params, 0)
    optimizer = OPTIMIZERS[rule](params, lr=0.1, backend=backend)
    optimizer.step()
    assert emulation.launches() == launches
    for param in params:
        param.grad = None
    optimizer.step()
    assert emulation.launches() == 0


@pytest.mark.parametrize("make", [partial(clrfast.SGD, dampening=0.3), clrfast.AdamW])
def test_a_schedule_advances_once_over_several_kernels(backend, emulation, merged, make):
    """The first launch advances the schedule, and the others read its row."""

    def run(chosen):
        params = [
            *make_params([(5,), (3 * CHUNK,)], torch.bfloat16),
            *make_params([(7,), (2 * CHUNK + 1,)]),
            *make_params([(CHUNK + 1,)], torch.float64),
        ]
        schedule = clrfast.one_cycle(0.1, 5)
        optimizer = make(params, schedule=schedule, master_weights=True, backend=chosen)
        for step in range(4):
            give_grads(params, step)
            optimizer.found_inf = torch.tensor(float(step == 1))
            emulation.launches()
            optimizer.step(loss=torch.tensor(1.0))
        return optimizer, [*params, *kept_by(optimizer), optimizer.control.losses, optimizer.control.row]

    (optimizer, ours), (_, theirs) = run(backend), run("torch")
    assert emulation.launches() == 0  # by the reference
    assert_same(ours, theirs)
    assert int(optimizer.control.step) == 3
    assert int(optimizer.control.blocks_done) == 0


@every_optimizer
@pytest.mark.parametrize("n_chunks", [1, 3, 4])
def test_a_small_update_advances_the_schedule_itself(backend, emulation, monkeypatch, rule, n_chunks):
    monkeypatch.setattr(cuda, "MAX_MERGED_CHUNKS", 3)
    params = make_params([(1,)] * (n_chunks - 1) + [(CHUNK,)])
    give_grads(params, 0)
    optimizer = OPTIMIZERS[rule](params, schedule=clrfast.one_cycle(0.1, 4), backend=backend)
    optimizer.step()
    assert emulation.launches() == (1 if n_chunks <= 3 else 2)


@every_optimizer
def test_a_refused_launch_is_an_error_and_changes_nothing(backend, emulation, rule):
    params, optimizer, before = prepared(backend, rule, schedule=clrfast.one_cycle(0.1, 4))
    emulation.fail_next_launch()
    with pytest.raises(
        RuntimeError, match=r"CUDA: an emulated error .*an earlier kernel failed; CUDA_LAUNCH_BLOCKING=1"
    ):
        optimizer.step()
    assert_same(params, before)
    assert int(optimizer.control.step) == optimizer.control.host_step == 0
    optimizer.step()
    assert int(optimizer.control.step) == 1


def test_a_refused_update_names_its_first_parameter(backend, emulation):
    params, optimizer, before = prepared(backend, momentum=0.9)
    params[0].grad = None
    emulation.fail_next_launch()
    with pytest.raises(RuntimeError, match=r"parameter 1 \(group 0, shape \(4, 2\)\) and those .* an emulated error"):
        optimizer.step()
    assert_same(params, before)


def test_a_few_tensors_of_both_kinds_share_a_launch(backend, emulation):
    params = [*make_params([(3,)], torch.bfloat16), *make_params([(4,)])]
    give_grads(params, 0)
    optimizer = clrfast.SGD(params, lr=0.1, master_weights=True, backend=backend)
    optimizer.step()
    assert emulation.launches() == 1


def test_a_missing_backend_is_an_error_that_names_the_parameter(backend, monkeypatch):
    monkeypatch.setattr(cuda, "why_not", lambda device: "there is no driver")
    params = make_params([(2,), (3, 4)])
    message = r"backend: 'cuda' cannot update parameter 0 \(group 0, shape \(2,\)\) on \w+.*: there is no driver"
    with pytest.raises(RuntimeError, match=message):
        clrfast.SGD(params, lr=0.1, backend="cuda")


@pytest.mark.slow
def test_older_toolkits_use_small_arguments(backend, emulation, pytestconfig, monkeypatch):
    """Before CUDA 13 an argument has 4 KB, so there are more launches with the same numbers."""
    module, controls = build.build(pytestconfig.cache.mkdir("cuda_on_cpu"), cudart_version=12080)
    build.install(module, monkeypatch)
    for rule, fit, launches in (
        ("SGD", module.sgd_tensors_per_launch, 0),
        ("AdamW", module.adamw_tensors_per_launch, 1),
    ):
        assert fit < 128
        results = []
        for chosen in ("torch", backend):
            params = make_params([(index,) for index in range(300)])
            give_grads(params, 0)
            optimizer = OPTIMIZERS[rule](params, lr=0.1, clip_norm=1.0, backend=chosen)
            controls.launches()
            optimizer.step()
            results.append([*params, *kept_by(optimizer)])
        sums = -(-299 // module.sgd_tensors_per_launch)
        assert controls.launches() == launches + -(-299 // fit) + sums + 1
        assert_same(*results)
