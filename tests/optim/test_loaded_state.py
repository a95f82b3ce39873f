"""States of torch's optimizers load here and ours load there, whatever wrote them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import clrfast
from tests.helpers.optimizers import (
    BACKENDS,
    RULES,
    all_state,
    assert_near,
    assert_same,
    checkpoint_of,
    every_rule,
    give_grads,
    make_params,
    run_steps,
)

on_every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_adam = pytest.mark.parametrize("rule", [RULES["Adam"], RULES["AdamW"]])
SHAPES = [(3, 4), (5,), ()]


def continued(make, params, saved, first, last):
    """Load ``saved`` into a new optimizer over copies of ``params``, and train on."""
    params = [nn.Parameter(param.detach().clone()) for param in params]
    optimizer = make(params)
    optimizer.load_state_dict(saved)
    for step in range(first, last):
        give_grads(params, step)
        optimizer.step()
    return params, optimizer


@on_every_backend
@every_rule
@pytest.mark.parametrize("carried", [lambda o: copy.deepcopy(o.state_dict()), checkpoint_of], ids=["copied", "saved"])
@pytest.mark.parametrize("to", ["torch and back", "ours and back"])
def test_a_state_goes_to_the_other_optimizer_and_back(rule, backend, carried, to):
    def ours(params):
        return rule.make(params, backend=backend)

    expected, alone = run_steps(rule.make_theirs, 9, SHAPES)
    first, second = (ours, rule.make_theirs) if to == "torch and back" else (rule.make_theirs, ours)
    params, optimizer = run_steps(first, 3, SHAPES)
    params, optimizer = continued(second, params, carried(optimizer), 3, 6)
    params, optimizer = continued(first, params, carried(optimizer), 6, 9)
    assert_near(params, expected, steps=9)
    assert_near(all_state(optimizer), all_state(alone), steps=9)
    for state in optimizer.state_dict()["state"].values():
        assert set(state) - {"step"} == set(rule.states)
    saved, stock = optimizer.state_dict()["param_groups"][0], alone.state_dict()["param_groups"][0]
    differing = {"capturable", "decoupled_weight_decay"}  # newer torch has the second
    assert saved.keys() ^ stock.keys() <= differing


@on_every_backend
@every_adam
@pytest.mark.parametrize("more", [{"fused": True}, {"foreach": True}, {"fused": False, "capturable": True}], ids=str)
def test_every_implementation_of_torchs_loads(rule, backend, more):
    expected, _ = run_steps(rule.make_theirs, 6, SHAPES)
    on_cpu = {name: value for name, value in more.items() if name != "capturable"}  # torch has it on GPUs alone
    params, stock = run_steps(lambda p: rule.make_theirs(p, **on_cpu), 3, SHAPES)
    saved = checkpoint_of(stock)
    saved["param_groups"][0].update(more)
    params, optimizer = continued(lambda p: rule.make(p, backend=backend), params, saved, 3, 6)
    assert_near(params, expected, steps=6)
    for name, value in more.items():
        assert optimizer.param_groups[0][name] == value


def with_steps(saved, make_step):
    for state in saved["state"].values():
        state["step"] = make_step(state["step"])
    return saved


STEPS = {
    "an int": lambda step: int(step),
    "a float": lambda step: float(step),
    "int64": lambda step: step.to(torch.int64),
    "float64 of one dimension": lambda step: step.double().reshape(1),
    "of a graph": lambda step: step.clone().requires_grad_(),
}


@on_every_backend
@every_adam
@pytest.mark.parametrize("kind", STEPS)
def test_steps_of_any_kind_load(rule, backend, kind):
    """Old versions of torch saved Python numbers."""
    expected, alone = run_steps(rule.make_theirs, 6, SHAPES)
    params, stock = run_steps(rule.make_theirs, 3, SHAPES)
    saved = with_steps(copy.deepcopy(stock.state_dict()), STEPS[kind])
    params, optimizer = continued(lambda p: rule.make(p, backend=backend), params, saved, 3, 6)
    assert_near(params, expected, steps=6)
    for state, wanted in zip(optimizer.state.values(), alone.state.values(), strict=True):
        assert torch.equal(state["step"], wanted["step"])
        assert state["step"].dtype == wanted["step"].dtype == torch.float32


@on_every_backend
@every_adam
@pytest.mark.parametrize("step", ["3", [3], torch.ones(2), torch.tensor(3j)], ids=str)
def test_a_step_that_is_no_number_is_refused(rule, backend, step):
    params, stock = run_steps(rule.make_theirs, 3, SHAPES)
    saved = with_steps(copy.deepcopy(stock.state_dict()), lambda _: step)
    with pytest.raises(
        RuntimeError, match=r"parameter 0 \(group 0, shape \(3, 4\)\): its step is .* number of updates"
    ):
        continued(lambda p: rule.make(p, backend=backend), params, saved, 3, 4)


@on_every_backend
@every_adam
def test_two_optimizers_that_load_one_state_count_their_own_updates(rule, backend):
    params, source = run_steps(lambda p: rule.make(p, backend=backend), 2, SHAPES)
    saved = source.state_dict()
    others = [continued(lambda p: rule.make(p, backend=backend), params, saved, 2, 2)[1] for _ in range(2)]
    saved, shared = copy.deepcopy(saved), {}
    for state in saved["state"].values():  # FSDP gives all parameters of a module one tensor
        state["step"] = shared.setdefault("step", state["step"])
    others.append(continued(lambda p: rule.make(p, backend=backend), params, saved, 2, 2)[1])
    for optimizer in (source, others[0], others[2]):
        give_grads(optimizer.param_groups[0]["params"], 2)
        optimizer.step()
    for optimizer, count in zip((source, *others), (3.0, 3.0, 2.0, 3.0), strict=True):
        assert {state["step"].item() for state in optimizer.state.values()} == {count}


@on_every_backend
@every_adam
@pytest.mark.parametrize("write", [lambda step: step.fill_(9.0), lambda step: step.zero_()], ids=["9", "0"])
@pytest.mark.parametrize("schedule", [None, clrfast.one_cycle(0.1, 8)], ids=["stock", "scheduled"])
def test_steps_written_in_place_are_honoured(rule, backend, write, schedule):
    def before(step, optimizer, params):
        if step == 2:
            for state in optimizer.state.values():
                write(state["step"])

    def by_hand(step, optimizer, params):
        before(step, optimizer, params)
        if schedule is not None:
            lr, momentum, _ = schedule.table()[step, 0].tolist()
            optimizer.param_groups[0].update(lr=lr, betas=(momentum, 0.95))

    ours, optimizer = run_steps(
        lambda p: rule.make(p, schedule=schedule, backend=backend), 5, SHAPES, before_step=before
    )
    theirs, stock = run_steps(rule.make_theirs, 5, SHAPES, before_step=by_hand)
    assert_near(ours, theirs, steps=5)
    assert_near(all_state(optimizer), all_state(stock), steps=5)


@on_every_backend
@every_rule
def test_the_state_of_a_skipped_first_step_loads_as_none(rule, backend):
    params = make_params(SHAPES)
    optimizer = rule.make(params, backend=backend)
    give_grads(params, 0)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    expected, _ = run_steps(rule.make_theirs, 2, SHAPES)
    for make in (rule.make_theirs, lambda p: rule.make(p, backend=backend)):
        resumed, _ = continued(make, params, checkpoint_of(optimizer), 0, 2)
        assert_near(resumed, expected, steps=2)


@on_every_backend
def test_adamw_stays_adamw_with_a_state_of_adam(backend):
    """As in torch, the class decides how weights decay."""
    params, stock = run_steps(lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1), 3, SHAPES)
    saved = checkpoint_of(stock)
    expected, _ = continued(torch.optim.AdamW, params, copy.deepcopy(saved), 3, 6)
    resumed, optimizer = continued(lambda p: clrfast.AdamW(p, backend=backend), params, saved, 3, 6)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True
    assert_near(resumed, expected, steps=6)


@on_every_backend
@every_adam
def test_groups_of_an_old_checkpoint_get_what_they_lack(rule, backend):
    params, stock = run_steps(lambda p: rule.make_theirs(p, amsgrad=False), 3, SHAPES)
    saved = checkpoint_of(stock)
    expected, _ = continued(rule.make_theirs, params, copy.deepcopy(saved), 3, 6)
    for group in saved["param_groups"]:
        for name in (
            "amsgrad",
            "maximize",
            "foreach",
            "capturable",
            "differentiable",
            "fused",
            "decoupled_weight_decay",
        ):
            group.pop(name, None)
    resumed, optimizer = continued(lambda p: rule.make(p, backend=backend), params, saved, 3, 6)
    assert_near(resumed, expected, steps=6)
    assert optimizer.param_groups[0].keys() >= stock.param_groups[0].keys()
    again = rule.make_theirs(resumed)
    again.load_state_dict(optimizer.state_dict())


@on_every_backend
@every_adam
def test_amsgrad_switched_on_in_a_loaded_state_begins_with_the_present_moment(rule, backend):
    """torch raises KeyError then."""
    params, stock = run_steps(lambda p: rule.make_theirs(p, amsgrad=False), 3, SHAPES)

    def make(params):
        return rule.make(params, backend=backend)

    plain, _ = continued(make, params, checkpoint_of(stock), 3, 4)
    saved = checkpoint_of(stock)
    saved["param_groups"][0]["amsgrad"] = True
    switched, optimizer = continued(make, params, saved, 3, 4)
    assert_same(switched, plain)
    assert all(torch.equal(s["max_exp_avg_sq"], s["exp_avg_sq"]) for s in optimizer.state.values())


@on_every_backend
@every_rule
def test_an_optimizer_in_shared_memory_goes_on(rule, backend):
    def run(moves):
        params = make_params(SHAPES)
        optimizer = rule.make(params, backend=backend)
        for step in range(4):
            give_grads(params, step)
            optimizer.step()
            if step == 1 and moves:
                for tensor in (*params, *all_state(optimizer)):
                    tensor.share_memory_()
            if step == 2 and moves:
                params, optimizer = pickle.loads(pickle.dumps((params, optimizer)))
        return [*params, *all_state(optimizer)]

    assert_same(run(True), run(False))
