"""Counters of updates stay with their parameter: in copies, on other devices, and when a state is replaced."""

import copy
import pickle

import pytest
import torch

import clrfast
from clrfast.optim._counters import MomentumCounters, StepCounters
from tests.helpers.optimizers import every_rule, give_grads, make_params

CUDA = torch.device("cuda", 0)


def stepped(make, **options):
    params = make_params([(3,), (4,)])
    optimizer = make(params, **options)
    give_grads(params, 0)
    optimizer.step()
    return params, optimizer


@every_rule
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_has_a_norm_as_its_original_has(rule, copied):
    _, optimizer = stepped(rule.make)
    assert copied(optimizer).grad_norm is None


@every_rule
def test_step_counts_are_found_on_the_device_to_which_a_file_was_loaded(rule):
    """``torch.load(map_location=...)`` moves the tensors and leaves the keys."""
    _, optimizer = stepped(rule.make)
    optimizer._step_counts = {CUDA: torch.tensor(5), torch.device("cpu"): torch.tensor(3)}
    loaded = copy.deepcopy(optimizer)
    assert loaded._step_counts == {torch.device("cpu"): torch.tensor(5)}


def test_a_step_on_another_device_is_replaced():
    counters, state = StepCounters(), {"step": torch.tensor(7.0)}
    counters.ensure(state, torch.device("cpu"))
    assert not counters.lacks(state, torch.device("cpu"))
    assert counters.lacks(state, torch.device("meta"))
    counters.ensure(state, torch.device("meta"))
    assert state["step"].device.type == "meta"


def test_a_counter_follows_its_buffer_to_another_device():
    counters, buffer = MomentumCounters(), torch.zeros(3, device="meta")
    counters.by_tensor[buffer] = torch.zeros(2)  # of a buffer whose data were replaced
    counters.track(buffer)
    assert counters.by_tensor[buffer].device.type == "meta"


@pytest.mark.parametrize(
    "replace", [lambda o, p: o.state[p].update(step=torch.tensor(5.0)), lambda o, p: o.state.clear()]
)
def test_replaced_steps_are_forgotten(replace):
    params, optimizer = stepped(clrfast.AdamW)
    for _ in range(4):
        replace(optimizer, params[0])
        optimizer.step()
    assert len(optimizer.counters.by_tensor) == len(params)


@every_rule
def test_a_loss_that_cannot_be_recorded_is_refused_before_the_norm_is(rule):
    params = make_params([(3,)])
    optimizer = rule.make(params, schedule=clrfast.one_cycle(0.1, 4), clip_norm=1.0)
    give_grads(params, 0)
    with pytest.raises(ValueError, match="loss: got shape"):
        optimizer.step(loss=torch.ones(3))
    assert optimizer.control.grad_norms.isnan().all()
    assert optimizer.grad_norm is None


def test_a_range_test_leaves_the_defaults_alone():
    model = torch.nn.Linear(3, 2)
    optimizer = clrfast.AdamW(model.parameters())
    before = dict(optimizer.defaults)
    batches = [(torch.randn(4, 3), torch.randint(2, (4,))) for _ in range(3)]
    clrfast.range_test(model, torch.nn.CrossEntropyLoss(), batches, optimizer=optimizer, steps=5)
    assert optimizer.defaults == before
