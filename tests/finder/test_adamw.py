"""A range test with clrfast's AdamW measures what one with torch's measures."""

import numpy as np
import pytest
import torch

import clrfast
from clrfast import range_test
from clrfast.finder._experiment import Experiment
from clrfast.training import StepOptions
from tests.helpers.problems import blobs_without_dropout, clouds
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = {
    "adam": (clrfast.Adam, torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": (clrfast.AdamW, torch.optim.AdamW, {"betas": (0.8, 0.99), "weight_decay": 0.1}),
    "amsgrad": (clrfast.AdamW, torch.optim.AdamW, {"amsgrad": True}),
}
every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


@every_pair
def test_the_suggestion_equals_that_with_torchs_optimizer_to_rounding(pair):
    ours, theirs, options = pair
    curves = []
    for kind in (ours, theirs):
        task = clouds()
        curves.append(range_test(task, optimizer=kind(task.model.parameters(), **options)))
    one, other = curves
    np.testing.assert_allclose(one.lr, other.lr, rtol=1e-6)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-3)
    assert one.suggest().max_lr == pytest.approx(other.suggest().max_lr, rel=1e-3)
    assert one.suggest().low == pytest.approx(other.suggest().low, rel=1e-3)
    assert one.suggest().high == pytest.approx(other.suggest().high, rel=1e-3)
    assert one.update_steps == other.update_steps
    assert one.momentum is other.momentum is None


@every_pair
def test_the_schedule_is_on_the_device_and_no_rate_is_set_by_the_host(pair, monkeypatch):
    kind, _, options = pair
    monkeypatch.setattr("clrfast.finder._controlled_step._set_rates", lambda *_: pytest.fail("a rate was set"))
    model, loss_fn, loader = blobs_without_dropout()
    controls, shown = [], []
    optimizer = kind(model.parameters(), **options)

    def note(optimizer, *_):
        controls.append(optimizer.control)
        shown.append(optimizer.param_groups[0]["betas"])

    optimizer.register_step_pre_hook(note)
    curve = range_test(model, loss_fn, loader, optimizer=optimizer, steps=10, min_lr=1e-3, max_lr=0.1)
    (control,) = set(controls)
    np.testing.assert_allclose(control.host_table[:10, 0, 0], curve.lr, rtol=1e-6)
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    assert set(shown) == {(np.float32(beta1), beta2)}


@every_pair
@pytest.mark.parametrize("trained_steps", [0, 3])
@pytest.mark.parametrize("scheduled", [False, True])
def test_the_optimizer_is_given_back_exactly_and_goes_on_as_without_the_test(pair, trained_steps, scheduled):
    kind, _, options = pair
    results = []
    for tested in (True, False):
        model, loss_fn, loader = blobs_without_dropout()
        batches = list(loader)
        optimizer = kind(model.parameters(), **options)
        if scheduled:
            optimizer.set_schedule(clrfast.one_cycle(0.01, 10))

        def train(model=model, loss_fn=loss_fn, optimizer=optimizer, batches=batches, n=trained_steps):
            for inputs, targets in batches[:n]:
                optimizer.zero_grad()
                loss_fn(model(inputs), targets).backward()
                optimizer.step()

        train()
        if tested:
            before = full_state(model, optimizer)
            groups = [dict(group) for group in optimizer.param_groups]
            range_test(model, loss_fn, batches, optimizer=optimizer)
            assert full_state(model, optimizer) == before
            assert optimizer.param_groups == groups
            assert (optimizer.schedule is not None) == scheduled
        train(n=5)
        results.append([*model.parameters(), *optimizer.state_tensors()])
    assert all(map(torch.equal, *results))


def test_without_an_optimizer_the_step_is_one_of_sgd():
    model, *_ = blobs_without_dropout()
    experiment = Experiment(clouds(), StepOptions())
    assert type(experiment.make_step().optimizer) is clrfast.SGD
    assert experiment.momentum == 0.9
    assert experiment.prior_lr is None
    own = Experiment(
        clrfast.Task(model, *blobs_without_dropout()[1:]), StepOptions(), optimizer=clrfast.AdamW(model.parameters())
    )
    assert own.momentum is None
