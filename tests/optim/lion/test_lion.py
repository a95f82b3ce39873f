"""The worked example of CONTRIBUTING.md gives Lion's numbers on every backend, and does what every optimizer does."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch

import clrfast
from clrfast.optim._backends.reference import update_
from clrfast.schedules._group_values import set_momentum
from tests.cuda_on_cpu import build
from tests.helpers.optimizers import (
    DTYPES,
    LIMITS,
    TestedRule,
    all_state,
    assert_near,
    assert_same,
    checkpoint_of,
    give_grads,
    make_params,
    past_the_end,
    run_steps,
)

from .lion import LION, Lion

HERE = Path(__file__).parent


class HandWrittenLion(torch.optim.Optimizer):
    """Lion as its authors publish it."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                grad = -param.grad if group["maximize"] else param.grad
                state = self.state[param]
                if not state:
                    state["exp_avg"] = torch.zeros_like(param)
                param.mul_(1 - group["lr"] * group["weight_decay"])
                average = state["exp_avg"]
                param.add_((average * beta1 + grad * (1 - beta1)).sign_(), alpha=-group["lr"])
                average.mul_(beta2).add_(grad, alpha=1 - beta2)


RULE = TestedRule(
    Lion,
    HandWrittenLion,
    ("exp_avg",),
    {"betas": (0.8, 0.95), "weight_decay": 0.01},
    {"betas": ((0.9, 0.99), (0.0, 0.5)), "weight_decay": (0.0, 0.05), "maximize": (False, True)},
    (),
)
every_option = pytest.mark.parametrize("options", RULE.options, ids=str)
native = pytest.mark.parametrize("native_backend", ["cpp", "cuda"], indirect=True)
SCHEDULE = clrfast.one_cycle(0.1, 6, weight_decay=0.01)


@pytest.fixture(scope="session")
def lion_module(pytestconfig):
    """The native module with Lion as its only rule, and its kernels on the CPU."""
    if build.COMPILER is None:
        pytest.skip("no C++ compiler")
    csrc = build.ROOT / "csrc"
    sources = [csrc / "cuda" / "device.cu", csrc / "cpu" / "update.cpp", csrc / "bindings.cpp", HERE / "lion.cu"]
    more = f"-I{HERE}", '-DCLRFAST_RULES_HEADER="rules.h"', "-DEMULATED_CUDART_VERSION=13000"
    return build.loaded("_C", build.library(pytestconfig.cache.mkdir("cuda_on_cpu"), "lion", sources, *more))


@pytest.fixture
def native_backend(request, lion_module, monkeypatch):
    build.install(lion_module, monkeypatch)
    return request.param


def test_one_update_gives_the_hand_computed_values():
    """p = 2, g = 4, m = -8; lr = 0.5, beta1 = 0.5, beta2 = 0.75, weight_decay = 0.25."""
    p, g, m = torch.tensor([2.0]), torch.tensor([4.0]), torch.tensor([-8.0])
    update_(LION, p, g, [m], None, row=(0.5, 0.5, 0.25), constants=(0.75,), maximize=False)
    # u = sign(-4 + 2) = -1, p = 2 * 0.875 + 0.5, m = -6 + 1
    assert (p.item(), g.item(), m.item()) == (2.25, 4.0, -5.0)
    update_(LION, p, g, [m], None, row=(0.5, 0.0, 0.0), constants=(0.75,), maximize=True)
    assert (p.item(), m.item()) == (2.75, -4.75)


@every_option
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reference_equals_lion_as_published(options, dtype):
    ours, optimizer = run_steps(lambda p: Lion(p, lr=0.1, backend="torch", **options), 5, dtype=dtype)
    theirs, stock = run_steps(lambda p: HandWrittenLion(p, lr=0.1, **options), 5, dtype=dtype)
    assert_near(ours, theirs, steps=5)
    assert_near(all_state(optimizer), all_state(stock), steps=5)


@native
@every_option
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_native_backend_equals_the_reference(native_backend, options, dtype):
    def before(step, optimizer, params):
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(3.0), torch.tensor(float(step == 1))

    (left, reference), (right, native) = (
        run_steps(lambda p, b=b: Lion(p, lr=0.01, backend=b, **options), 4, LIMITS, dtype, before)
        for b in ("torch", native_backend)
    )
    assert_same([*left, *all_state(reference)], [*right, *all_state(native)])


@past_the_end
@native
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_native_backend_equals_the_reference_under_a_schedule(native_backend, dtype):
    given = {"schedule": SCHEDULE, "clip_norm": None if dtype == torch.float64 else 0.5}
    (left, reference), (right, native) = (
        run_steps(lambda p, b=b: Lion(p, backend=b, **given), 8, LIMITS, dtype) for b in ("torch", native_backend)
    )
    assert_same([*left, *all_state(reference)], [*right, *all_state(native)])
    assert_same(reference.control.tensors()[:1], native.control.tensors()[:1])
    assert int(native.control.step) == 8


@native
def test_a_schedule_gives_the_values_of_the_table(native_backend):
    def by_hand(step, optimizer, params):
        lr, momentum, weight_decay = SCHEDULE.table()[step, 0].tolist()
        optimizer.param_groups[0].update(lr=lr, weight_decay=weight_decay)
        set_momentum(optimizer.param_groups[0], momentum)

    ours, _ = run_steps(lambda p: Lion(p, schedule=SCHEDULE, backend=native_backend), 6)
    theirs, _ = run_steps(HandWrittenLion, 6, before_step=by_hand)
    assert_near(ours, theirs, steps=6)


@native
@pytest.mark.parametrize("carried", ["state_dict", "deepcopy", "pickle"])
def test_a_run_continues(native_backend, carried):
    expected, whole = run_steps(lambda p: RULE.make(p, schedule=SCHEDULE, backend=native_backend), 6)
    params, optimizer = run_steps(lambda p: RULE.make(p, schedule=SCHEDULE, backend=native_backend), 3)
    if carried == "state_dict":
        saved = checkpoint_of(optimizer)
        optimizer = Lion(params, backend=native_backend)
        optimizer.load_state_dict(saved)
    elif carried == "deepcopy":
        params, optimizer = copy.deepcopy((params, optimizer))
    else:
        params, optimizer = pickle.loads(pickle.dumps((params, optimizer)))
    for step in range(3, 6):
        give_grads(params, step)
        optimizer.step()
    assert_same([*params, *all_state(optimizer)], [*expected, *all_state(whole)])


def test_the_state_is_that_of_lion_as_published():
    params, optimizer = run_steps(lambda p: RULE.make(p, backend="torch"), 3)
    stock = HandWrittenLion(params)
    stock.load_state_dict(optimizer.state_dict())
    assert_same(all_state(stock), all_state(optimizer))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"lr": -1.0}, "lr: got -1.0"),
        ({"betas": (0.9, 1.0)}, "betas: got"),
        ({"weight_decay": "0"}, "weight_decay: got"),
    ],
)
def test_an_error_names_the_bad_argument(given, named):
    with pytest.raises(ValueError, match=named):
        Lion(make_params([(2,)]), backend="torch", **given)


def test_the_code_in_contributing_is_the_tested_one():
    text = (build.ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition("## Add an update rule")[2].partition("\n## ")[0]
    blocks = re.findall(r"   ```(?:python|cpp)\n(.*?)   ```\n", section, re.DOTALL)
    files = [(HERE / name).read_text() for name in ("lion.py", "lion.py", "lion.h", "lion.cu")]
    for block, tested in zip(blocks, files, strict=True):
        lines = "".join(line[3:] or "\n" for line in block.splitlines(keepends=True))
        assert lines.strip() in tested
