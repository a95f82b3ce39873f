"""Tasks: the same for a seed, a digest of what matters, trainings that end at the first loss that is not finite."""

import math

import pytest
import torch
from torch import nn

import clrfast
from benchmarks.task_library.definition import Split, build_task, make_step
from benchmarks.task_library.selection import select_tasks

SPLIT = Split()
INPUTS = torch.arange(12.0).reshape(12, 1)


@SPLIT.task(low=-2, high=0)
def linear(seed):
    """A linear model."""
    return build_task(seed, lambda: nn.Linear(1, 1), nn.MSELoss(), (INPUTS,) * 4, batch_size=5, steps=7)


def redefined(**changes):
    """Definitions of tasks of one name each, whose code differs."""
    split = Split()

    @split.task(low=-2, high=0)
    def docstring(seed):
        """Another docstring."""
        # and a comment
        return build_task(seed, lambda: nn.Linear(1, 1), nn.MSELoss(), (INPUTS,) * 4, batch_size=5, steps=7)

    @split.task(low=-2, high=0)
    def steps(seed):
        return build_task(seed, lambda: nn.Linear(1, 1), nn.MSELoss(), (INPUTS,) * 4, batch_size=5, steps=8)

    @split.task(low=-2, high=1)
    def rates(seed):
        return build_task(seed, lambda: nn.Linear(1, 1), nn.MSELoss(), (INPUTS,) * 4, batch_size=5, steps=7)

    return split


def test_a_seed_decides_weights_and_order_and_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    first, same, other = (linear(seed) for seed in (1, 1, 2))
    assert torch.equal(first.model.weight, same.model.weight)
    assert not torch.equal(first.model.weight, other.model.weight)
    batches = [[inputs.flatten().tolist() for inputs, _ in task.loader()] for task in (first, same, other)]
    assert batches[0] == batches[1] != batches[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_incomplete_batches_are_dropped():
    assert [len(inputs) for inputs, _ in linear(0).loader()] == [5, 5]


def test_a_training_ends_at_the_first_loss_that_is_not_finite():
    task = linear(0)
    schedule = clrfast.constant(1e-4, 20)
    assert task.fit(make_step(clrfast.SGD(task.model.parameters(), schedule=schedule, backend="torch")), 20)
    assert math.isfinite(task.evaluate(*task.val))
    schedule = clrfast.constant(1e20, 20)
    assert not task.fit(make_step(clrfast.SGD(task.model.parameters(), schedule=schedule, backend="torch")), 20)
    assert task.model.training
    assert task.evaluate(*task.val) == math.inf
    assert task.model.training


@pytest.mark.parametrize(("name", "same"), [("docstring", True), ("steps", False), ("rates", False)])
def test_a_digest_changes_with_code_and_rates_and_not_with_prose(name, same):
    assert (SPLIT["linear"].digest() == redefined()[name].digest()) == same


def test_tasks_are_selected_by_their_names_and_by_those_of_splits():
    splits = {"one": SPLIT, "more": redefined()}
    assert [task.name for task in select_tasks(None, splits)] == ["linear", "docstring", "steps", "rates"]
    assert [task.name for task in select_tasks(["rates", "one"], splits)] == ["rates", "linear"]
    with pytest.raises(ValueError, match=r"there are no tasks \['nope'\]; give some of \['one', 'more', 'linear'"):
        select_tasks(["nope"], splits)
