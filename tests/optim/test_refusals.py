"""Every optimizer refuses what it cannot use by an error that names it, and nothing changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import clrfast
from clrfast import Schedule, _native
from tests.helpers.optimizers import (
    BACKENDS,
    RULES,
    all_state,
    assert_same,
    every_rule,
    give_grads,
    make_params,
    run_steps,
)

on_every_backend = pytest.mark.parametrize("backend", BACKENDS)


def with_bad_gradient(kind, params):
    if kind == "sparse":
        params[1].grad = torch.ones_like(params[1]).to_sparse()
    elif kind == "complex":
        params[1] = nn.Parameter(torch.ones(3, dtype=torch.complex64))
        params[1].grad = torch.ones_like(params[1])
    return params


@on_every_backend
@every_rule
@pytest.mark.parametrize("kind", ["sparse", "complex"])
@pytest.mark.parametrize("more", [{}, {"schedule": clrfast.one_cycle(0.1, 8)}, {"clip_norm": 1.0}], ids=str)
def test_an_unusable_gradient_changes_nothing(rule, backend, kind, more):
    params = make_params([(3,), (3,), (3,)])
    give_grads(params, 0)
    params = with_bad_gradient(kind, params)
    before = [param.detach().clone() for param in params]
    optimizer = rule.make(params, backend=backend, **more)
    with pytest.raises(RuntimeError, match=rf"parameter 1 \(group 0, shape \(3,\)\): .*{kind}"):
        optimizer.step()
    assert_same(params, before)
    assert not optimizer.state
    assert optimizer.control is None or int(optimizer.control.step) == 0


@on_every_backend
@every_rule
def test_parameters_on_several_devices_are_refused(rule, backend):
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, device="meta"))]
    with pytest.raises(RuntimeError, match="several devices"):
        rule.make(params, backend=backend)
    optimizer = rule.make(params[:1], backend=backend)
    with pytest.raises(RuntimeError, match="several devices"):
        optimizer.add_param_group({"params": params[1:]})
    assert len(optimizer.param_groups) == 1


BAD = (
    ({"lr": -0.1}, "lr: got -0.1"),
    ({"lr": torch.ones(2)}, r"lr: got a tensor of shape \(2,\)"),
    ({"lr": "0.1"}, "lr: got '0.1'"),
    ({"lr": None}, "lr: got None"),
    ({"lr": [0.1]}, r"lr: got \[0.1\]"),
    ({"weight_decay": float("nan")}, "weight_decay: got nan"),
    ({"weight_decay": {}}, "weight_decay: got {}"),
    ({"lr": clrfast.constant(0.1, 3)}, r"lr: got a Schedule; give it by name: .*schedule=schedule\)"),
    ({"schedule": 0.1}, "schedule: got 0.1"),
    ({"schedule": Schedule(0.1)}, "schedule: it has no total_steps"),
    ({"schedule": Schedule([0.1, 0.2], total_steps=3)}, "it has 2 groups, but the optimizer has 1"),
    ({"schedule": Schedule(lambda s: -s, total_steps=3)}, "lr: got -1.0 at step 1"),
)


@on_every_backend
@pytest.mark.parametrize(
    ("rule", "given", "named"),
    [
        pytest.param(rule, given, named, id=f"{name}-{'-'.join(given)}")
        for name, rule in RULES.items()
        for given, named in (*BAD, *rule.bad)
    ],
)
def test_an_error_names_the_bad_argument(rule, backend, given, named):
    with pytest.raises(ValueError, match=named):
        rule.ours(make_params([(2,)]), backend=backend, **given)
    optimizer = rule.ours(make_params([(2,)]), backend=backend)
    if "schedule" not in given and not isinstance(given.get("lr"), Schedule):
        with pytest.raises(ValueError, match=named):
            optimizer.add_param_group({"params": make_params([(2,)]), **given})
    assert len(optimizer.param_groups) == 1


@on_every_backend
@every_rule
def test_a_group_that_does_not_fit_leaves_the_optimizer_unchanged(rule, backend):
    (given, named), *_ = rule.bad
    params = make_params([(2,), (3,)])
    optimizer = rule.make(params[:1], schedule=clrfast.one_cycle(0.1, 5), backend=backend)
    with pytest.raises(ValueError, match=named):
        optimizer.add_param_group({"params": params[1:], **given})
    assert len(optimizer.param_groups) == 1
    give_grads(params, 0)
    optimizer.step()
    assert int(optimizer.control.step) == 1


@on_every_backend
def test_the_backend_is_chosen_and_checked(backend, monkeypatch):
    params = make_params([(2,)])
    assert clrfast.SGD(params, backend=backend).backend == backend
    with pytest.raises(ValueError, match="backend: got 'gpu'"):
        clrfast.SGD(params, backend="gpu")
    meta = [nn.Parameter(torch.ones(2, device="meta"))]
    assert clrfast.SGD(meta).backend == "torch"
    monkeypatch.setattr(_native, "_C", None)
    monkeypatch.setattr(_native, "why_missing", "it was not built")
    with pytest.warns(UserWarning, match="native backend 'cpp' is missing.*it was not built.*install a C"):
        assert clrfast.SGD(params).backend == "torch"
    with pytest.raises(RuntimeError, match=r"backend: 'cpp' cannot update parameter 0 .*it was not built"):
        clrfast.SGD(params, backend="cpp")


@on_every_backend
@every_rule
def test_empty_groups_are_accepted_and_duplicates_refused(rule, backend):
    rule.make([{"params": []}], backend=backend).step()
    rule.make([{"params": []}], backend=backend, clip_norm=1.0).step()
    param = make_params([(2,)])[0]
    with (
        pytest.warns(UserWarning, match="duplicate parameters"),
        pytest.raises(ValueError, match="params: a parameter occurs twice"),
    ):
        rule.make([param, param], backend=backend)


@on_every_backend
@every_rule
def test_the_state_of_another_model_is_refused(rule, backend):
    """torch does not check shapes when it loads a state."""
    _, small = run_steps(lambda p: rule.make(p, backend=backend), 1, [(8, 8)])
    params = make_params([(80, 80)])
    optimizer = rule.make(params, backend=backend)
    optimizer.load_state_dict(small.state_dict())
    give_grads(params, 0)
    before = [tensor.detach().clone() for tensor in (*params, *all_state(optimizer))]
    with pytest.raises(RuntimeError, match=rf"{rule.states[0]} has shape \(8, 8\).*another model"):
        optimizer.step()
    assert_same([*params, *all_state(optimizer)], before)


@on_every_backend
@pytest.mark.parametrize(
    ("rule", "name"), [(rule, name) for rule in RULES.values() for name in (*rule.states, "master_param")]
)
@pytest.mark.parametrize(
    ("wrong", "named"),
    [(torch.zeros(3, dtype=torch.int64), "is of torch.int64"), (torch.zeros(4), r"has shape \(4,\)")],
)
def test_a_state_that_does_not_fit_changes_nothing(rule, backend, name, wrong, named):
    params, optimizer = run_steps(lambda p: rule.make(p, backend=backend), 1, [(2,), (3,)])
    optimizer.state[params[1]][name] = wrong
    give_grads(params, 1)
    before = [tensor.detach().clone() for tensor in (*params, *all_state(optimizer))]
    with pytest.raises(RuntimeError, match=rf"parameter 1 \(group 0, shape \(3,\)\): its {name} {named}"):
        optimizer.step()
    assert_same([*params, *all_state(optimizer)], before)


@on_every_backend
@pytest.mark.parametrize(
    ("rule", "other", "lacking"),
    [(RULES["SGD"], RULES["AdamW"], "momentum, dampening"), (RULES["AdamW"], RULES["SGD"], "betas, eps")],
)
def test_the_state_of_an_optimizer_of_another_kind_is_refused(rule, backend, other, lacking):
    params, optimizer = run_steps(lambda p: rule.make(p, backend=backend), 2)
    groups = copy.deepcopy([{n: v for n, v in group.items() if n != "params"} for group in optimizer.param_groups])
    before = [tensor.detach().clone() for tensor in all_state(optimizer)]
    _, foreign = run_steps(other.make_theirs, 2)
    with pytest.raises(ValueError, match=rf"state_dict: its group 0 has no {lacking}; .* by another optimizer"):
        optimizer.load_state_dict(foreign.state_dict())
    assert_same(all_state(optimizer), before)
    assert [{n: v for n, v in group.items() if n != "params"} for group in optimizer.param_groups] == groups
    give_grads(params, 2)
    optimizer.step()
