import pytest
import torch
from torch import nn

import clrfast
from clrfast import Task
from clrfast.training._task_training import evaluate, steps_per_epoch, train

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
BATCHES = [(X[:20], Y[:20]), (X[20:], Y[20:])]


def make(**changes):
    torch.manual_seed(0)
    fields = {
        "model": nn.Linear(3, 2),
        "loss_fn": nn.CrossEntropyLoss(),
        "train_loader": BATCHES,
        "val_loader": BATCHES,
    }
    return Task(**{**fields, **changes})


class OfDicts(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, inputs, targets):
        return {"loss": super().forward(inputs).sum() * 0 + 1.5}


def test_train_makes_exactly_the_steps_of_the_schedule():
    task, told = make(), []
    losses = train(task, clrfast.one_cycle(0.5, 7), progress=lambda done, total, shown: told.append((done, total)))
    assert told == [(step, 7) for step in range(1, 8)]
    assert losses.shape == (7,)
    assert losses.isfinite().all()
    assert losses[-1] < losses[0]


def test_train_uses_the_optimizer_that_is_given():
    task = make()
    train(task, clrfast.constant(0.1, 4), make_optimizer=clrfast.AdamW)
    model = make().model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for x, y in BATCHES * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for ours, theirs in zip(task.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="make_optimizer: it returned"):
        train(task, clrfast.constant(0.1, 4), make_optimizer=torch.optim.AdamW)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear(3, 2), clrfast.constant(0.1, 4)), r"task: got Linear; give clrfast.Task\(model, loss_fn"),
        ((make(), None), "schedule: got NoneType; give a clrfast.Schedule with total_steps"),
    ],
)
def test_train_refuses_what_is_no_task_or_no_schedule(arguments, message):
    with pytest.raises(ValueError, match=message):
        train(*arguments)


def test_train_equals_a_plain_loop():
    task = make()
    train(task, clrfast.constant(0.1, 4), momentum=0.9)
    model = make().model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for x, y in BATCHES * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for ours, theirs in zip(task.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_evaluate_returns_loss_and_accuracy_of_a_classification():
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]]))
    task = make(model=model, val_loader=[(X[:30], Y[:30]), (X[30:], 1 - Y[30:])])
    score = evaluate(task)
    assert score.accuracy == 0.75
    outputs, targets = model(X), torch.cat([Y[:30], 1 - Y[30:]])
    assert score.loss == pytest.approx(nn.functional.cross_entropy(outputs, targets).item(), rel=1e-6)


def test_evaluate_returns_no_accuracy_for_other_tasks():
    regression = make(model=nn.Linear(3, 1), loss_fn=nn.MSELoss(), val_loader=[(X, X[:, :1])])
    assert evaluate(regression).accuracy is None
    assert evaluate(make(val_loader=None)) is None
    own = make(loss_fn=None, compute_loss=lambda model, batch: model(batch[0]).sum() * 0 + 2.5)
    assert evaluate(own).loss == 2.5
    returned = make(model=OfDicts(), loss_fn=None, val_loader=[{"inputs": X, "targets": Y}])
    assert evaluate(returned).loss == 1.5


def test_evaluate_refuses_an_empty_loader():
    with pytest.raises(ValueError, match="val_loader: it is empty"):
        evaluate(make(val_loader=[]))


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(BATCHES)


@pytest.mark.parametrize(
    "batches", [BATCHES, (b for b in BATCHES), torch.utils.data.DataLoader(Stream(), batch_size=None)]
)
def test_steps_per_epoch_counts_the_batches(batches):
    assert steps_per_epoch(make(train_loader=batches)) == 2
