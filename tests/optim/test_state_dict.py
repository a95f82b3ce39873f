"""A scheduled run continues where it was, bit for bit, whichever tool has carried its state.

torch.distributed runs with one rank in this process.
"""

from __future__ import annotations

import copy
import functools

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

from tests.helpers.optimizers import RULES, every_rule
from tests.helpers.scheduled_runs import BREAK, SCHEDULE, STEPS, assert_equal, made, network, train

pytestmark = pytest.mark.filterwarnings("ignore:.*(process group|torch.jit|ShardedTensor|TypedStorage).*")


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


RUNS = [(RULES["SGD"], {}), *((rule, {**rule.usual, "weight_decay": 1e-3}) for rule in RULES.values())]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("rule", "given", "prepared"), [*((*run, False) for run in RUNS), (*RUNS[0], True)])
def test_a_run_continues_from_a_distributed_state_dict(one_rank, name, rule, given, prepared):
    options = OPTIONS[name]
    make = functools.partial(made, rule, **given)
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
@pytest.mark.parametrize(("rule", "given"), RUNS)
def test_a_run_continues_from_a_distributed_checkpoint_on_disk(one_rank, tmp_path, name, rule, given):
    """The load writes into the state of a fresh optimizer, which must have all entries of a saved one."""
    options = OPTIONS[name]
    make = functools.partial(made, rule, **given)
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


@every_rule
def test_asking_a_fresh_optimizer_for_its_state_does_not_move_its_schedule(rule):
    """torch.distributed.checkpoint asks by a step with a rate of 0 and zero gradients."""
    for schedule in (SCHEDULE, SCHEDULE.with_warm_up(3)):  # the second one begins at a rate of 0
        model, optimizer = made(rule, schedule=schedule)
        wanted = train(*made(rule, schedule=schedule), 0, 5)
        get_optimizer_state_dict(model, optimizer)
        assert optimizer.control.synchronize() == 0
        assert_equal(train(model, optimizer, 0, 5), wanted)


