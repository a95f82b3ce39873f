"""A replay is refused after a change of what the graph works on; ``reset`` accepts the change."""

from __future__ import annotations

import copy
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import clrfast
from clrfast.training import TrainStep
from clrfast.training import _guarded_replay as guarded_replay_module
from clrfast.training import _module_fingerprint as fingerprint_module
from clrfast.training import _train_step as train_step_module
from clrfast.training._eager_step import EagerStep
from clrfast.training._graph_cache import WARM_UP_CALLS
from tests.helpers.optimizers import COMPARES_QUICKLY, past_the_end
from tests.helpers.train_steps import (
    LOSS,
    assert_same_run,
    batches,
    n_replays,
    net,
    run,
)

CHANGES = {
    "dtype": (
        lambda model, optimizer: model.double(),
        "dtype has changed from torch.float32 to torch.float64",
    ),
    "moved": (lambda model, optimizer: _moved(model[0].weight), "model: a parameter or buffer was moved, or replaced"),
    "statistics moved": (
        lambda model, optimizer: _moved(model[1].running_mean),
        "model: a parameter or buffer was moved, or replaced",
    ),
    "statistics in other memory": (
        lambda model, optimizer: model[1].running_var.set_(model[1].running_var.clone()),
        "model: a parameter or buffer was moved, or replaced",
    ),
    "one dtype": (
        lambda model, optimizer: setattr(model[1], "running_var", model[1].running_var.double()),
        "dtype has changed from torch.float32 to torch.float64",
    ),
    "another dict of buffers": (
        lambda model, optimizer: setattr(model[1], "_buffers", copy.deepcopy(model[1]._buffers)),
        "model: a parameter or buffer was moved, or replaced",
    ),
    "parameter lost": (lambda model, optimizer: setattr(model[4], "bias", None), "gained or lost parameters"),
    "replaced": (
        lambda model, optimizer: setattr(model[4], "weight", nn.Parameter(torch.zeros(3, 12))),
        "model: a parameter or buffer was moved, or replaced",
    ),
    "module": (
        lambda model, optimizer: model.__setitem__(4, nn.Linear(12, 3)),
        "model: it has been given other modules",
    ),
    "module inside of a leaf": (
        lambda model, optimizer: model[2].add_module("more", nn.ReLU()),
        "model: it has been given other modules",
    ),
    "another dict of modules": (
        lambda model, optimizer: setattr(model, "_modules", copy.deepcopy(model._modules)),
        "model: it has been given other modules",
    ),
    "buffers": (
        lambda model, optimizer: optimizer.state[model[0].weight].update(momentum_buffer=torch.zeros(12, 6)),
        "optimizer: it has been given other tensors as its state",
    ),
    "buffers moved": (
        lambda model, optimizer: _moved(optimizer.state[model[0].weight]["momentum_buffer"]),
        "optimizer: it has been given other tensors as its state",
    ),
    "state replaced": (
        lambda model, optimizer: setattr(optimizer, "state", copy.deepcopy(optimizer.state)),
        "optimizer: it has been given other tensors as its state",
    ),
    "no buffers": (
        lambda model, optimizer: optimizer.state.clear(),
        "optimizer: it has been given other tensors as its state",
    ),
    "grown": (lambda model, optimizer: model[0].register_buffer("more", torch.zeros(1)), "gained or lost parameters"),
    "group": (
        lambda model, optimizer: optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]}),
        "optimizer: it has gained or lost a parameter group",
    ),
    "schedule": (
        lambda model, optimizer: optimizer.set_schedule(clrfast.one_cycle(0.1, 5)),
        "optimizer: it has been given another schedule",
    ),
    "option": (
        lambda model, optimizer: optimizer.param_groups[0].update(dampening=0.5),
        "optimizer: it has been given another option in a parameter group",
    ),
    "state": (
        lambda model, optimizer: optimizer.load_state_dict(optimizer.state_dict()),
        "optimizer: it has loaded a state",
    ),
}

