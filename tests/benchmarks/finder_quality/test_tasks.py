"""The tasks of the comparison of finders: their splits, and the models that are trained before a task begins."""

import pytest
import torch

import clrfast
from benchmarks.finder_quality.tasks import DEVELOPMENT, SPLITS, TEST
from benchmarks.finder_quality.tasks.development.varied import VARIED
from benchmarks.finder_quality.tasks.test import continued
from benchmarks.task_library import pretrained
from benchmarks.task_library.definition import make_step

PRETRAINED = {
    "digits_other_classes": pretrained.low_digits_cnn,
    "digits_turned_adapters": pretrained.digits_mlp,
    "heartbeats_other_patient": continued.pretrained_heartbeats_cnn,
    "house_prices_other_town": continued.pretrained_prices_mlp,
}
"""Tasks, and the model that each of them trains further."""


@pytest.fixture(autouse=True)
def _needs_its_data():
    pytest.importorskip("sklearn", reason="needs scikit-learn's data")


def test_no_task_is_in_two_splits():
    names = [name for split in SPLITS.values() for name in split]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", [name for name, task in (VARIED | TEST).items() if not task.packed])
def test_every_varied_task_and_test_task_has_a_finite_loss_and_a_gradient(name):
    task = (VARIED | TEST)[name].make(0)
    assert task.batch_size <= len(task.train[0])
    inputs, targets = next(iter(task.loader()))
    before = task.loss_fn(task.model(inputs), targets)
    before.backward()
    assert before.isfinite()
    assert any(p.grad is not None and p.grad.any() for p in task.model.parameters())
    assert task.evaluate(*task.val) < float("inf")


@pytest.mark.parametrize("name", PRETRAINED)
def test_training_a_task_leaves_its_pretrained_model_as_it_was(name):
    known = {key: value.clone() for key, value in PRETRAINED[name]().state_dict().items()}
    task = (DEVELOPMENT | TEST)[name].make(0)
    before = [p.clone() for p in task.model.parameters()]
    schedule = clrfast.constant(0.01, 2)
    assert task.fit(make_step(clrfast.SGD(task.model.parameters(), schedule=schedule, backend="torch")), 2)
    assert any(not torch.equal(p, was) for p, was in zip(task.model.parameters(), before, strict=True))
    for key, value in PRETRAINED[name]().state_dict().items():
        assert torch.equal(value, known[key]), key


def test_a_pretrained_model_is_the_same_at_every_call_and_leaves_the_global_state_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second = (pretrained.low_digits_cnn.__wrapped__() for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
