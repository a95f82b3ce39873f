"""After any sequence of changes between steps, a native backend equals the reference bit for bit.

60 sequences for each rule in every run, 1,000 with ``-m slow``.
"""

from __future__ import annotations

import copy
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
import torch.multiprocessing  # registers how tensors travel to other processes
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import nn

import clrfast
from tests.helpers.optimizers import BACKENDS, RULES, all_state, assert_same

SHAPES = [(3,), (2, 3), (1,), (), (0,), (70,)]
TOTAL_STEPS = 12

seeds = st.integers(0, 2**31)
numbers = st.integers(0, 2**31)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
norms = st.sampled_from([None, 0.5, 100.0])


def values(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Side:
    """One of the two optimizers, and its parameters."""

    def __init__(self, tested, backend, chosen, schedule, seed):
        self.params = [nn.Parameter(values(shape, seed + i)) for i, shape in enumerate(SHAPES[:4])]
        groups = [{"params": self.params[:2]}, {"params": self.params[2:], "weight_decay": 0.01}]
        self.optimizer = tested.ours(groups, schedule=schedule, backend=backend, **chosen)
        self.hooked, self.chosen = [], chosen

    @property
    def listed(self):
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def tensors(self):
        found = [*self.listed, *all_state(self.optimizer)]
        control = self.optimizer.control
        return found if control is None else [*found, *control.tensors()]


class Machine(RuleBasedStateMachine):
    tested, backend = RULES["SGD"], "cpp"

    def options(self, number):
        """Return one of the rule's combinations of options."""
        return {"lr": 0.1 * (number % 2), **self.tested.options[number // 2 % len(self.tested.options)]}

    @initialize(number=numbers, scheduled=st.booleans(), seed=seeds, clip_norm=norms)
    def make(self, number, scheduled, seed, clip_norm):
        self.scheduled, chosen = scheduled, {**self.options(number), "clip_norm": clip_norm}
        schedule = clrfast.one_cycle(0.1, TOTAL_STEPS) if scheduled else None
        self.sides = [Side(self.tested, backend, chosen, schedule, seed) for backend in ("torch", self.backend)]

    def each(self, do):
        for side in self.sides:
            do(side)

    @rule(seed=seeds, left_out=st.sets(st.integers(0, 7)), skipped=st.booleans(), kind=st.sampled_from("aabcd"))
    def step(self, seed, left_out, skipped, kind):
        def do(side):
            for index, param in enumerate(side.listed):
                grad = values(param.shape, seed + index).to(param.dtype)
                if kind == "b" and grad.dim() == 2:
                    grad = grad.t().contiguous().t()
                if kind == "c":
                    grad = torch._neg_view(-grad)
                if kind == "d" and grad.numel() > 1:
                    grad = torch.stack([grad, grad], dim=-1)[..., 0]
                param.grad = None if index in left_out else grad
            side.optimizer.found_inf = torch.tensor(float(skipped))
            side.optimizer.step(loss=1.5)

        self.each(do)

    @rule(group=st.integers(0, 1))
    def reorder(self, group):
        self.each(lambda side: side.optimizer.param_groups[group]["params"].reverse())

    @rule()
    def exchange(self):
        def do(side):
            first, second = (group["params"] for group in side.optimizer.param_groups[:2])
            if first and second:
                first[0], second[-1] = second[-1], first[0]

        self.each(do)

    @rule(index=st.integers(0, 7), seed=seeds, keeps_state=st.booleans())
    def replace(self, index, seed, keeps_state):
        def do(side):
            for group in side.optimizer.param_groups:
                for place, old in enumerate(group["params"]):
                    if old is side.listed[index % len(side.listed)]:
                        group["params"][place] = new = nn.Parameter(values(old.shape, seed).to(old.dtype))
                        state = side.optimizer.state.pop(old, None)
                        if state and keeps_state:
                            side.optimizer.state[new] = state
                        return

        self.each(do)

    @rule()
    def exchange_states(self):
        def do(side):
            state, (first, *_, last) = side.optimizer.state, [p for p in side.listed if p.shape in ((3,), (2, 3))] * 2
            if first in state and last in state and first.shape == last.shape and first is not last:
                state[first], state[last] = state[last], state[first]

        self.each(do)

    @rule(seed=seeds, shape=st.sampled_from(SHAPES))
    def add_group(self, seed, shape):
        if len(self.sides[0].optimizer.param_groups) < 5:
            self.each(lambda side: side.optimizer.add_param_group({"params": [nn.Parameter(values(shape, seed))]}))

    @precondition(lambda self: len(self.sides[0].optimizer.param_groups) > 2)
    @rule()
    def remove_group(self):
        def do(side):
            for param in side.optimizer.param_groups.pop()["params"]:
                side.optimizer.state.pop(param, None)

        self.each(do)

    @precondition(lambda self: not self.scheduled)
    @rule(number=numbers, group=st.integers(0, 1))
    def set_options(self, number, group):
        self.each(lambda side: side.optimizer.param_groups[group].update(self.options(number)))

    @rule(clip_norm=norms)
    def set_clip_norm(self, clip_norm):
        self.each(lambda side: setattr(side.optimizer, "clip_norm", clip_norm))

    @rule(index=st.integers(0, 7), dtype=dtypes)
    def change_dtype(self, index, dtype):
        def do(side):
            param = side.listed[index % len(side.listed)]
            param.grad = None
            param.data = param.data.to(dtype)

        self.each(do)

    @rule(index=st.integers(0, 7))
    def move_memory(self, index):
        def do(side):
            param = side.listed[index % len(side.listed)]
            param.data = param.data.clone()
            for tensor in side.optimizer.state.get(param, {}).values():
                tensor.data = tensor.data.clone()

        self.each(do)

    @rule()
    def share_memory(self):
        def do(side):
            for tensor in (*side.listed, *(t for state in side.optimizer.state.values() for t in state.values())):
                tensor.share_memory_()
            if side.optimizer.control is not None:
                for tensor in side.optimizer.control.tensors():
                    tensor.share_memory_()

        self.each(do)

    @rule(way=st.sampled_from(["copy", "pickle", "send"]))
    def become_a_copy(self, way):
        """Sending, as to another process, moves the tensors into shared memory."""

        def do(side):
            if way == "copy":
                side.optimizer = copy.deepcopy(side.optimizer)
            elif way == "pickle":
                side.optimizer = pickle.loads(pickle.dumps(side.optimizer))
            else:
                side.optimizer = pickle.loads(ForkingPickler.dumps(side.optimizer))

        for side in self.sides:
            side.optimizer.zero_grad()
            side.optimizer._optimizer_step_pre_hooks.clear()
        self.each(do)

    @rule(hook=st.sampled_from(["none", "as it is", "only torch's"]))
    def save_and_load(self, hook):
        def do(side):
            saved = copy.deepcopy(side.optimizer.state_dict())
            groups = [{"params": group["params"]} for group in side.optimizer.param_groups]
            groups[1]["weight_decay"] = 0.01
            schedule = side.optimizer.defaults["schedule"]
            made = self.tested.ours(groups, schedule=schedule, backend=side.optimizer.backend, **side.chosen)
            if hook == "as it is":
                made.register_load_state_dict_pre_hook(lambda _, state: dict(state))
            if hook == "only torch's":
                made.register_load_state_dict_pre_hook(
                    lambda _, state: {name: state[name] for name in ("state", "param_groups")}
                )
            made.load_state_dict(saved)
            side.optimizer = made

        self.each(do)

    @rule()
    def hook(self):
        def do(side):
            side.optimizer.register_step_pre_hook(lambda *_: side.hooked.append(1))

        self.each(do)

    @invariant()
    def alike(self):
        assert_same(*(side.tensors() for side in reversed(self.sides)))
        assert len(self.sides[0].hooked) == len(self.sides[1].hooked)


def check(tested, backend, max_examples):
    machine = type("Machine", (Machine,), {"tested": tested, "backend": backend})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


pytestmark = [
    pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend != "torch"]),
    pytest.mark.parametrize("tested", RULES.values(), ids=RULES),
    pytest.mark.filterwarnings("ignore:the schedule (replaces|has ended)"),
]


def test_a_native_backend_equals_the_reference_after_any_sequence(tested, backend):
    check(tested, backend, 60 if backend == "cpp" else 20)


@pytest.mark.slow
def test_a_native_backend_equals_the_reference_after_1000_sequences(tested, backend):
    check(tested, backend, 1000)