CHANGES_OF_ADAMW = {
    "beta1": (
        lambda model, optimizer: optimizer.param_groups[0].update(betas=(0.5, 0.999)),
        r"param_groups\[0\]\['betas'\] was set to \(0.5, 0.999\), but the schedule sets it",
    ),
    "beta2": (
        lambda model, optimizer: optimizer.param_groups[0].update(betas=(optimizer.param_groups[0]["betas"][0], 0.99)),
        "optimizer: it has been given another option in a parameter group",
    ),
    "eps": (
        lambda model, optimizer: optimizer.param_groups[0].update(eps=1e-6),
        "optimizer: it has been given another option in a parameter group",
    ),
    "amsgrad": (
        lambda model, optimizer: optimizer.param_groups[0].update(amsgrad=True),
        "optimizer: it has been given another option in a parameter group",
    ),
    "clip_norm": (
        lambda model, optimizer: setattr(optimizer, "clip_norm", 1.0),
        "optimizer: it has been given another clip_norm",
    ),
    "moments": (
        lambda model, optimizer: optimizer.state[model[0].weight].update(exp_avg=torch.zeros(12, 6)),
        "optimizer: it has been given other tensors as its state",
    ),
    "step count": (
        lambda model, optimizer: optimizer.state[model[0].weight].update(step=torch.tensor(7.0)),
        "optimizer: it has been given other tensors as its state",
    ),
    "state": CHANGES["state"],
    "state replaced": CHANGES["state replaced"],
    "schedule": CHANGES["schedule"],
}


def _moved(tensor):
    tensor.data = tensor.detach().clone()


def _only_slowly(patch):
    """Compare in Python, as without the native module."""
    for module in (train_step_module, guarded_replay_module, fingerprint_module):
        patch.setattr(module, "_native", SimpleNamespace(why_missing="clrfast._C was not built"))


EVERY_CHANGE = [("sgd", name) for name in CHANGES] + [("adamw", name) for name in CHANGES_OF_ADAMW]


@pytest.mark.parametrize("checks", ["compiled", "in Python"])
@pytest.mark.parametrize(("kind", "name"), EVERY_CHANGE)
def test_a_replay_is_refused_after_a_change_and_the_message_names_it(backend, monkeypatch, kind, name, checks):
    if checks == "in Python":
        _only_slowly(monkeypatch)
    change, told = (CHANGES if kind == "sgd" else CHANGES_OF_ADAMW)[name]
    _, model, optimizer, step = run(TrainStep, batches(4), backend, optimizer=kind)
    change(model, optimizer)
    before = [param.detach().clone() for param in model.parameters()]
    batch = batches(1)[0]
    batch = (batch[0].to(model[0].weight.dtype), batch[1]) if name != "dtype" else batch
    for _ in range(2):  # the second replay is refused as well
        with pytest.raises(RuntimeError, match=told):
            step(batch)
    for param, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(param, value)


HARMLESS = {
    "nothing": lambda model, optimizer: None,
    "dicts of the same": lambda model, optimizer: _with_dicts_of_the_same(model),
    "a parameter of the same memory": lambda model, optimizer: setattr(
        model[0], "weight", nn.Parameter(model[0].weight.data)
    ),
    "a state of the same": lambda model, optimizer: optimizer.state.update(
        {param: dict(state) for param, state in optimizer.state.items()}
    ),
    "a number in the state": lambda model, optimizer: optimizer.state[model[0].weight].update(steps=3),
    "a module renamed": lambda model, optimizer: model.add_module("last", model._modules.pop("4")),
}


def _with_dicts_of_the_same(model):
    for module in model.modules():
        for name in ("_parameters", "_buffers", "_modules"):
            setattr(module, name, dict(getattr(module, name)))