@every_rule
def test_a_run_continues_under_a_zero_redundancy_optimizer(rule, one_rank):
    """ZeroRedundancyOptimizer loads by writing into the parameter groups."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def make():
        model = network()
        return model, ZeroRedundancyOptimizer(model.parameters(), rule.ours, schedule=SCHEDULE)

    wanted = train(*make(), 0, STEPS)
    model, optimizer = make()
    train(model, optimizer, 0, BREAK)
    optimizer.consolidate_state_dict()
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    model, optimizer = make()
    model.load_state_dict(weights)
    optimizer.load_state_dict(saved)
    assert_equal(train(model, optimizer, BREAK, STEPS), wanted)


@every_rule
@pytest.mark.skipif(torch.__version__ < (2, 6), reason="fully_shard is public from torch 2.6 on")
def test_a_run_continues_from_sharded_parameters(rule, one_rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def make():
        model = fully_shard(network(), mesh=init_device_mesh("cpu", (1,)))
        return model, rule.ours(model.parameters(), schedule=SCHEDULE)

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


@every_rule
def test_a_step_written_into_a_saved_state_is_loaded(rule):
    model, optimizer = made(rule)
    train(model, optimizer, 0, 5)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["schedule_step"] = 2
    optimizer.load_state_dict(saved)
    assert optimizer.control.synchronize() == 2
    assert optimizer.control.losses.shape == (STEPS,)


@every_rule
def test_load_hooks_see_the_loaded_run_and_may_change_it(rule):
    model, optimizer = made(rule, master_weights=True)
    train(model, optimizer, 0, 5)
    saved, seen = copy.deepcopy(optimizer.state_dict()), []

    def hook(loaded):
        seen.append(loaded.control.synchronize())
        for state in loaded.state.values():
            state[rule.states[0]].zero_()
        loaded.param_groups[0]["schedule_step"] = 3

    model, fresh = made(rule, master_weights=True)
    fresh.register_load_state_dict_post_hook(hook)
    fresh.load_state_dict(saved)
    assert seen == [5]
    assert not any(state[rule.states[0]].any() for state in fresh.state.values())
    train(model, fresh, 5, 6)
    assert fresh.control.synchronize() == 4


@pytest.mark.parametrize("scheduled", [False, True])
def test_save_hooks_may_replace_the_state(scheduled):
    model, optimizer = made(**({} if scheduled else {"schedule": None, "lr": 0.1, "momentum": 0.9}))
    train(model, optimizer, 0, 2)
    optimizer.register_state_dict_post_hook(lambda _, state: {"optimizer": state})
    assert ("clrfast" in optimizer.state_dict()["optimizer"]) == scheduled


@every_rule
def test_state_and_groups_alone_carry_a_schedule_into_an_optimizer_without_one(rule):
    wanted = train(*made(rule), 0, STEPS)
    model, optimizer = made(rule)
    train(model, optimizer, 0, BREAK)
    saved = {name: value for name, value in optimizer.state_dict().items() if name in ("state", "param_groups")}
    resumed = rule.ours(model.parameters())
    resumed.load_state_dict(copy.deepcopy(saved))
    assert_equal(train(model, resumed, BREAK, STEPS), wanted)


@every_rule
def test_a_load_hook_may_unwrap_the_state(rule):
    model, optimizer = made(rule)
    train(model, optimizer, 0, BREAK)
    wanted = train(copy.deepcopy(model), optimizer, BREAK, BREAK)
    wrapped = {"optimizer": copy.deepcopy(optimizer.state_dict()), "epoch": 3}
    resumed = rule.ours(model.parameters(), schedule=SCHEDULE)
    resumed.register_load_state_dict_pre_hook(lambda _, state: state["optimizer"])
    resumed.load_state_dict(wrapped)
    assert resumed.control.synchronize() == BREAK
    assert len(wanted) == len(list(model.parameters()))


@every_rule
def test_loading_momentum_without_a_step_of_the_schedule_warns(rule):
    model = network()
    stock = rule.make_theirs(model.parameters())
    train(model, stock, 0, 3)
    optimizer = rule.ours(model.parameters(), schedule=SCHEDULE)
    with pytest.warns(UserWarning, match=r"no step of a schedule, so the optimizer's schedule stays at step 0; write"):
        optimizer.load_state_dict(stock.state_dict())
    train(model, optimizer, 3, 4)
    assert optimizer.control.synchronize() == 1


@every_rule
def test_torchs_optimizer_loads_a_scheduled_state(rule):
    model, optimizer = made(rule)
    train(model, optimizer, 0, 3)
    stock = rule.make_theirs(model.parameters())
    stock.load_state_dict(optimizer.state_dict())
    first = next(model.parameters())
    assert all(torch.equal(stock.state[first][name], optimizer.state[first][name]) for name in stock.state[first])
    assert set(stock.state[first]) >= {rule.states[0]}
    train(model, stock, 3, 4)


@every_rule
@pytest.mark.skipif(torch.__version__ < (2, 6), reason="torch takes named parameters from 2.6 on")
@pytest.mark.parametrize("mastered", [False, True])
def test_master_weights_and_momentum_follow_what_a_load_hook_returns(rule, mastered):
    """torch's documentation shows such a hook, which reorders a state by the parameters' names."""
    values = {"first": 1.0, "second": 5.0, "third": 7.0}

    def named(order):
        params = [(name, nn.Parameter(torch.full((2,), values[name], dtype=torch.bfloat16))) for name in order]
        return dict(params), rule.make(params, lr=0.0, master_weights=mastered)

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
        before = optimizer.state[params[name]]
        assert all(torch.equal(state[each], before[each]) for each in rule.states)
        if mastered:
            assert state["master_param"].tolist() == [values[name]] * 2
            assert state["master_param"].dtype == state[rule.states[0]].dtype == torch.float32
