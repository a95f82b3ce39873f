"""Trainings of the contenders on a small task."""

import math

import pytest
import torch

from benchmarks.finder_quality.optimizers import loss_with_sgd
from benchmarks.finder_quality.tasks import DEVELOPMENT
from benchmarks.peer_packages import name_and_version, why_missing
from benchmarks.untuned_training.contenders import CONTENDERS, OURS
from benchmarks.untuned_training.measurement import installed
from benchmarks.untuned_training.peers import PEERS
from benchmarks.untuned_training.training import Contender, run, stepped
from clrfast.training._loss_modules import trainable_parameters

STEPS = 30


@pytest.fixture
def task():
    return DEVELOPMENT["iris_mlp"].make(100)


def sgd(task, steps, lr):
    return stepped(task, torch.optim.SGD(trainable_parameters(task.model), lr=lr, momentum=0.9))


def search_of_ten_passes(task):
    task.model.train()
    for _ in range(10):
        task.model(task.train[0][:8])
    return 0.1


def test_a_training_makes_as_many_forward_passes_as_updates(task):
    outcome = run(Contender(sgd, 0.1), task, STEPS)
    assert outcome.loss < 0.9 * outcome.untrained
    assert (outcome.passes, outcome.search_passes, outcome.reason) == (STEPS, 0, "")


def test_a_search_comes_on_top_or_is_charged(task):
    outcome = run(Contender(sgd, search_of_ten_passes), task, STEPS)
    assert (outcome.passes, outcome.search_passes) == (STEPS + 10, 10)
    outcome = run(Contender(sgd, search_of_ten_passes, charged=True), task, STEPS)
    assert (outcome.passes, outcome.search_passes) == (STEPS, 10)


def test_a_search_that_leaves_no_updates_fails(task):
    outcome = run(Contender(sgd, search_of_ten_passes, charged=True), task, 10)
    assert (outcome.loss, outcome.reason) == (math.inf, "the search leaves no updates")


def test_a_training_that_diverges_or_raises_fails_with_its_reason(task):
    assert run(Contender(sgd, 1e20), task, STEPS).reason == "the loss is not finite"
    outcome = run(Contender(sgd, -1.0), task, STEPS)
    assert outcome.loss == math.inf
    assert outcome.reason.startswith("ValueError: Invalid learning rate")


def test_clrfast_trains_as_the_oracle_does(task):
    outcome = run(Contender(CONTENDERS[OURS].method, 0.3), task, STEPS)
    assert outcome.loss == loss_with_sgd(DEVELOPMENT["iris_mlp"].make(100), 0.3, 0.0, STEPS)


def test_a_contender_without_its_package_is_left_out(monkeypatch, capsys):
    monkeypatch.setitem(CONTENDERS, "gone", Contender(sgd, 0.1, module="no_such_package"))
    assert installed(["gone", OURS]) == [OURS]
    assert capsys.readouterr().out == "gone: left out, not installed: no_such_package\n"


def test_a_package_is_named_with_its_version():
    assert name_and_version("pytest") == f"pytest {pytest.__version__}"


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("task_name", ["iris_mlp", "digits_cnn_bn", "char_transformer"])
def test_other_packages_train_models_with_batch_norm_and_masks(name, task_name):
    if reason := why_missing((PEERS[name].module,)):
        pytest.skip(reason)
    outcome = run(PEERS[name], DEVELOPMENT[task_name].make(100), 5)
    assert outcome.reason == ""
    assert math.isfinite(outcome.loss)
