"""After any sequence of steps and changes, an optimizer has the numbers of torch's, in float64 to rounding.

40 sequences for each rule in every run, 1,000 with ``-m slow``.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
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
from clrfast.schedules import Linear
from clrfast.schedules._group_values import set_momentum
from tests.helpers.optimizers import BACKENDS, RULES, all_state, assert_near, checkpoint_of

SHAPES = [(3,), (2, 3), (1,), (), (70,)]
TOTAL_STEPS = 12
SCHEDULE = clrfast.Schedule(
    Linear(0.05, 0.1, 5), momentum=Linear(0.95, 0.0, 8), weight_decay=Linear(0.0, 0.02, 5), total_steps=TOTAL_STEPS
)

seeds = st.integers(0, 2**31)
numbers = st.integers(0, 2**31)
FIXED = ("amsgrad",)
"""Options that torch cannot change once there is a state."""


def values(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Side:
    """One of the two optimizers, and its parameters."""

    def __init__(self, make, seed):
        self.params = [nn.Parameter(values(shape, seed + i)) for i, shape in enumerate(SHAPES[:4])]
        self.optimizer = make([{"params": self.params[:2]}, {"params": self.params[2:]}])
        self.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=3)
        self.scaler.scale(torch.ones(1))  # makes the scale

    @property
    def listed(self):
        return [param for group in self.optimizer.param_groups for param in group["params"]]


class Machine(RuleBasedStateMachine):
    tested, backend = RULES["SGD"], "cpp"

    def options(self, number):
        """Return one of the rule's combinations of options."""
        lr = [0.0, 0.1, torch.tensor(0.05, dtype=torch.float64)][number % 3]
        chosen = self.tested.options[number // 3 % len(self.tested.options)]
        if self.tested.ours is clrfast.Adam and chosen["betas"][1] == 0:
            # It divides by the last gradient alone, which decay can cancel: rounding then grows a thousandfold.
            chosen = {**chosen, "betas": (0.5, 0.5)}
        return {"lr": lr, **chosen}

    @initialize(number=numbers, scheduled=st.booleans(), seed=seeds, fused=st.booleans())
    def make(self, number, scheduled, seed, fused):
        self.scheduled, self.updates, self.clip_norm, self.fused = scheduled, 0, None, fused
        self.chosen = self.options(number)
        if scheduled:
            self.chosen["lr"] = 0.1
        self.ours, self.theirs = Side(self.make_ours, seed), Side(self.make_theirs, seed)
        self.sides = self.ours, self.theirs

    def make_ours(self, groups):
        schedule = SCHEDULE if self.scheduled else None
        more = {"backend": self.backend, "fused": self.fused, "clip_norm": self.clip_norm}
        return self.tested.ours(groups, schedule=schedule, **copy.deepcopy(self.chosen), **more)

    def make_theirs(self, groups):
        return self.tested.theirs(groups, **copy.deepcopy(self.chosen))

    @rule(
        seed=seeds,
        left_out=st.sets(st.integers(0, 7)),
        skipped=st.booleans(),
        way=st.sampled_from(["plain", "plain", "flag", "scaler", "unscaled"]),
        layout=st.sampled_from("aab"),
    )
    def step(self, seed, left_out, skipped, way, layout):
        for side in self.sides:
            scale = side.scaler.get_scale() if way in ("scaler", "unscaled") else 1.0
            for index, param in enumerate(side.listed):
                grad = scale * values(param.shape, seed + index)
                if layout == "b" and grad.dim() == 2:
                    grad = grad.t().contiguous().t()
                param.grad = None if index in left_out else grad
        trained = [param for param in self.ours.listed if param.grad is not None]
        skips = skipped and bool(trained) and way != "plain"
        if skips and way in ("scaler", "unscaled"):
            for side in self.sides:
                next(param for param in side.listed if param.grad is not None).grad.fill_(float("inf"))
        self.step_ours(way, skips)
        self.step_theirs(way, skips)
        self.updates += not skips

    def step_ours(self, way, skips):
        optimizer, scaler = self.ours.optimizer, self.ours.scaler
        if way in ("plain", "flag"):
            if way == "flag":
                optimizer.found_inf = torch.tensor(float(skips))
            optimizer.step(loss=1.0)
            optimizer.found_inf = None
        elif any(param.grad is not None for param in self.ours.listed):
            if way == "unscaled":
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()

    def step_theirs(self, way, skips):
        optimizer, scaler = self.theirs.optimizer, self.theirs.scaler
        if self.scheduled:
            lr, momentum, weight_decay = SCHEDULE.table()[min(self.updates, TOTAL_STEPS - 1), 0].tolist()
            for group in optimizer.param_groups:
                group.update(lr=lr, weight_decay=weight_decay)
                set_momentum(group, momentum)
        trained = [param for param in self.theirs.listed if param.grad is not None]
        if way in ("scaler", "unscaled") and trained:
            scaler.unscale_(optimizer)
        if self.clip_norm is not None and not skips:
            torch.nn.utils.clip_grad_norm_(trained, self.clip_norm)
        if way in ("scaler", "unscaled") and trained:
            scaler.step(optimizer)
            scaler.update()
        elif not skips:
            optimizer.step()

    @precondition(lambda self: not self.scheduled)
    @rule(number=numbers, group=st.integers(0, 1))
    def set_options(self, number, group):
        for side in self.sides:
            changed = {name: value for name, value in self.options(number).items() if name not in FIXED}
            side.optimizer.param_groups[group].update(changed)

    @rule(clip_norm=st.sampled_from([None, 0.5, 100.0]))
    def set_clip_norm(self, clip_norm):
        self.clip_norm = self.ours.optimizer.clip_norm = clip_norm

    @rule(seed=seeds, shape=st.sampled_from(SHAPES), number=numbers)
    def add_group(self, seed, shape, number):
        if len(self.ours.optimizer.param_groups) < 5:
            for side in self.sides:
                given = {} if self.scheduled else self.options(number)
                side.optimizer.add_param_group({"params": [nn.Parameter(values(shape, seed))], **given})

    @rule(index=st.integers(0, 7))
    def move_memory(self, index):
        for side in self.sides:
            param = side.listed[index % len(side.listed)]
            param.grad = None
            param.data = param.data.t().contiguous().t() if param.dim() == 2 else param.data.clone()
            for tensor in side.optimizer.state.get(param, {}).values():
                if isinstance(tensor, torch.Tensor):
                    tensor.data = tensor.data.clone()

    @rule()
    def share_memory(self):
        for tensor in (*self.ours.listed, *all_state(self.ours.optimizer)):
            tensor.share_memory_()

    @precondition(lambda self: "exp_avg" in self.tested.states)
    @rule(count=st.integers(1, 20), index=st.integers(0, 7))
    def write_step(self, count, index):
        states = [side.optimizer.state.get(side.listed[index % len(side.listed)], {}) for side in self.sides]
        if all("step" in state for state in states):  # torch has none after a skipped first step
            for state in states:
                state["step"].fill_(float(count))

    @rule(way=st.sampled_from([copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]))
    def become_a_copy(self, way):
        for side in self.sides:
            side.optimizer = way(side.optimizer)

    @rule(carried=st.sampled_from([lambda o: copy.deepcopy(o.state_dict()), checkpoint_of]), crossed=st.booleans())
    def save_and_load(self, carried, crossed):
        """Each side continues from its own state, or from the other's."""
        saved = carried(self.ours.optimizer), carried(self.theirs.optimizer)
        if crossed:
            saved = (saved[0], carried(self.ours.optimizer)) if self.scheduled else saved[::-1]
        for side, make, state in zip(self.sides, (self.make_ours, self.make_theirs), saved, strict=True):
            side.optimizer = make([{"params": group["params"]} for group in side.optimizer.param_groups])
            side.optimizer.load_state_dict(state)
            for group in side.optimizer.param_groups:  # a saved group of the other side has its value
                group["fused"] = self.fused if side is self.ours else None

    @invariant()
    def alike(self):
        steps = self.updates + 1
        assert_near(self.ours.listed, self.theirs.listed, steps)
        states = zip(
            *([side.optimizer.state.get(param, {}) for param in side.listed] for side in self.sides), strict=True
        )
        for ours, theirs in states:
            for name in (*self.tested.states, "step"):
                if name in ours and theirs.get(name) is not None:
                    assert_near([ours[name].double()], [theirs[name].double()], steps)
        if self.scheduled:
            assert self.ours.optimizer.control.synchronize() == self.updates


def check(tested, backend, max_examples):
    run_state_machine_as_test(
        type("Machine", (Machine,), {"tested": tested, "backend": backend}),
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


pytestmark = [
    pytest.mark.parametrize("backend", BACKENDS),
    pytest.mark.parametrize("tested", RULES.values(), ids=RULES),
    pytest.mark.filterwarnings("ignore:the schedule (replaces|has ended)|weight_decay. got .* which the schedule"),
]


def test_an_optimizer_equals_torchs_after_any_sequence(tested, backend):
    check(tested, backend, 40 if backend == "cpp" else 15)


@pytest.mark.slow
def test_an_optimizer_equals_torchs_after_1000_sequences(tested, backend):
    check(tested, backend, 1000)
