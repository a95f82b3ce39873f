"""A scheduled run goes on where it was, whatever tool has carried its state: bit for bit as without the interruption.
torch.distributed runs with one rank in this process."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

import clrfast
from tests.helpers.optimizers import BACKENDS, NO_NATIVE

pytestmark = pytest.mark.filterwarnings("ignore:.*(process group|torch.jit|ShardedTensor|TypedStorage).*")

SCHEDULE = clrfast.one_cycle(0.2, total_steps=24, weight_decay=1e-3)
STEPS, BREAK = 24, 15


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def made(**options):
    model = network()
    return model, clrfast.SGD(model.parameters(), **{"schedule": SCHEDULE, **options})


def train(model, optimizer, first, last):
    for step in range(first, last):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(inputs) - inputs[:, :2]).square().mean().backward()
        optimizer.step()
    return [param.detach().clone() for param in model.parameters()]


def assert_equal(found, wanted):
    for own, other in zip(found, wanted, strict=True):
        assert torch.equal(own, other)


@pytest.fixture
def one_rank():
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("no torch.distributed with gloo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


OPTIONS = {
    "as it is": StateDictOptions(),
    "full": StateDictOptions(full_state_dict=True, cpu_offload=True),
    "flattened": StateDictOptions(flatten_optimizer_state_dict=True),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("prepared", "dampening"), [(False, 0.0), (False, 0.3), (True, 0.0)])
def test_a_run_goes_on_after_a_distributed_state_dict(one_rank, name, prepared, dampening):
    options = OPTIONS[name]
    make = functools.partial(made, dampening=dampening)
    wanted = train(*make(), 0, STEPS)
    model, optimizer = make()
    train(model, optimizer, 0, BREAK)
    weights = copy.deepcopy(model.state_dict())
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    model, optimizer = make()
    if prepared:
        optimizer.init_state()
    model.load_state_dict(weights)
    set_optimizer_state_dict(model, optimizer, saved, options=options)
    assert_equal(train(model, optimizer, BREAK, STEPS), wanted)
    assert optimizer.control.synchronize() == STEPS


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dampening", [0.0, 0.3])
def test_a_run_goes_on_from_a_distributed_checkpoint_on_disk(one_rank, tmp_path, name, dampening):
    """The target of the load is a fresh optimizer's state, so that has to have all the entries of a saved one."""
    options = OPTIONS[name]
    make = functools.partial(made, dampening=dampening)
    wanted = train(*make(), 0, STEPS)
    model, optimizer = make()
    train(model, optimizer, 0, BREAK)
    optimizer.zero_grad()
    checkpoint.save(
        dict(zip(("model", "optimizer"), get_state_dict(model, optimizer, options=options), strict=True)),
        checkpoint_id=tmp_path,
    )
    model, optimizer = make()
    weights, state = get_state_dict(model, optimizer, options=options)
    target = {"model": weights, "optimizer": state}
    checkpoint.load(target, checkpoint_id=tmp_path)
    set_state_dict(
        model, optimizer, model_state_dict=target["model"], optim_state_dict=target["optimizer"], options=options
    )
    assert_equal(train(model, optimizer, BREAK, STEPS), wanted)


def test_asking_a_fresh_optimizer_for_its_state_does_not_move_its_schedule():
    """For that, torch.distributed.checkpoint takes a step with a rate of 0 and zeros as gradients."""
    for schedule in (SCHEDULE, SCHEDULE.with_warm_up(3)):  # the second one begins at a rate of 0
        model, optimizer = made(schedule=schedule)
        wanted = train(*made(schedule=schedule), 0, 5)
        get_optimizer_state_dict(model, optimizer)
        assert optimizer.control.synchronize() == 0
        assert_equal(train(model, optimizer, 0, 5), wanted)


