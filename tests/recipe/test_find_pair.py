"""``find_pair`` with real trainings."""

import numpy as np
import pytest
import torch

from clrfast.recipe import find_pair
from tests.helpers.problems import regression
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


MODEL, LOSS_FN, LOADER, VAL = regression(100, 0.1)


def test_few_noisy_samples_get_a_large_weight_decay():
    """With 60 samples for 50 weights, least squares fits the noise, and shrinking the weights helps most.

    Low rates help less; the search tries them first.
    """
    model, loss_fn, loader, val = regression(60, 1.0)
    found = find_pair(model, loss_fn, loader, val_loader=val, max_lr=0.01, steps=100, max_steps=3000)
    assert found.suggest().weight_decay == 1.0
    assert found.loss.min() < 0.98 * found.loss[found.weight_decay <= 0.03].min()


def test_find_pair_restores_everything():
    model, loss_fn, loader, val = regression(60, 1.0)
    shown = torch.optim.SGD(model.parameters(), lr=0.1)
    before, order, told = full_state(model, shown), loader.generator.get_state(), []
    found = find_pair(
        *(model, loss_fn, loader),
        val_loader=val,
        max_lr=0.03,
        steps=100,
        max_steps=700,
        progress=lambda *args: told.append(args[:2]),
    )
    assert full_state(model, shown) == before
    assert torch.equal(loader.generator.get_state(), order)
    assert [np.size(run.train_loss) for run in found.histories] == [100] * 7
    for run, lr, decay in zip(found.histories, found.max_lr, found.weight_decay, strict=True):
        assert max(run.lr) == pytest.approx(lr, rel=0.05)
        assert run.weight_decay == decay
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (700, 700)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_lr": None}, "max_lr: got None; give a finite number above 0"),
        ({"steps": 39}, "steps: got 39; .* at least 40"),
        ({"steps": 50.5}, "steps: got 50.5"),
        ({"max_steps": 119}, "max_steps: got 119; give at least 3 times the 40 steps"),
        ({"max_lr": 0.0}, "max_lr: got 0"),
        ({"val_loader": LOADER}, "val_loader: got the same data"),
        ({"momentum": 1.0}, "momentum: got 1.0"),
    ],
)
def test_a_bad_argument_is_refused_by_name(options, named):
    given = {"loader": LOADER, "val_loader": VAL, "max_lr": 0.01, "steps": 40, "max_steps": 120, **options}
    with pytest.raises(ValueError, match=named):
        find_pair(MODEL, LOSS_FN, **given)
