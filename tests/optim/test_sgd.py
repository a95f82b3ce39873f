"""SGD without a schedule: torch.optim.SGD's numbers, state and interface, and refusals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import clrfast
from clrfast import Schedule, _native
from clrfast.schedules import Linear
from tests.helpers.optimizers import (
    BACKENDS,
    DTYPES,
    OPTIONS,
    assert_near,
    assert_same,
    give_grads,
    make_params,
    option_id,
    run_steps,
)

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.mark.parametrize("options", OPTIONS, ids=option_id)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_numbers_are_torchs(backend, options, dtype):
    ours, _ = run_steps(lambda p: clrfast.SGD(p, lr=0.1, backend=backend, **options), 5, dtype=dtype)
    theirs, _ = run_steps(lambda p: torch.optim.SGD(p, lr=0.1, **options), 5, dtype=dtype)
    assert_near(ours, theirs, steps=5)


shapes = st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=5)


options = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 1),
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "dampening": st.sampled_from([0.0, 0.1, 1.0]),
        "weight_decay": st.sampled_from([0.0, 1e-4, 0.1]),
        "maximize": st.booleans(),
    }
)


@settings(deadline=None, max_examples=60)
@given(shapes=shapes, options=options, dtype=st.sampled_from(DTYPES), late=st.integers(0, 4), data=st.data())
def test_the_numbers_are_torchs_on_random_models(backend, shapes, options, dtype, late, data):
    """Options, shapes and dtypes are random. One parameter gets its first gradient late, another is frozen at times."""
    frozen = data.draw(st.sets(st.integers(0, 4)))
    if options["momentum"] and not options["dampening"]:
        options = {**options, "nesterov": data.draw(st.booleans())}

    def before(step, optimizer, params):
        if step < late:
            params[-1].grad = None
        if step in frozen:
            params[0].grad = None

    ours, _ = run_steps(lambda p: clrfast.SGD(p, backend=backend, **options), 5, shapes, dtype, before)
    theirs, _ = run_steps(lambda p: torch.optim.SGD(p, **options), 5, shapes, dtype, before)
    assert_near(ours, theirs, steps=5)


def test_groups_have_their_own_options(backend):
    def make(cls, params, **kwargs):
        groups = [
            {"params": params[:1], "lr": 0.5, "momentum": 0.9, "nesterov": True},
            {"params": params[1:3], "weight_decay": 0.1, "maximize": True},
            {"params": params[3:], "lr": 0.0},
        ]
        return cls(groups, lr=0.1, momentum=0.5, **kwargs)

    ours, _ = run_steps(lambda p: make(clrfast.SGD, p, backend=backend), 5, [(3,)] * 5)
    theirs, _ = run_steps(lambda p: make(torch.optim.SGD, p), 5, [(3,)] * 5)
    assert_near(ours, theirs, steps=5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lr", [torch.tensor(0.1), torch.tensor([0.1]), torch.tensor(0.1, dtype=torch.float64)])
def test_the_rate_may_be_a_tensor(backend, dtype, lr):
    def halve_tensor(step, optimizer, params):
        if step == 2:
            optimizer.param_groups[0]["lr"].mul_(0.5)

    def halve_number(step, optimizer, params):
        if step == 2:
            optimizer.param_groups[0]["lr"] *= 0.5

    value = lr.item()
    ours, _ = run_steps(
        lambda p: clrfast.SGD(p, lr=lr.clone(), backend=backend), 4, dtype=dtype, before_step=halve_tensor
    )
    theirs, _ = run_steps(lambda p: torch.optim.SGD(p, lr=value), 4, dtype=dtype, before_step=halve_number)
    assert_near(ours, theirs, steps=4)


def test_a_group_can_be_added(backend):
    def run(cls, **kwargs):
        params = make_params([(3,), (4,), (5,)])
        optimizer = cls(params[:2], lr=0.1, momentum=0.9, **kwargs)
        for step in range(4):
            if step == 2:
                optimizer.add_param_group({"params": params[2:], "lr": 0.2})
            give_grads(params, step)
            optimizer.step()
        return params

    assert_near(run(clrfast.SGD, backend=backend), run(torch.optim.SGD), steps=4)


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


def test_the_profiler_sees_the_step(backend):
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = clrfast.SGD([param], lr=0.5, backend=backend)
    with torch.profiler.profile() as profiler:
        optimizer.step()
    assert "Optimizer.step#SGD.step" in {event.key for event in profiler.key_averages()}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_the_state_dict_is_torchs(backend, momentum, direction):
    def ours(params):
        return clrfast.SGD(params, lr=0.3, momentum=momentum, dampening=0.1, weight_decay=0.01, backend=backend)

    def theirs(params):
        return torch.optim.SGD(params, lr=0.3, momentum=momentum, dampening=0.1, weight_decay=0.01)

    first, second = (theirs, ours) if direction == "from torch" else (ours, theirs)
    before, saved = run_steps(first, 3)
    expected, _ = run_steps(theirs, 6)
    params = [nn.Parameter(p.detach().clone()) for p in before]
    resumed = second(params)
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    for step in range(3, 6):
        give_grads(params, step)
        resumed.step()
    assert_near(params, expected, steps=6)
    entry = ours(params).state_dict()["param_groups"][0]
    assert set(entry) <= set(theirs(params).state_dict()["param_groups"][0])
    for state in saved.state_dict()["state"].values():
        assert set(state) == {"momentum_buffer"}


@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_the_state_of_a_skipped_first_step_is_not_exported(backend, dampening):
    """torch would take the buffer of zeros for a momentum and dampen the first gradient."""
    params = make_params([(3,)])
    optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, dampening=dampening, backend=backend)
    give_grads(params, 0)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert optimizer.state_dict()["state"] == {0: {}}
    theirs = torch.optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.5)
    theirs.load_state_dict(optimizer.state_dict())
    before = params[0].detach().clone()
    theirs.step()
    torch.testing.assert_close(params[0].detach(), before - 0.1 * params[0].grad)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("schedule", [None, clrfast.one_cycle(0.1, 8)], ids=["stock", "scheduled"])
def test_copies_continue_alike_and_independently(backend, copied, schedule):
    params, optimizer = run_steps(
        lambda p: clrfast.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, schedule=schedule, backend=backend), 3
    )
    params_copy, optimizer_copy = copied((params, optimizer))
    at_copy = [param.detach().clone() for param in params_copy]
    give_grads(params, 3)
    optimizer.step()
    assert_same(params_copy, at_copy)
    give_grads(params_copy, 3)
    optimizer_copy.step()
    assert_same(params, params_copy)
    assert optimizer_copy.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


SCHEDULERS = {
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=12, base_momentum=0.7),
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.3, step_size_up=3),
}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_torch_schedulers_work_on_top(backend, name):
    def run(cls, **kwargs):
        params = make_params([(3,), (4,)])
        optimizer = cls(params, lr=0.1, momentum=0.9, **kwargs)
        scheduler = SCHEDULERS[name](optimizer)
        for step in range(10):
            give_grads(params, step)
            optimizer.step()
            scheduler.step()
        return params

    assert_near(run(clrfast.SGD, backend=backend), run(torch.optim.SGD), steps=10)


def test_a_grad_scaler_skips_the_first_step_and_later_ones(backend):
    """GradScaler halves the scale and skips. The first applied update initializes the momentum."""
    param = nn.Parameter(torch.tensor([1.0]))
    optimizer = clrfast.SGD([param], lr=0.5, momentum=0.9, dampening=0.5, backend=backend)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
    values = []
    for factor in (float("inf"), 1.0, float("nan"), 1.0):
        optimizer.zero_grad()
        scaler.scale((param * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        values.append(param.item())
    # 1 -> skipped -> b = 1: 0.5 -> skipped -> b = 0.9 + 0.5: -0.2
    assert values == pytest.approx([1.0, 0.5, 0.5, -0.2])
    assert scaler.get_scale() == 2.0


@pytest.mark.parametrize("found_inf", [1.0, 2.0])
def test_any_found_inf_skips_and_the_gradient_is_not_written(backend, found_inf):
    param = nn.Parameter(torch.tensor([1.0]))
    param.grad = torch.tensor([8.0])
    optimizer = clrfast.SGD([param], lr=0.5, momentum=0.9, backend=backend)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(found_inf)
    optimizer.step()
    assert (param.item(), param.grad.item()) == (1.0, 8.0)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert (param.item(), param.grad.item()) == (0.0, 8.0)


def with_bad_gradient(kind, params):
    if kind == "sparse":
        params[1].grad = torch.ones_like(params[1]).to_sparse()
    elif kind == "complex":
        params[1] = nn.Parameter(torch.ones(3, dtype=torch.complex64))
        params[1].grad = torch.ones_like(params[1])
    return params


@pytest.mark.parametrize("kind", ["sparse", "complex"])
@pytest.mark.parametrize("schedule", [None, clrfast.one_cycle(0.1, 8)], ids=["stock", "scheduled"])
def test_an_unusable_gradient_changes_nothing(backend, kind, schedule):
    params = make_params([(3,), (3,), (3,)])
    give_grads(params, 0)
    params = with_bad_gradient(kind, params)
    before = [param.detach().clone() for param in params]
    optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, schedule=schedule, backend=backend)
    with pytest.raises(RuntimeError, match=rf"parameter 1 \(group 0, shape \(3,\)\): .*{kind}"):
        optimizer.step()
    assert_same(params, before)
    assert not optimizer.state
    assert optimizer.control is None or int(optimizer.control.step) == 0


def test_parameters_on_several_devices_are_refused(backend):
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, device="meta"))]
    with pytest.raises(RuntimeError, match="several devices"):
        clrfast.SGD(params, lr=0.1, backend=backend)
    optimizer = clrfast.SGD(params[:1], lr=0.1, backend=backend)
    with pytest.raises(RuntimeError, match="several devices"):
        optimizer.add_param_group({"params": params[1:]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"lr": -0.1}, "lr: got -0.1"),
        ({"lr": torch.ones(2)}, r"lr: got a tensor of shape \(2,\)"),
        ({"momentum": -0.1}, "momentum: got -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay: got nan"),
        ({"nesterov": True}, "nesterov: it needs momentum"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov: it needs momentum"),
        ({"lr": "0.1"}, "lr: got '0.1'"),
        ({"lr": None}, "lr: got None"),
        ({"lr": clrfast.constant(0.1, 3)}, r"lr: got a Schedule; give it by name: .*schedule=schedule\)"),
        ({"nesterov": True, "schedule": clrfast.constant(0.1, 3)}, "nesterov: it needs momentum > 0; the schedule"),
        ({"schedule": 0.1}, "schedule: got 0.1"),
        ({"schedule": Schedule(0.1)}, "schedule: it has no total_steps"),
        ({"schedule": Schedule([0.1, 0.2], total_steps=3)}, "it has 2 groups, but the optimizer has 1"),
        ({"schedule": Schedule(lambda s: -s, total_steps=3)}, "lr: got -1.0 at step 1"),
    ],
)
def test_an_error_names_the_bad_argument(backend, kwargs, named):
    with pytest.raises(ValueError, match=named):
        clrfast.SGD(make_params([(2,)]), backend=backend, **kwargs)


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


def test_empty_groups_are_accepted_and_duplicates_refused(backend):
    clrfast.SGD([{"params": []}], lr=0.1, backend=backend).step()
    param = make_params([(2,)])[0]
    with (
        pytest.warns(UserWarning, match="duplicate parameters"),
        pytest.raises(ValueError, match="params: a parameter is there twice"),
    ):
        clrfast.SGD([param, param], lr=0.1, backend=backend)


def test_the_state_of_another_model_is_refused(backend):
    """torch does not check shapes when it loads a state."""
    _, small = run_steps(lambda p: clrfast.SGD(p, lr=0.1, momentum=0.9, backend=backend), 1, [(8, 8)])
    params = make_params([(80, 80)])
    optimizer = clrfast.SGD(params, lr=0.1, momentum=0.9, backend=backend)
    optimizer.load_state_dict(small.state_dict())
    give_grads(params, 0)
    before = params[0].detach().clone()
    with pytest.raises(RuntimeError, match=r"momentum_buffer has shape \(8, 8\).*another model"):
        optimizer.step()
    assert_same(params, [before])


def test_negated_gradients_are_applied(backend):
    """Complex arithmetic can leave a real gradient that is a negated view."""
    a, b = (nn.Parameter(torch.tensor(1.0)) for _ in range(2))
    (torch.complex(a, b).conj() * (1 + 2j)).real.backward()
    assert b.grad.is_neg()
    expected = 1.0 - 0.1 * b.grad.item()
    clrfast.SGD([a, b], lr=0.1, backend=backend).step()
    assert b.item() == pytest.approx(expected)


def test_wrappers_without_memory_are_updated(backend):
    """DTensor is such a wrapper. A native loop over its memory would silently do nothing."""
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor")
    results = []
    for chosen in ("torch", backend):
        param = nn.Parameter(two_tensor.TwoTensor(torch.ones(3), torch.ones(3)))
        optimizer = clrfast.SGD([param, *make_params([(2,)])], lr=0.5, momentum=0.9, backend=chosen)
        for _ in range(2):
            param.grad = two_tensor.TwoTensor(torch.ones(3), torch.ones(3))
            optimizer.step()
        results.append(param.a.detach())
    assert_same([results[0]], [results[1]])
    assert results[0][0] == pytest.approx(1 - 0.5 - 0.5 * 1.9)


def test_dampening_may_be_switched_on_after_skipped_updates(backend):
    param = nn.Parameter(torch.zeros(1))
    optimizer = clrfast.SGD([param], lr=1.0, momentum=0.9, backend=backend)
    for step in range(3):
        param.grad = torch.ones(1)
        optimizer.found_inf = torch.tensor(1.0 if step == 0 else 0.0)
        optimizer.step()
        optimizer.param_groups[0]["dampening"] = 0.5
    assert param.item() == pytest.approx(-1 - (0.9 + 0.5))


def test_master_weights_are_exported_before_the_first_momentum(backend):
    param = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    schedule = Schedule(1e-4, momentum=Linear(0.0, 0.9, 9), total_steps=10)
    optimizer = clrfast.SGD([param], schedule=schedule, master_weights=True, backend=backend)
    param.grad = torch.ones_like(param)
    optimizer.step()
    state = optimizer.state_dict()["state"][0]
    assert set(state) == {"master_param"}
    assert state["master_param"][0].item() == pytest.approx(1 - 1e-4)
    plain = clrfast.SGD([param], lr=0.1, backend=backend)
    plain.load_state_dict(optimizer.state_dict())
    assert "master_param" not in plain.state_dict()["state"].get(0, {})


def test_a_group_that_does_not_fit_leaves_the_optimizer_unchanged(backend):
    params = make_params([(2,), (3,)])
    optimizer = clrfast.SGD(params[:1], schedule=clrfast.constant(0.1, 5), backend=backend)
    with pytest.raises(ValueError, match="nesterov"):
        optimizer.add_param_group({"params": params[1:], "nesterov": True})
    assert len(optimizer.param_groups) == 1
    give_grads(params, 0)
    optimizer.step()
    assert int(optimizer.control.step) == 1