def test_a_rate_of_0_that_somebody_writes_is_still_refused():
    model, optimizer = made()
    train(model, optimizer, 0, 2)
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(RuntimeError, match="the schedule decides it"):
        train(model, optimizer, 2, 3)


def test_a_run_goes_on_under_a_zero_redundancy_optimizer(one_rank):
    """It loads by writing into the parameter groups."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def make():
        model = network()
        return model, ZeroRedundancyOptimizer(model.parameters(), clrfast.SGD, schedule=SCHEDULE)

    wanted = train(*make(), 0, STEPS)
    model, optimizer = make()
    train(model, optimizer, 0, BREAK)
    optimizer.consolidate_state_dict()
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    model, optimizer = make()
    model.load_state_dict(weights)
    optimizer.load_state_dict(saved)
    assert_equal(train(model, optimizer, BREAK, STEPS), wanted)


@pytest.mark.skipif(torch.__version__ < (2, 6), reason="fully_shard is public from torch 2.6 on")
def test_a_run_goes_on_from_sharded_parameters(one_rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def make():
        model = fully_shard(network(), mesh=init_device_mesh("cpu", (1,)))
        return model, clrfast.SGD(model.parameters(), schedule=SCHEDULE)

    def values(params):
        return [param.full_tensor() for param in params]

    wanted = values(train(*make(), 0, STEPS))
    model, optimizer = make()
    train(model, optimizer, 0, BREAK)
    options = OPTIONS["full"]
    weights, state = copy.deepcopy(get_state_dict(model, optimizer, options=options))
    model, optimizer = make()
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state, options=options)
    assert_equal(values(train(model, optimizer, BREAK, STEPS)), wanted)


@pytest.mark.parametrize("all_of_the_group", [False, True])
def test_whoever_writes_a_step_into_the_groups_moves_the_schedule(all_of_the_group):
    model, optimizer = made()
    train(model, optimizer, 0, 3)
    optimizer.param_groups[0]["schedule_step"] = 20
    table = SCHEDULE.table()[:, 0]
    if all_of_the_group:  # as tools do
        optimizer.param_groups[0].update(zip(("lr", "momentum", "weight_decay"), table[20].tolist(), strict=True))
    train(model, optimizer, 3, 4)
    assert optimizer.control.synchronize() == 21
    assert optimizer.param_groups[0]["lr"] == pytest.approx(table[21, 0])


def test_a_step_that_is_written_with_a_rate_of_its_own_is_refused_and_moves_nothing():
    model, optimizer = made()
    train(model, optimizer, 0, 3)
    optimizer.param_groups[0].update(schedule_step=20, lr=0.123)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"was set to 0\.123, but the schedule decides it \(.* at step 20\)"):
            train(model, optimizer, 3, 4)
    assert int(optimizer.control.step) == 3


def test_the_text_of_an_optimizer_is_short_whatever_its_schedule():
    schedule = clrfast.Schedule(lr=lambda step: 0.1 + 0 * step, total_steps=100_000)
    text = repr(clrfast.SGD([nn.Parameter(torch.ones(1))], schedule=schedule))
    assert "schedule_step: 0" in text
    assert len(text) < 500


def test_a_step_that_is_written_is_saved_and_kept_by_a_new_group():
    model, optimizer = made()
    train(model, optimizer, 0, 3)
    optimizer.param_groups[0]["schedule_step"] = 1
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["param_groups"][0]["schedule_step"] == int(saved["clrfast"]["progress"]["step"]) == 1
    optimizer.param_groups[0]["schedule_step"] = 2
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert optimizer.control.synchronize() == 2


def test_a_step_that_is_written_into_a_saved_state_counts():
    model, optimizer = made()
    train(model, optimizer, 0, 5)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["schedule_step"] = 2
    optimizer.load_state_dict(saved)
    assert optimizer.control.synchronize() == 2
    assert optimizer.control.losses.shape == (STEPS,)


def test_load_hooks_see_the_loaded_run_and_may_change_it():
    model, optimizer = made(master_weights=True)
    train(model, optimizer, 0, 5)
    saved, seen = copy.deepcopy(optimizer.state_dict()), []

    def hook(loaded):
        seen.append(loaded.control.synchronize())
        for state in loaded.state.values():
            state["momentum_buffer"].zero_()
        loaded.param_groups[0]["schedule_step"] = 3

    model, fresh = made(master_weights=True)
    fresh.register_load_state_dict_post_hook(hook)
    fresh.load_state_dict(saved)
    assert seen == [5]
    assert not any(state["momentum_buffer"].any() for state in fresh.state.values())
    train(model, fresh, 5, 6)
    assert fresh.control.synchronize() == 4


@pytest.mark.parametrize("scheduled", [False, True])
def test_save_hooks_may_make_what_they_like_of_a_state(scheduled):
    model, optimizer = made(**({} if scheduled else {"schedule": None, "lr": 0.1, "momentum": 0.9}))
    train(model, optimizer, 0, 2)
    optimizer.register_state_dict_post_hook(lambda _, state: {"optimizer": state})
    assert ("clrfast" in optimizer.state_dict()["optimizer"]) == scheduled


@pytest.mark.parametrize("step", [-1, 2.5, True, "3"])
def test_a_step_that_is_none_is_refused_by_name(step):
    model, optimizer = made()
    optimizer.param_groups[0]["schedule_step"] = step
    with pytest.raises(
        RuntimeError, match=r"param_groups\[0\]\['schedule_step'\]: got .*; it is the number of applied"
    ):
        train(model, optimizer, 0, 1)


def test_zeros_as_gradients_at_the_schedules_own_rate_of_0_are_a_step():
    params = [nn.Parameter(torch.ones(2))]
    for momentum in (None, 0.9):
        schedule = clrfast.Schedule(lr=clrfast.schedules.Linear(0.0, 0.1, 4), momentum=momentum, total_steps=6)
        optimizer = clrfast.SGD(params, schedule=schedule)
        for _ in range(3):
            params[0].grad = torch.zeros(2)
            optimizer.step(loss=1.0)
        assert optimizer.control.synchronize() == 3
        assert optimizer.control.losses[:3].tolist() == [1.0] * 3


def test_steps_that_differ_between_groups_are_refused():
    model = network()
    optimizer = clrfast.SGD([{"params": [param]} for param in model.parameters()], schedule=SCHEDULE)
    train(model, optimizer, 0, 1)
    optimizer.param_groups[1]["schedule_step"] = 7
    with pytest.raises(RuntimeError, match=r"'schedule_step' are \[1, 7\]; all groups follow one schedule"):
        train(model, optimizer, 1, 2)


def test_state_and_groups_alone_carry_a_schedule_into_an_optimizer_without_one():
    wanted = train(*made(), 0, STEPS)
    model, optimizer = made()
    train(model, optimizer, 0, BREAK)
    saved = {name: value for name, value in optimizer.state_dict().items() if name in ("state", "param_groups")}
    resumed = clrfast.SGD(model.parameters())
    resumed.load_state_dict(copy.deepcopy(saved))
    assert_equal(train(model, resumed, BREAK, STEPS), wanted)


def test_a_hook_that_unwraps_a_state_is_followed():
    model, optimizer = made()
    train(model, optimizer, 0, BREAK)
    wanted = train(copy.deepcopy(model), optimizer, BREAK, BREAK)
    wrapped = {"optimizer": copy.deepcopy(optimizer.state_dict()), "epoch": 3}
    resumed = clrfast.SGD(model.parameters(), schedule=SCHEDULE)
    resumed.register_load_state_dict_pre_hook(lambda _, state: state["optimizer"])
    resumed.load_state_dict(wrapped)
    assert resumed.control.synchronize() == BREAK
    assert len(wanted) == len(list(model.parameters()))


def test_momentum_without_a_step_of_the_schedule_is_warned_of():
    model = network()
    stock = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, stock, 0, 3)
    optimizer = clrfast.SGD(model.parameters(), schedule=SCHEDULE)
    with pytest.warns(UserWarning, match=r"no step of a schedule, so the optimizer's schedule stays at step 0; write"):
        optimizer.load_state_dict(stock.state_dict())
    train(model, optimizer, 3, 4)
    assert optimizer.control.synchronize() == 1


def test_stock_sgd_loads_a_scheduled_state():
    model, optimizer = made()
    train(model, optimizer, 0, 3)
    stock = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    stock.load_state_dict(optimizer.state_dict())
    assert torch.equal(
        stock.state[next(model.parameters())]["momentum_buffer"],
        optimizer.state[next(model.parameters())]["momentum_buffer"],
    )
    train(model, stock, 3, 4)


@pytest.mark.skipif(torch.__version__ < (2, 6), reason="torch takes named parameters from 2.6 on")
@pytest.mark.parametrize("mastered", [False, True])
def test_master_weights_and_momentum_follow_what_a_load_hook_returns(mastered):
    """As torch's documentation reorders a state by the parameters' names."""
    values = {"first": 1.0, "second": 5.0, "third": 7.0}

    def named(order):
        params = [(name, nn.Parameter(torch.full((2,), values[name], dtype=torch.bfloat16))) for name in order]
        return dict(params), clrfast.SGD(params, lr=0.0, momentum=0.9, master_weights=mastered)

    def by_name(optimizer, saved):
        (group,), (own,) = saved["param_groups"], optimizer.param_groups
        place = dict(zip(group["param_names"], group["params"], strict=True))
        state = {index: saved["state"][place[name]] for index, name in enumerate(own["param_names"])}
        return {**saved, "state": state, "param_groups": [{**group, "param_names": own["param_names"]}]}

    params, optimizer = named(["first", "second", "third"])
    for name, param in params.items():
        param.grad = torch.full_like(param, 10 * values[name])
    optimizer.step()
    others, resumed = named(["third", "first", "second"])
    resumed.register_load_state_dict_pre_hook(by_name)
    resumed.load_state_dict(optimizer.state_dict())
    for name, param in others.items():
        state = resumed.state[param]
        assert state["momentum_buffer"].tolist() == [10 * values[name]] * 2
        if mastered:
            assert state["master_param"].tolist() == [values[name]] * 2
            assert state["master_param"].dtype == state["momentum_buffer"].dtype == torch.float32


# ---------------------------------------------------------------------------------------- parameter groups made anew


@pytest.mark.parametrize("schedule", [SCHEDULE, clrfast.Schedule(lr=0.05, momentum=0.9, total_steps=STEPS)])
def test_groups_that_are_made_anew_go_on(schedule):
    """A checkpoint loaded with assign=True replaces all parameters in the middle of a run."""

    def run(replaces):
        model, optimizer = made(schedule=schedule)
        train(model, optimizer, 0, 6)
        if replaces:
            state = {name: optimizer.state[param] for name, param in model.named_parameters()}
            model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
            optimizer.param_groups.clear()
            optimizer.state.clear()
            optimizer.add_param_group({"params": list(model.parameters())})
            optimizer.state.update({param: state[name] for name, param in model.named_parameters()})
        return train(model, optimizer, 6, STEPS), optimizer.control.synchronize()

    (ours, step), (wanted, _) = run(True), run(False)
    assert_equal(ours, wanted)
    assert step == STEPS


def test_groups_with_curves_of_their_own_can_be_made_anew():
    model = network()
    first, second = list(model.parameters())[:2], list(model.parameters())[2:]
    schedule = clrfast.Schedule(lr=[0.1, 0.01], momentum=0.9, total_steps=10)
    optimizer = clrfast.SGD([{"params": first}, {"params": second}], schedule=schedule)
    train(model, optimizer, 0, 2)
    optimizer.param_groups.clear()
    train(model, optimizer, 2, 3)  # nothing to update, so the schedule stays where it is
    optimizer.add_param_group({"params": first})
    with pytest.raises(RuntimeError, match="there are 1, and the schedule has curves for 2; add the missing groups"):
        train(model, optimizer, 2, 3)
    optimizer.add_param_group({"params": second})
    train(model, optimizer, 2, 3)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.1), pytest.approx(0.01)]
    assert optimizer.control.synchronize() == 3


def test_groups_that_change_places_keep_their_curves():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    curves = [clrfast.schedules.Linear(1.0, 1.0, 4), clrfast.schedules.Linear(1.0, 0.0, 4)]
    optimizer = clrfast.SGD([{"params": [p]} for p in params], schedule=clrfast.Schedule(lr=curves, total_steps=5))
    for step in range(5):
        for param in params:
            param.grad = torch.ones(1)
        if step == 2:
            optimizer.param_groups.reverse()
        optimizer.step()
    assert [param.item() for param in params] == [-5.0, -2.5]


def test_a_step_without_groups_does_nothing():
    model, optimizer = made()
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    optimizer.step()
    assert optimizer.state_dict()["param_groups"] == []
    optimizer.param_groups.extend(groups)
    train(model, optimizer, 0, 1)
    assert optimizer.control.synchronize() == 1


def test_a_group_that_is_removed_leaves_the_others_alone():
    model = network()
    optimizer = clrfast.SGD([{"params": [param]} for param in model.parameters()], schedule=SCHEDULE)
    train(model, optimizer, 0, 2)
    removed = optimizer.param_groups.pop(1)["params"][0].detach().clone()
    after = train(model, optimizer, 2, 3)
    assert torch.equal(after[1], removed)
    assert optimizer.control.synchronize() == 3


def remove_last_group(optimizer):
    for param in optimizer.param_groups.pop()["params"]:
        optimizer.state.pop(param, None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("schedule", [SCHEDULE, clrfast.Schedule(lr=0.05, momentum=0.9, total_steps=STEPS)])
def test_a_copy_made_after_a_group_was_removed_saves_and_loads(backend, copied, schedule):
    """Between the removal and the copy there is no step in which the schedule could follow the groups."""

    def run(change):
        model = network()
        first, *_, last = params = list(model.parameters())
        optimizer = clrfast.SGD([first], schedule=schedule, backend=backend)
        optimizer.add_param_group({"params": [last]})
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        remove_last_group(optimizer)
        optimizer = change(optimizer)
        (group,) = optimizer.param_groups
        for param in group["params"]:
            param.grad = torch.ones_like(param)
        optimizer.step()
        return group["params"], optimizer

    def copied_and_loaded(optimizer):
        made = copied(optimizer)
        made.load_state_dict(made.state_dict())
        return made

    (ours, optimizer), (wanted, _) = run(copied_and_loaded), run(lambda optimizer: optimizer)
    assert_equal(ours, wanted)
    assert optimizer.control.synchronize() == 2


def test_a_copy_made_after_groups_changed_places_keeps_their_curves():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    curves = [clrfast.schedules.Linear(1.0, 1.0, 4), clrfast.schedules.Linear(1.0, 0.0, 4)]
    optimizer = clrfast.SGD([{"params": [p]} for p in params], schedule=clrfast.Schedule(lr=curves, total_steps=5))
    optimizer.param_groups.reverse()
    optimizer = copy.deepcopy(optimizer)
    for _ in range(5):
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones(1)
        optimizer.step()
    assert [group["params"][0].item() for group in optimizer.param_groups] == [-2.5, -5.0]


@pytest.mark.parametrize("prepare", ["load_state_dict", "init_state"])
@pytest.mark.parametrize("change", ["remove", "append", "clear"])
def test_groups_that_changed_since_the_last_step_are_followed_first(prepare, change):
    model = network()
    first, second, third, _ = params = list(model.parameters())
    optimizer = clrfast.SGD([{"params": [first]}, {"params": [second]}], schedule=SCHEDULE)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    if change == "append":
        optimizer.param_groups.append({**optimizer.param_groups[0], "params": [third]})
    for _ in range({"remove": 1, "append": 0, "clear": 2}[change]):
        remove_last_group(optimizer)
    n_groups = len(optimizer.param_groups)
    if prepare == "init_state":
        optimizer.init_state()
        assert len(optimizer.state) == n_groups
    else:
        stock = torch.optim.SGD([{"params": group["params"]} for group in optimizer.param_groups] or [{"params": []}])
        saved = stock.state_dict()
        saved["param_groups"] = saved["param_groups"][:n_groups]
        optimizer.load_state_dict(saved)
    optimizer.step()
    assert optimizer.control.synchronize() == 1 + (n_groups > 0)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(float(SCHEDULE.lr(2)))] * n_groups


# ------------------------------------------------------------------------------------------- torch.optim.SGD's own form


@pytest.mark.parametrize(
    "more",
    [
        *({name: value} for name in ("foreach", "fused") for value in (None, False, True)),
        {"differentiable": False},
        {"capturable": True},
        torch.optim.SGD([torch.zeros(1)], lr=0.05, momentum=0.9).defaults,
    ],
    ids=str,
)
def test_stocks_keywords_are_taken(more):
    model, other = network(), network()
    given = {"lr": 0.05, "momentum": 0.9, **more}
    stock = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    for own, wanted in zip(
        train(model, clrfast.SGD(model.parameters(), **given), 0, 5), train(other, stock, 0, 5), strict=True
    ):
        torch.testing.assert_close(own, wanted, rtol=1e-6, atol=1e-7)


def test_differentiable_is_refused_with_its_reason():
    with pytest.raises(ValueError, match=r"differentiable: got True, .* use torch\.optim\.SGD"):
        clrfast.SGD([nn.Parameter(torch.ones(1))], lr=0.1, differentiable=True)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0, torch.tensor(float("nan"))])
def test_values_that_are_no_finite_numbers_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}: got .*; give a finite number >= 0"):
        clrfast.SGD([nn.Parameter(torch.ones(1))], **{"lr": 0.1, name: value})


@pytest.mark.parametrize("options", [{"momentum": 0.9, "nesterov": True}, {"schedule": SCHEDULE, "backend": "torch"}])
def test_the_defaults_make_the_same_optimizer(options):
    models = network(), network()
    first = clrfast.SGD(models[0].parameters(), **{"lr": 0.1, "master_weights": True, **options})
    second = type(first)(models[1].parameters(), **first.defaults)
    assert second.defaults == first.defaults
    assert second.backend == first.backend
    assert_equal(train(models[1], second, 0, 5), train(models[0], first, 0, 5))
    first.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert first.param_groups[0].keys() == first.param_groups[1].keys()


# --------------------------------------------------------------------------------------------- wrappers and compilers


class Wrapper:
    """Calls ``step`` as frameworks do, without a loss."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure=None):
        self.optimizer.step()


