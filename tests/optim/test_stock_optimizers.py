"""Optimizers without a schedule: torch.optim's numbers and interface, and refusals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import clrfast
from tests.helpers.optimizers import (
    BACKENDS,
    DTYPES,
    RULES,
    all_state,
    assert_near,
    assert_same,
    every_option,
    every_rule,
    give_grads,
    larger_eps,
    make_params,
    run_steps,
)

on_every_backend = pytest.mark.parametrize("backend", BACKENDS)


@on_every_backend
@every_option
def test_the_numbers_are_torchs(rule, options, backend):
    for dtype in DTYPES:
        ours, optimizer = run_steps(lambda p: rule.ours(p, lr=0.1, backend=backend, **options), 5, dtype=dtype)
        theirs, stock = run_steps(lambda p: rule.theirs(p, lr=0.1, **options), 5, dtype=dtype)
        assert_near(ours, theirs, steps=5)
        assert_near(all_state(optimizer), all_state(stock), steps=5)


shapes = st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=5)


@st.composite
def rules_with_options(draw):
    """Draw a rule and its options."""
    rule = draw(st.sampled_from(list(RULES.values())))
    return rule, {"lr": draw(st.floats(0, 1)), **draw(st.sampled_from(rule.options))}


@on_every_backend
@settings(deadline=None, max_examples=100)
@given(
    chosen=rules_with_options(), shapes=shapes, dtype=st.sampled_from(DTYPES), late=st.integers(0, 4), data=st.data()
)
def test_the_numbers_are_torchs_on_random_models(backend, chosen, shapes, dtype, late, data):
    """Options, shapes and dtypes are random. One parameter gets its first gradient late, another is frozen at times."""
    (rule, options), frozen = chosen, data.draw(st.sets(st.integers(0, 4)))
    options = {**options, **larger_eps(rule, dtype)}
    if options.get("betas", (0.0, 1.0))[1] == 0.0 and options["weight_decay"]:
        options["eps"] = 1.0  # the decay can cancel a gradient, whose rounding error is then divided by its size

    def before(step, optimizer, params):
        if step < late:
            params[-1].grad = None
        if step in frozen:
            params[0].grad = None

    ours, _ = run_steps(lambda p: rule.ours(p, backend=backend, **options), 5, shapes, dtype, before)
    theirs, _ = run_steps(lambda p: rule.theirs(p, **options), 5, shapes, dtype, before)
    assert_near(ours, theirs, steps=5)


@on_every_backend
@every_rule
def test_groups_have_their_own_options(rule, backend):
    def make(cls, params, **kwargs):
        groups = [
            {"params": params[:1], "lr": 0.5, **rule.usual},
            {"params": params[1:3], "weight_decay": 0.1, "maximize": True},
            {"params": params[3:], "lr": 0.0},
        ]
        return cls(groups, lr=0.1, **kwargs)

    ours, _ = run_steps(lambda p: make(rule.ours, p, backend=backend), 5, [(3,)] * 5)
    theirs, _ = run_steps(lambda p: make(rule.theirs, p), 5, [(3,)] * 5)
    assert_near(ours, theirs, steps=5)


@on_every_backend
@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lr", [torch.tensor(0.1), torch.tensor([0.1]), torch.tensor(0.1, dtype=torch.float64)])
def test_the_rate_may_be_a_tensor(rule, backend, dtype, lr):
    def halve_tensor(step, optimizer, params):
        if step == 2:
            optimizer.param_groups[0]["lr"].mul_(0.5)

    def halve_number(step, optimizer, params):
        if step == 2:
            optimizer.param_groups[0]["lr"] *= 0.5

    value = lr.item()
    ours, _ = run_steps(
        lambda p: rule.make(p, lr=lr.clone(), backend=backend), 4, dtype=dtype, before_step=halve_tensor
    )
    theirs, _ = run_steps(lambda p: rule.make_theirs(p, lr=value), 4, dtype=dtype, before_step=halve_number)
    assert_near(ours, theirs, steps=4)


@on_every_backend
@every_rule
def test_a_group_can_be_added(rule, backend):
    def run(make, **kwargs):
        params = make_params([(3,), (4,), (5,)])
        optimizer = make(params[:2], **kwargs)
        for step in range(4):
            if step == 2:
                optimizer.add_param_group({"params": params[2:], "lr": 0.2})
            give_grads(params, step)
            optimizer.step()
        return params

    assert_near(run(rule.make, backend=backend), run(rule.make_theirs), steps=4)


@on_every_backend
def test_step_evaluates_a_closure(backend):
    param = nn.Parameter(torch.tensor([3.0]))
    optimizer = clrfast.SGD([param], lr=0.5, backend=backend)

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert param.item() == 0.0
    with torch.no_grad():
        assert optimizer.step(closure).item() == 0.0


@on_every_backend
def test_step_hooks_run_in_order_and_may_change_the_arguments(backend):
    param = nn.Parameter(torch.tensor([1.0]))
    param.grad = torch.tensor([1.0])
    optimizer = clrfast.SGD([param], lr=0.5, backend=backend)
    seen = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(("before", param.item())))
    handle = optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(("after", param.item())))
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert seen == [("before", 1.0), ("after", 0.5), ("before", 0.5)]


@on_every_backend
@every_rule
def test_the_profiler_sees_the_step(rule, backend):
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = rule.make([param], backend=backend)
    with torch.profiler.profile() as profiler:
        optimizer.step()
    assert f"Optimizer.step#{rule.name}.step" in {event.key for event in profiler.key_averages()}


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@on_every_backend
@every_rule
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("schedule", [None, clrfast.one_cycle(0.1, 8)], ids=["stock", "scheduled"])
def test_copies_continue_alike_and_independently(rule, backend, copied, schedule):
    params, optimizer = run_steps(lambda p: rule.make(p, schedule=schedule, backend=backend, clip_norm=5.0), 3)
    params_copy, optimizer_copy = copied((params, optimizer))
    at_copy = [tensor.detach().clone() for tensor in (*params, *all_state(optimizer))]
    give_grads(params, 3)
    optimizer.step()
    assert_same([*params_copy, *all_state(optimizer_copy)], at_copy)
    give_grads(params_copy, 3)
    optimizer_copy.step()
    assert_same([*params, *all_state(optimizer)], [*params_copy, *all_state(optimizer_copy)])
    assert optimizer_copy.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert optimizer_copy.clip_norm == 5.0


SCHEDULERS = {
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=12, base_momentum=0.7),
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.3, step_size_up=3),
}


@on_every_backend
@every_rule
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_torch_schedulers_work_on_top(rule, backend, name):
    def run(make, **kwargs):
        params = make_params([(3,), (4,)])
        optimizer = make(params, **kwargs)
        scheduler = SCHEDULERS[name](optimizer)
        for step in range(10):
            give_grads(params, step)
            optimizer.step()
            scheduler.step()
        return params

    assert_near(run(rule.make, backend=backend), run(rule.make_theirs), steps=10)


@on_every_backend
@every_rule
@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_skips_the_first_step_and_later_ones(rule, backend, fused):
    def run(make, **kwargs):
        param = nn.Parameter(torch.tensor([1.0]))
        optimizer = make([param], lr=0.5, **kwargs)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
        for factor in (float("inf"), 1.0, float("nan"), 2.0, -1.0):
            optimizer.zero_grad()
            scaler.scale((param * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 2.0
        return [param, *all_state(optimizer)]

    assert_near(run(rule.make, backend=backend, fused=fused), run(rule.make_theirs), steps=3)


@on_every_backend
@every_rule
@pytest.mark.parametrize("found_inf", [1.0, 2.0])
def test_any_found_inf_skips_and_the_gradient_is_not_written(rule, backend, found_inf):
    params = make_params([(3,)])
    give_grads(params, 0)
    before, gradient = params[0].detach().clone(), params[0].grad.clone()
    expected, _ = run_steps(rule.make_theirs, 1, [(3,)])
    params[0].grad.mul_(4.0)
    optimizer = rule.make(params, backend=backend)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(found_inf)
    optimizer.step()
    assert_same([params[0], params[0].grad], [before, 4 * gradient])
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert_near(params, expected, steps=1)
    assert_same([params[0].grad], [4 * gradient])


@on_every_backend
@every_rule
def test_negated_gradients_are_applied(rule, backend):
    """Complex arithmetic can leave a real gradient that is a negated view."""

    def run(make, **given):
        a, b = (nn.Parameter(torch.tensor(1.0)) for _ in range(2))
        (torch.complex(a, b).conj() * (1 + 2j)).real.backward()
        assert b.grad.is_neg()
        make([a, b], **given).step()
        return [a, b]

    assert_near(run(rule.make, backend=backend), run(rule.make_theirs), steps=1)


@on_every_backend
@every_rule
def test_wrappers_without_memory_are_updated(rule, backend):
    """DTensor is such a wrapper. A native loop over its memory would silently do nothing."""
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor")
    results = []
    for stock in (False, True):
        param = nn.Parameter(two_tensor.TwoTensor(torch.ones(3), torch.ones(3)))
        params = [param, *make_params([(2,)])]
        optimizer = rule.make_theirs(params) if stock else rule.make(params, backend=backend)
        for _ in range(2):
            param.grad = two_tensor.TwoTensor(torch.ones(3), torch.ones(3))
            optimizer.step()
        results.append([param.a.detach()])
    assert_near(*results, steps=2)


@on_every_backend
@every_rule
def test_master_weights_are_float32_and_survive_a_checkpoint(rule, backend):
    def run(stop):
        params = make_params([(3, 4), (5,)], torch.bfloat16)
        optimizer = rule.make(params, lr=1e-4, master_weights=True, backend=backend)
        for step in range(6):
            if step == stop:
                saved = optimizer.state_dict()
                params = [nn.Parameter(param.detach().clone()) for param in params]
                optimizer = rule.make(params, lr=1e-4, master_weights=True, backend=backend)
                optimizer.load_state_dict(copy.deepcopy(saved))
            give_grads(params, step)
            optimizer.step()
        return params, optimizer

    (params, optimizer), (others, resumed) = run(None), run(3)
    assert_same([*params, *all_state(optimizer)], [*others, *all_state(resumed)])
    masters = [nn.Parameter(value.detach().float()) for value in make_params([(3, 4), (5,)], torch.bfloat16)]
    stock = rule.make_theirs(masters, lr=1e-4)
    for step in range(6):
        give_grads(others, step)
        for master, param in zip(masters, others, strict=True):
            master.grad = param.grad.float()
        stock.step()
    assert_near([optimizer.state[param]["master_param"] for param in params], masters, steps=6)
