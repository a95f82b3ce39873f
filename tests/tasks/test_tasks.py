import sys
import textwrap

import pytest
import torch
from torch import nn

from clrfast.tasks import Task, TaskError, make_task
from clrfast.tasks.digits import make_task as make_digits
from tests.helpers.task_modules import SOURCES


def test_a_users_task_is_made_by_its_path(task_modules):
    assert isinstance(make_task("good:make_task"), Task)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "task 'nope' is unknown; give one of .'digits'., or my_package.my_module:make_task"),
        ("nope:", "is unknown"),
        (":make_task", "is unknown"),
        ("nowhere.module:make_task", "there is no module 'nowhere'"),
        ("clrfast.nowhere:make_task", "there is no module 'clrfast.nowhere'"),
        ("good:nothing", "module good has no function 'nothing'"),
        ("good:not_callable", "module good has no function 'not_callable'"),
        ("good:returns_other", r"returned int; return clrfast.Task\("),
        ("good:raises", "raised KeyError: 'data'"),
        ("good:needs_argument", "raised TypeError.*'path'"),
        ("broken:make_task", "importing broken failed: ZeroDivisionError"),
        ("needs:make_task", "importing needs failed: No module named 'not_installed_anywhere'"),
    ],
)
def test_errors_are_one_helpful_line(task_modules, name, message):
    with pytest.raises(TaskError, match=message) as caught:
        make_task(name)
    assert "\n" not in str(caught.value)


def test_the_error_names_missing_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(TaskError, match=r"needs sklearn.*\(pip install scikit-learn\)"):
        make_task("digits")


def test_the_digits_task_is_reproducible():
    before = torch.get_rng_state()
    task = make_digits(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    images, labels = next(iter(task.train_loader))
    assert images.shape == (64, 1, 8, 8)
    assert labels.shape == (64,)
    assert 0 <= images.min() <= images.max() <= 1
    assert task.model(images).shape == (64, 10)
    assert sum(p.numel() for p in task.model.parameters()) == 14458
    again, other = make_digits(seed=3), make_digits(seed=4)
    assert torch.equal(next(iter(again.train_loader))[1], labels)
    assert not torch.equal(next(iter(other.train_loader))[1], labels)
    train = {tuple(x.flatten().tolist()) for x in task.train_loader.dataset.tensors[0]}
    validation = [tuple(x.flatten().tolist()) for x in task.val_loader.dataset.tensors[0]]
    assert len(validation) == 360
    assert not train.intersection(validation)
    assert isinstance(task.loss_fn, nn.CrossEntropyLoss)


def test_a_file_in_the_current_folder_does_not_hide_a_library(task_modules, monkeypatch):
    """The current folder is the last on sys.path, and only for a user's task."""
    before = list(sys.path)
    make_task("digits")
    assert sys.path == before
    (task_modules / "colorsys.py").write_text("1 / 0")
    (task_modules / "good.py").write_text("import colorsys\n" + textwrap.dedent(SOURCES["good.py"]))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert isinstance(make_task("good:make_task"), Task)
    assert sys.path == [*before, str(task_modules)]
    make_task("good:make_task")
    assert sys.path == [*before, str(task_modules)]