def test_a_loss_reaches_the_record_through_a_wrapper():
    params = [nn.Parameter(torch.ones(2))]
    optimizer = clrfast.SGD(params, schedule=SCHEDULE)
    wrapper = Wrapper(optimizer)
    for losses in ([3.0], [2.0, 4.0], [], [torch.tensor([5.0], requires_grad=True)]):
        for loss in losses:
            optimizer.control.record(loss)
        params[0].grad = torch.zeros(2)
        wrapper.step()
    torch.testing.assert_close(
        optimizer.control.losses[:5], torch.tensor([3.0, 3.0, float("nan"), 5.0, float("nan")]), equal_nan=True
    )
    with pytest.raises(ValueError, match="loss: got shape"):
        optimizer.control.record(torch.ones(2))


def test_what_is_recorded_is_the_loss_as_it_was_in_float32():
    params = [nn.Parameter(torch.ones(2))]
    optimizer = clrfast.SGD(params, schedule=SCHEDULE)
    loss = torch.tensor(8.0)
    optimizer.control.record(loss)
    loss /= 4  # as accumulation does
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    params[0].grad = torch.zeros(2)
    optimizer.step()
    for _ in range(512):
        optimizer.control.record(torch.tensor(30_000.0, dtype=torch.float16))
    optimizer.step()
    assert optimizer.control.losses[:2].tolist() == [8.0, 30_000.0]