@pytest.mark.parametrize("checks", ["compiled", "in Python"])
@pytest.mark.parametrize("name", HARMLESS)
def test_a_replay_continues_after_a_change_that_keeps_the_memory(backend, monkeypatch, name, checks):
    if checks == "in Python":
        _only_slowly(monkeypatch)

    def changed(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        if make_step is TrainStep:
            HARMLESS[name](model, optimizer)
        optimizer.zero_grad()
        return losses + [step(batch) for batch in batches(3, seed=4)], model, optimizer, step

    captured = changed(TrainStep)
    assert_same_run(captured, changed(EagerStep))
    assert n_replays(captured[3]) in (None, [7 - WARM_UP_CALLS])
    if checks == "compiled" and COMPARES_QUICKLY:
        graph = captured[3]._graphs._kinds[0].graph  # the harmless change is accepted in the fingerprint
        assert graph._fingerprint.matches()
        assert graph._captured._fingerprint.matches()


def test_after_reset_training_continues_with_the_changes(backend):
    def changed(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend)
        optimizer.set_schedule(clrfast.one_cycle(0.3, 5))
        if make_step is TrainStep:
            with pytest.raises(RuntimeError, match="another schedule"):
                step(batches(1)[0])
            step.reset()
        return losses + [step(batch) for batch in batches(5, seed=4)], model, optimizer, step

    captured = changed(TrainStep)
    assert_same_run(captured, changed(EagerStep))
    assert captured[3].eager_reason is None


@past_the_end
def test_after_reset_new_modules_and_groups_are_included(backend):
    """New parameters are clipped with the others, get their gradients and are checked for changes."""

    def grown(make_step):
        losses, model, optimizer, step = run(make_step, batches(4), backend, clip_norm=0.05)
        torch.manual_seed(3)
        model[4] = nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 3)).train()
        optimizer.param_groups[0]["params"] = [*model[0].parameters(), *model[1].parameters()]
        optimizer.add_param_group({"params": list(model[4].parameters())})
        if make_step is TrainStep:
            step.reset()
        losses += [step(batch) for batch in batches(4, seed=4)]
        optimizer.zero_grad()
        losses += [step(batch) for batch in batches(1, seed=5)]
        model[4].eval()
        return losses + [step(batch) for batch in batches(4, seed=6)], model, optimizer, step

    captured, eager = grown(TrainStep), grown(EagerStep)
    assert_same_run(captured, eager)
    assert captured[3].eager_reason is None
    for a, b in zip(captured[1].parameters(), eager[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_after_reset_a_moved_model_is_trained_on_its_new_device():
    model = net()
    step = TrainStep(model, LOSS, clrfast.SGD(model.parameters(), lr=0.1))
    model.to("meta")
    assert step.device.type == "cpu"
    step.reset()
    assert step.device.type == "meta"


def test_a_replay_is_refused_after_a_rate_on_the_cpu_changed(backend):
    """A graph on a device keeps a rate on the CPU as a number."""
    model = net()
    rate = torch.tensor(0.1, device="cpu")
    optimizer = clrfast.SGD(model.parameters(), lr=rate, momentum=0.9, backend=backend)
    step = TrainStep(model, LOSS, optimizer)
    for batch in batches(4):
        step(batch)
    assert step.eager_reason is None
    rate.fill_(0.05)  # like torch's schedulers
    with pytest.raises(RuntimeError, match="another option in a parameter group"):
        step(batches(1)[0])


def test_a_replay_is_refused_after_the_scaler_changed(backend):
    scaler = torch.amp.GradScaler(torch.get_default_device().type)
    *_, step = run(TrainStep, batches(4), backend, scaler=scaler)
    scaler.set_backoff_factor(0.25)
    with pytest.raises(RuntimeError, match="scaler: its settings have changed"):
        step(batches(1)[0])


def test_the_graphs_are_freed_with_their_step(backend):
    *_, step = run(TrainStep, batches(4), backend)
    graph = weakref.ref(step._graphs._kinds[0].graph)
    gc.disable()
    try:
        del _, step
        assert graph() is None  # at once, without the garbage collector: it has the memory of a whole step
    finally:
        gc.enable()
