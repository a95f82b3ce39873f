import pytest
import torch
from torch import nn

from clrfast import StepOptions, Task
from clrfast.finder._experiment import Experiment
from clrfast.finder._probes import Probes
from tests.helpers.state import full_state

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def make_task(*layers):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), *layers).train()
    return Task(model, nn.CrossEntropyLoss(), [(X, Y)])


def measure(task, batches):
    experiment = Experiment(task, StepOptions())
    with experiment.training() as step:
        total, n = experiment.make_probes(batches).total(step)
        return float(total / n), n


def test_the_loss_is_the_mean_over_all_samples():
    task = make_task()
    loss, n = measure(task, [(X[:8], Y[:8]), (X[8:], Y[8:])])
    assert n == 12
    assert loss == pytest.approx(float(nn.functional.cross_entropy(task.model(X), Y).detach()), rel=1e-6)


def test_batch_norm_uses_the_statistics_of_the_batch_and_keeps_its_own():
    task = make_task(nn.BatchNorm1d(3))
    with torch.no_grad():
        expected = float(nn.functional.cross_entropy(task.model(X), Y))
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    before = full_state(task.model, optimizer)
    loss, _ = measure(task, [(X, Y)])
    assert loss == pytest.approx(expected, rel=1e-6)
    assert full_state(task.model, optimizer) == before


def test_dropout_has_the_same_mask_in_every_measurement_and_random_numbers_continue_after_it():
    task = make_task(nn.Dropout(0.5))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert measure(task, [(X, Y)]) == measure(task, [(X, Y)])
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_contains_a_derivative_is_measured():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def penalty(model, batch):
        x = batch.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return grad.pow(2).mean()

    loss, _ = measure(Task(model, None, [X], compute_loss=penalty), [X])
    assert loss == pytest.approx(float(model.weight.detach().pow(2).mean()))


@pytest.mark.parametrize(("every", "due"), [(None, []), (3, [3, 6, 9])])
def test_probes_are_due_every_few_updates(every, due):
    probes = Probes([X], every=every, custom_batches=False)
    assert [count for count in range(1, 11) if probes.is_due(count, 10)] == due