def test_hooks_see_what_step_was_given_and_no_more():
    seen = []
    optimizer = clrfast.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.register_step_pre_hook(lambda _, args, kwargs: seen.append((len(args), sorted(kwargs))))
    optimizer.step()
    optimizer.step(closure=lambda: 1.0)
    optimizer.step(loss=2.0)
    assert seen == [(1, []), (1, ["closure"]), (1, ["loss"])]


@pytest.mark.parametrize("fused", [None, False, True])
def test_who_unscales_is_who_does_in_stock(fused):
    """Wrappers see a skipped step because GradScaler does not call ``step``; ``fused=True`` gives that up."""
    ours, theirs = (kind([nn.Parameter(torch.ones(2))], lr=0.1, fused=fused) for kind in (clrfast.SGD, torch.optim.SGD))
    seen = {}
    for optimizer in (ours, theirs):
        scaler, calls = torch.amp.GradScaler("cpu", init_scale=4.0), []
        optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append(1))
        for overflow in (True, False):
            (param,) = optimizer.param_groups[0]["params"]
            param.grad = torch.full((2,), float("inf") if overflow else 4.0)
            scaler.scale(torch.ones(1))  # makes the scale
            scaler.step(optimizer)
            scaler.update()
        seen[optimizer] = len(calls), param.tolist()
    assert seen[ours] == seen[theirs]
    assert seen[ours][0] == (2 if fused else 1)


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_compiled_step_is_the_eager_one_and_is_compiled_for_once(backend):
    from torch._dynamo.utils import counters

    def run(compiled):
        torch._dynamo.reset()
        counters.clear()
        model, optimizer = made(backend=backend)
        step = torch.compile(lambda: optimizer.step(), backend="eager") if compiled else optimizer.step
        for index in range(8):
            for param in model.parameters():
                param.grad = 0.1 * param.detach() + index
            step()
        return [param.detach() for param in model.parameters()], sum(counters["graph_break"].values())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", NO_NATIVE)
        (ours, breaks), (wanted, _) = run(True), run(False)
    assert_equal(ours, wanted)
    assert breaks <= 1


def step_in_another_process(optimizer, queue):
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.zeros_like(param)
    optimizer.step(loss=2.0)
    queue.put(optimizer.control.losses.tolist())


def test_an_optimizer_that_was_sent_to_another_process_goes_on_in_both():
    """Sending moves its tensors into shared memory, in place: both processes see one run."""
    params = [nn.Parameter(torch.ones(size)) for size in (5, 300)]
    optimizer = clrfast.SGD(params, schedule=clrfast.one_cycle(0.1, 6))

    def give_gradients():
        for param in params:
            param.grad = torch.ones_like(param)

    give_gradients()
    optimizer.step(loss=1.0)
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=step_in_another_process, args=(optimizer, queue))
    process.start()
    seen = queue.get()
    process.join()
    assert process.exitcode == 0
    assert seen[:2] == [1.0, 2.0]
    give_gradients()
    optimizer.step(loss=3.0)
    assert optimizer.control.synchronize() == 3
    assert optimizer.control.losses[:3].tolist() == [1.0, 2.0, 3.0]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(optimizer.schedule.table()[3, 0, 0])
