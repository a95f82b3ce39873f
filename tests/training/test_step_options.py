"""``StepOptions`` and ``Task`` as arguments: every function takes both forms, and refuses a mixture."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast.batch_size._find_batch_size import PrecisionKeywords
from clrfast.finder._range_test import RangeTestKeywords
from clrfast.recipe import find_pair
from clrfast.training import StepOptions, TrainStep
from clrfast.training._step_options import STEP_OPTIONS, StepKeywords

LOSS = nn.CrossEntropyLoss()
OPTIONS = StepOptions(accumulate=2, clip_norm=1.0)
KEYWORDS = {"accumulate": 2, "clip_norm": 1.0}


def make_task():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    inputs = torch.randn(120, 4, generator=generator)
    targets = inputs[:, :3].argmax(1)
    train, val = (TensorDataset(inputs[part], targets[part]) for part in (slice(0, 96), slice(96, 120)))
    return clrfast.Task(model, LOSS, DataLoader(train, batch_size=8), DataLoader(val, batch_size=8))


def monitor_curve(*args, **options):
    monitor = clrfast.RateMonitor(*args, every_n_epochs=1, steps=20, **options)
    monitor(0)
    return monitor.history[0].curve.loss


def range_losses(*args, **options):
    return clrfast.range_test(*args, steps=20, **options).loss


def trial_losses(*args, **options):
    return clrfast.range_test(*args, steps=20, trials=True, **options).trials[0].loss


def decay_losses(*args, **options):
    return clrfast.find_weight_decay(*args, grid=(0, 1e-3), max_lr=0.1, steps=20, refine=False, **options).loss


def momentum_losses(*args, **options):
    return clrfast.find_momentum(*args, values=(0.8, 0.9), max_lr=0.1, steps=20, **options).loss


def pair_losses(*args, **options):
    return find_pair(*args, max_lr=0.1, steps=40, max_steps=120, **options).loss


def largest_batch(*args, **options):
    return clrfast.find_batch_size(*args, max_batch_size=4, **options).largest


def step_loss(*args, **options):
    model = args[0].model if isinstance(args[0], clrfast.Task) else args[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(*args, optimizer=optimizer, **options)
    loader = make_task().train_loader
    return step(*[batch for batch, _ in zip(loader, range(step.accumulate), strict=False)])


FINDERS = [range_losses, trial_losses, monitor_curve, decay_losses, momentum_losses, pair_losses]
NEED_VALIDATION = (decay_losses, momentum_losses, pair_losses)


@pytest.mark.parametrize("function", FINDERS)
def test_a_task_gives_what_its_model_loss_and_loaders_give(function):
    task = make_task()
    val = {"val_loader": task.val_loader} if function in (*NEED_VALIDATION, trial_losses) else {}
    torch.manual_seed(1)
    apart = function(task.model, task.loss_fn, task.train_loader, **val)
    torch.manual_seed(1)
    assert (function(task) == apart).all()


@pytest.mark.parametrize("function", FINDERS)
def test_step_options_give_what_the_keywords_give(function):
    task = make_task()
    torch.manual_seed(1)
    by_keywords = function(task, **KEYWORDS)
    torch.manual_seed(1)
    assert (function(task, options=OPTIONS) == by_keywords).all()


def test_a_train_step_takes_a_task_and_step_options():
    expected = step_loss(make_task().model, LOSS, **KEYWORDS)
    assert torch.equal(step_loss(make_task(), **KEYWORDS), expected)
    assert torch.equal(step_loss(make_task(), options=OPTIONS), expected)


def test_find_batch_size_takes_a_task_and_step_options():
    task = make_task()
    assert largest_batch(task) == largest_batch(task.model, LOSS, task.train_loader) == 4
    assert largest_batch(task, options=OPTIONS) == largest_batch(task, clip_norm=1.0) == 4


def test_find_recipe_takes_step_options():
    task = make_task()
    torch.manual_seed(1)
    by_keywords = clrfast.find_recipe(task, 464, **KEYWORDS)
    torch.manual_seed(1)
    by_options = clrfast.find_recipe(task, 464, options=OPTIONS)
    assert by_options.settings == by_keywords.settings
    assert by_options.evidence == by_keywords.evidence


def test_a_range_test_measures_on_the_validation_data_of_its_task_where_a_metric_asks_for_it():
    curve = clrfast.range_test(make_task(), steps=20, metric="accuracy")
    assert curve.metric_name == "accuracy"
    assert clrfast.range_test(make_task(), steps=20).metric is None


def test_a_validation_loader_takes_the_place_of_the_one_of_the_task():
    task = make_task()
    other = dataclasses.replace(task, val_loader=list(task.val_loader)[:1])
    expected = decay_losses(other)
    assert (decay_losses(task, val_loader=other.val_loader) == expected).all()
    assert (decay_losses(task) != expected).any()


def recipe(*args, **options):
    return clrfast.find_recipe(*args, **options)


CALLED = [
    *((function, "range_test" if function is monitor_curve else None) for function in FINDERS),
    (step_loss, "TrainStep"),
    (largest_batch, "find_batch_size"),
    (recipe, "find_recipe"),
]


@pytest.mark.parametrize(("function", "name"), CALLED)
def test_an_unknown_keyword_is_refused_by_its_name(function, name):
    with pytest.raises(
        TypeError, match=rf"acumulate: {name or ''}.*has no such argument; leave it out, or give one of"
    ):
        function(make_task(), acumulate=2)


@pytest.mark.parametrize(("function", "name"), CALLED)
def test_options_in_both_forms_are_refused(function, name):
    with pytest.raises(ValueError, match=r"options, clip_norm: got both; give all in clrfast.StepOptions\(\.\.\.\)"):
        function(make_task(), options=OPTIONS, clip_norm=1.0)


@pytest.mark.parametrize(("function", "name"), CALLED)
def test_options_of_another_type_are_refused(function, name):
    with pytest.raises(ValueError, match=r"options: got dict; give a clrfast.StepOptions"):
        function(make_task(), options=dict(KEYWORDS))


@pytest.mark.parametrize("function", [*FINDERS, step_loss, largest_batch])
def test_a_loss_beside_a_task_is_refused(function):
    with pytest.raises(ValueError, match="loss_fn: got CrossEntropyLoss in addition to a Task, which has its own"):
        function(make_task(), LOSS)
    with pytest.raises(ValueError, match="compute_loss: got function in addition to a Task, which has its own"):
        function(make_task(), compute_loss=lambda model, batch: model(batch[0]).sum())


def test_a_loader_beside_a_task_is_refused_by_the_name_of_its_argument():
    task = make_task()
    with pytest.raises(ValueError, match="loader: got DataLoader in addition to a Task"):
        clrfast.range_test(task, loader=task.train_loader)
    with pytest.raises(ValueError, match="dataset: got DataLoader in addition to a Task"):
        clrfast.find_batch_size(task, dataset=task.train_loader)


@pytest.mark.parametrize(("optimizer", "shown"), [(None, "None"), (OPTIONS, "StepOptions")])
def test_a_train_step_without_an_optimizer_is_refused(optimizer, shown):
    with pytest.raises(ValueError, match=f"optimizer: got {shown}; give an optimizer of the model's parameters"):
        TrainStep(make_task(), optimizer=optimizer)


@pytest.mark.parametrize("model", [clrfast.Task, make_task])
def test_a_task_that_is_not_made_is_refused_as_the_model(model):
    with pytest.raises(
        ValueError, match=f"model: got {type(model).__name__}; give a torch.nn.Module, or a clrfast.Task"
    ):
        clrfast.range_test(model)


def test_find_batch_size_refuses_a_task_whose_batches_have_a_size_already():
    task = make_task()
    with pytest.raises(ValueError, match="train_loader: got list, whose batches have a size already"):
        clrfast.find_batch_size(dataclasses.replace(task, train_loader=list(task.train_loader)))


def test_a_train_step_with_graph_false_says_so():
    assert step_loss(make_task(), graph=False).shape == ()
    task = make_task()
    step = TrainStep(task, optimizer=clrfast.SGD(task.model.parameters(), lr=0.1), graph=False)
    assert step.eager_reason == "graph=False was given"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accumulate": 0}, "accumulate: got 0; give a whole number of batches, at least 1"),
        ({"accumulate": True}, "accumulate: got True"),
        ({"autocast": torch.float32}, "autocast: got torch.float32; give torch.float16, torch.bfloat16 or None"),
        ({"scaler": "yes"}, "scaler: got str; give a torch.amp.GradScaler"),
        ({"clip_norm": -1.0}, "clip_norm: got -1.0; give a number above 0, or None"),
        ({"clip_norm": float("inf")}, "clip_norm: got inf"),
        ({"clip_norm": "1"}, "clip_norm: got '1'; give a number above 0, or None"),
        ({"clip_norm": [1.0]}, r"clip_norm: got \[1.0\]"),
        ({"clip_norm": True}, "clip_norm: got True"),
        ({"graph": True}, "graph: got True; give 'auto' or False"),
        ({"snapshot_device": "nowhere"}, "snapshot_device: got 'nowhere'; give a device, for example 'cpu', or None"),
        ({"snapshot_device": 3.5}, "snapshot_device: got 3.5"),
    ],
)
def test_an_option_out_of_range_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        StepOptions(**values)


@pytest.mark.parametrize("norm", [1, 0.5, torch.tensor(0.5)])
def test_a_clip_norm_is_a_number_or_a_tensor_of_one_element(norm):
    assert StepOptions(clip_norm=norm).clip_norm is norm


def test_step_options_are_frozen_and_compare_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        OPTIONS.accumulate = 3
    assert StepOptions(accumulate=2.0, clip_norm=1.0) == OPTIONS
    assert type(StepOptions(accumulate=2.0).accumulate) is int


def test_the_types_of_keywords_name_the_arguments_that_there_are():
    assert set(STEP_OPTIONS) == StepKeywords.__optional_keys__
    assert set(STEP_OPTIONS) > PrecisionKeywords.__optional_keys__
    own = {
        name
        for name, parameter in inspect.signature(clrfast.range_test).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert own | set(STEP_OPTIONS) == RangeTestKeywords.__optional_keys__
