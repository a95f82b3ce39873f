import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

import clrfast
from clrfast import History, NoSuggestionError, WeightDecayTrials, find_weight_decay
from clrfast.recipe._weight_decay import refined_values
from tests.helpers.problems import blobs, regression
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


def made(losses, values=(0.0, 1e-4, 1e-3), initial=2.0):
    """Trials that end with ``losses`` [k][repeats]."""
    runs = tuple(tuple(History(np.ones(20), [initial, x], [0, 20], lr=np.ones(20)) for x in row) for row in losses)
    return WeightDecayTrials(np.array(values), runs, 1.0)


def test_the_noise_tolerance_is_the_difference_that_other_batches_would_make():
    # Distances from the means: 0, then 0.1, then 0.2, each twice; for each value with those of all better ones.
    found = made([[1.1, 1.3], [1.0, 1.0], [1.4, 1.8]])
    medians = np.array([0.05, 0.0, 0.1])
    np.testing.assert_allclose(found.noise_tolerance, 2 * medians / 0.6745 * math.sqrt(2))
    np.testing.assert_allclose(
        made([[1.0, 1.2], [1.4, math.inf], [1.3, 1.4]]).noise_tolerance[[0, 1]], [0.2 / 0.6745 * 2**0.5, math.inf]
    )


@pytest.mark.parametrize(
    ("losses", "low", "chosen", "high"),
    [
        ([[1.0, 1.0], [1.2, 1.21], [1.4, 1.41]], 0.0, 0.0, 0.0),
        ([[1.4, 1.41], [1.2, 1.21], [1.0, 1.0]], 1e-3, 1e-3, 1e-3),
        ([[1.0, 1.1], [0.98, 1.13], [1.9, 1.91]], 0.0, 1e-4, 1e-4),  # inconclusive: the default
        ([[1.0, 1.1], [1.1, 1.2], [1.05, 1.16]], 0.0, 1e-4, 1e-3),  # all equally good
        ([[1.9, 1.91], [1.0, 1.1], [1.05, 1.16]], 1e-4, 1e-4, 1e-3),  # decay helps: the best
        ([[1.9, 1.91], [1.05, 1.16], [1.0, 1.1]], 1e-4, 1e-3, 1e-3),
        ([[1.0, 1.01], [1.5, 1.52], [1.0, 1.02]], 0.0, 0.0, 0.0),  # a worse one in between separates them
        ([[1.0, 1.0], [1.2, 1.21], [math.inf, 1.0]], 0.0, 0.0, 0.0),  # it diverged once
        ([[1.0, 1.0], [1.2, 1.21], [math.nan, 0.5]], 0.0, 0.0, 0.0),
        ([[math.nan, 1.0], [1.2, 1.21], [math.inf, 1.0]], 1e-4, 1e-4, 1e-4),
    ],
)
def test_the_best_weight_decay_is_suggested_or_the_default_if_inconclusive(losses, low, chosen, high):
    choice = made(losses).suggest()
    assert (choice.low, choice.value, choice.high) == (low, chosen, high)


def test_the_reason_says_if_trials_are_inconclusive_or_the_grid_too_small():
    alike = made([[1.0, 1.1], [1.1, 1.2], [1.05, 1.16]])
    assert "all that was tried is alike" in alike.suggest().reason
    assert "do not tell what a longer training needs, and 0.0001, the usual value, is taken" in alike.suggest().reason
    assert "may be better" not in alike.suggest().reason
    small = made([[1.0, 1.1], [1.1, 1.2], [1.05, 1.16]], values=(0.0, 1e-6, 1e-5)).suggest()
    assert small.value == 1e-5
    assert "1e-05, the nearest to the usual one, is taken; 1e-05 is the largest that was tried" in small.reason
    alone = made([[1.0, 1.0], [1.2, 1.21], [1.4, 1.41]]).suggest().reason
    assert alone == "after the short runs the validation loss is lowest with 0 (1)"
    gain = made([[1.9, 1.91], [1.0, 1.1], [1.05, 1.16]]).suggest().reason
    assert "decay does gain something" in gain
    assert "may be better" not in gain
    assert "chosen: 0.0001; " in str(alike)
    assert str(alike).count("\n") == 1 + len(alike.values)


def test_refinement_continues_above_values_that_are_as_good():
    assert made([[1.0, 1.1], [1.1, 1.2], [1.05, 1.16]]).refinement_center == 1e-3
    assert made([[1.9, 1.91], [1.0, 1.1], [1.05, 1.16]]).refinement_center == 1e-4
    assert made([[1.0, 1.0], [1.2, 1.21], [1.4, 1.41]]).refinement_center == 0


@pytest.mark.parametrize("losses", [[[2.0, 2.1], [3.0, 3.0]], [[math.inf, math.inf], [math.inf, math.nan]]])
def test_there_is_no_suggestion_if_no_loss_falls(losses):
    found = made(losses, values=(0.0, 1e-3))
    with pytest.raises(NoSuggestionError, match="in no short run"):
        found.suggest()
    assert "no suggestion" in str(found)


def test_min_loss_its_step_and_max_stable_lr_are_read_off_the_history():
    lr = np.concatenate((np.linspace(0.1, 1.0, 10), np.linspace(0.9, 0.0, 10)))

    def found(*val):
        return WeightDecayTrials(np.zeros(1), ((History(np.ones(20), val, [0, 2, 4, 6, 8, 12, 20], lr=lr),),), 1.0)

    calm, wild = found(2.0, 1.5, 1.1, 1.15, 1.1, 1.4, 1.2), found(2.0, 1.5, 1.0, 1.5, 1.6, 1.1, 1.2)
    assert (calm.min_loss, calm.min_loss_step, calm.max_stable_lr) == (1.1, 4, 1.0)  # a climb by 0.05 is small
    assert (wild.min_loss, wild.min_loss_step) == (1.0, 4)
    assert wild.max_stable_lr == pytest.approx(0.4)  # of the 4 updates before the climb, the last
    assert found(2.0, 2.5, 1.1, 1.0, 0.9, 1.4, 1.2).max_stable_lr == 1.0  # the loss recovered at a higher rate


@pytest.mark.parametrize(
    ("tried", "chosen", "new"),
    [
        ([1e-3, 1e-4, 1e-5, 0.0], 1e-4, [3e-5, 3e-4]),
        ([1e-3, 1e-4, 1e-5, 0.0], 1e-3, [3e-4, 3e-3]),  # also above the largest
        ([1e-3, 1e-4, 1e-5, 0.0], 1e-5, [3e-5]),  # nothing between it and 0
        ([1e-3, 1e-4, 1e-5, 0.0], 0.0, []),
        ([1e-3, 1e-4, 1e-5], 1e-5, [3e-6, 3e-5]),
        ([3e-3, 1e-3, 3e-4, 0.0], 1e-3, []),
        ([3e-3, 1e-3, 3e-4, 0.0], 3e-3, [1e-2]),
        ([1e-1, 1e-4], 1e-4, [3e-5, 3e-3]),
        ([5e-3, 5e-4, 5e-5], 5e-4, [1e-4, 1e-3]),
        ([1.0, 0.1], 1.0, [0.3, 3.0]),
    ],
)
def test_refined_values_bisect_the_exponent(tried, chosen, new):
    assert refined_values(tried, chosen) == new


def test_few_noisy_samples_get_a_large_weight_decay():
    """With 60 samples for 50 weights, least squares fits the noise, and shrinking the weights helps most."""
    model, loss_fn, loader, val = regression(60, 1.0)
    found = find_weight_decay(model, loss_fn, loader, val_loader=val, max_lr=0.03)
    assert 0.1 in found.values  # refinement continued above the grid's 1e-3
    assert found.suggest().value >= 0.03
    mean = dict(zip(found.values, found.loss.mean(axis=1), strict=True))
    assert mean[0.0] > 1.3 * mean[0.1]


def test_many_clean_samples_get_a_small_weight_decay():
    model, loss_fn, loader, val = regression(2000, 0.02, features=10)
    found = find_weight_decay(
        model, loss_fn, loader, val_loader=val, grid=(0.3, 0.1, 0.01, 0), max_lr=0.03, refine=False
    )
    assert found.suggest().value <= 0.01
    assert (np.diff(found.loss.mean(axis=1)) > 0).all()
    assert found.loss[2].min() > 3 * found.loss[0].max()


@pytest.mark.parametrize(("max_steps", "values"), [(240, 6), (239, 4)])
def test_refinement_keeps_within_max_steps(max_steps, values):
    model, loss_fn, loader, val = regression(200, 0.1, features=10)
    grid = (1e-7, 1e-8, 1e-9, 1)  # all but the last alike
    found = find_weight_decay(
        model, loss_fn, loader, val_loader=val, grid=grid, max_lr=0.01, steps=20, max_steps=max_steps
    )
    assert len(found.values) == values


def test_the_reason_says_that_a_decay_has_no_effect():
    model, loss_fn, loader, val = regression(200, 0.1, features=10)
    found = find_weight_decay(
        model, loss_fn, loader, val_loader=val, grid=(1e-9, 0), max_lr=0.01, steps=20, refine=False
    )
    assert "all that was tried is alike" in found.suggest().reason


def test_a_trial_equals_a_training_by_torch_on_the_same_batches():
    model, loss_fn, loader, val = regression(100, 0.5, features=10)
    batches, held = list(loader), list(val)
    decay, steps = 0.1, 20
    schedule = clrfast.one_cycle(0.05, steps)
    found = find_weight_decay(
        model, loss_fn, batches, val_loader=held, grid=(0, decay), max_lr=0.05, steps=steps, refine=False
    )

    def measured(own):
        with torch.no_grad():
            return float(loss_fn(own(held[0][0]), held[0][1]))

    for repeat in range(2):
        own = nn.Linear(10, 1)
        own.load_state_dict(model.state_dict())
        optimizer = torch.optim.SGD(own.parameters(), lr=1.0, weight_decay=decay)
        losses, val_losses = [], [measured(own)]
        for step in range(steps):
            x, y = batches[(repeat * (steps + 1) + step) % len(batches)]
            optimizer.param_groups[0].update(lr=float(schedule.lr(step)), momentum=float(schedule.momentum(step)))
            optimizer.zero_grad()
            loss = loss_fn(own(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            val_losses.append(measured(own))
        run = found.histories[1][repeat]
        np.testing.assert_allclose(run.train_loss, losses, rtol=1e-4)
        np.testing.assert_allclose(run.val_loss, val_losses, rtol=1e-4)
        np.testing.assert_allclose(run.lr, schedule.lr(range(steps)))
        assert run.val_steps.tolist() == list(range(steps + 1))
        assert run.weight_decay == decay


def test_values_share_their_batches_and_repeats_do_not():
    seen = []

    def compute_loss(model, batch):
        if model.training:
            seen.append(float(batch[0, 0]))
        return ((model(batch / 100) - 1) ** 2).mean()

    data = TensorDataset(torch.arange(600.0).reshape(-1, 1).expand(-1, 4))
    loader = DataLoader(
        data,
        batch_size=8,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
        collate_fn=lambda x: torch.stack([row[0] for row in x]),
    )
    find_weight_decay(
        nn.Linear(4, 1),
        loader=loader,
        compute_loss=compute_loss,
        val_loader=[torch.ones(8, 4)],
        grid=(0, 1e-3, 1e-2),
        max_lr=0.01,
        steps=20,
        refine=False,
    )
    kept = np.array(seen).reshape(3, 2, 21)
    assert (kept == kept[:1]).all()
    assert not set(kept[0, 0]) & set(kept[0, 1])  # all of 42 batches lie within one pass of 75


@pytest.mark.parametrize("max_lr", [0.05, None])
def test_everything_is_restored_and_a_second_search_gives_the_same(max_lr):
    model, loss_fn, loader = blobs()  # with dropout and batch normalisation
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    val = DataLoader(
        TensorDataset(x, (x[:, 0] > 0).long()), 16, shuffle=True, generator=torch.Generator().manual_seed(2)
    )
    model.eval()
    shown = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).sum().backward()
    before = full_state(model, shown), loader.generator.get_state(), val.generator.get_state()

    def found():
        return find_weight_decay(
            model, loss_fn, loader, val_loader=val, grid=(0, 1e-2), max_lr=max_lr, steps=20, refine=False
        )

    first, again = found(), found()
    assert full_state(model, shown) == before[0]
    assert torch.equal(loader.generator.get_state(), before[1])
    assert torch.equal(val.generator.get_state(), before[2])
    np.testing.assert_array_equal(first.loss, again.loss)
    assert first.max_lr == again.max_lr
    assert 1e-4 < first.max_lr < 10
    assert len(np.unique(first.loss)) == 4


def test_everything_is_restored_after_an_interruption():
    model, loss_fn, loader, val = regression(100, 0.1)
    shown = torch.optim.SGD(model.parameters(), lr=0.1)
    before, order = full_state(model, shown), loader.generator.get_state()
    calls = []

    def interrupted(outputs, targets):
        calls.append(0)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return loss_fn(outputs, targets)

    with pytest.raises(KeyboardInterrupt):
        find_weight_decay(model, interrupted, loader, val_loader=val, max_lr=0.01, steps=20)
    assert full_state(model, shown) == before
    assert torch.equal(loader.generator.get_state(), order)


def test_a_value_whose_trials_diverge_is_not_suggested():
    """With decay 200 and rate 0.1 each step multiplies the weights by about -20."""
    model, loss_fn, loader, val = regression(400, 0.1, features=10)
    found = find_weight_decay(model, loss_fn, loader, val_loader=val, grid=(0, 200), max_lr=0.1, steps=60, refine=False)
    assert np.isinf(found.loss[1]).all()
    assert np.isfinite(found.loss[0]).all()
    assert found.suggest().value == 0
    assert found.max_stable_lr[1] < found.max_stable_lr[0] == found.max_lr


def test_histories_of_trials_can_be_diagnosed():
    model, loss_fn, loader, val = regression(60, 1.0)
    found = find_weight_decay(model, loss_fn, loader, val_loader=val, grid=(0, 1e-3), max_lr=0.03, refine=False)
    assert "overfitting" in [diagnosis.name for diagnosis in clrfast.diagnose(found.histories[0][0])]


@pytest.mark.parametrize("max_lr", [0.01, None])
def test_progress_covers_the_range_test_and_all_trials(max_lr):
    told = []
    model, loss_fn, loader, val = regression(100, 0.1)
    find_weight_decay(
        model,
        loss_fn,
        loader,
        val_loader=val,
        max_lr=max_lr,
        steps=20,
        grid=(0, 1e-4),
        refine=False,
        progress=lambda *args: told.append(args[:2]),
    )
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({total for _, total in told}) == 1
    assert told[-1][0] == told[-1][1] >= 80


def test_progress_expects_a_round_of_refinement_and_ends_complete():
    told = []
    model, loss_fn, loader, val = regression(100, 0.1)
    given = {"max_lr": 0.01, "steps": 20, "grid": (0, 1e-2, 1e-3)}
    find_weight_decay(model, loss_fn, loader, val_loader=val, progress=lambda *args: told.append(args[:2]), **given)
    assert all(done < total for done, total in told if done <= 3 * 2 * 20)  # the grid is not all
    assert told[-1][0] == told[-1][1]


def test_disjoint_parts_of_one_dataset_are_accepted():
    model, loss_fn, loader, _ = regression(100, 0.1)
    data = loader.dataset
    for train, val in (
        (DataLoader(Subset(data, range(60)), 20), DataLoader(Subset(data, range(60, 100)), 40)),
        (
            DataLoader(data, 20, sampler=SubsetRandomSampler(range(60))),
            DataLoader(data, 20, sampler=SubsetRandomSampler(range(60, 100))),
        ),
    ):
        found = find_weight_decay(
            model, loss_fn, train, val_loader=val, grid=(0, 1e-3), max_lr=0.01, steps=20, refine=False
        )
        assert np.isfinite(found.loss).all()


MODEL, LOSS_FN, LOADER, VAL = regression(100, 0.1)
BATCHES = list(LOADER)
SAMPLES = list(LOADER.dataset)
PART = DataLoader(Subset(Subset(LOADER.dataset, range(50)), [7, 8]), 2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"val_loader": None}, "val_loader: got None"),
        ({"val_loader": []}, "val_loader: it is empty"),
        ({"val_loader": 3}, "val_loader: got int"),
        ({"val_loader": LOADER}, "val_loader: got the same data"),
        ({"val_loader": DataLoader(LOADER.dataset, 50)}, "val_loader: got the same data"),
        ({"val_loader": PART}, "val_loader: got the same data"),
        ({"loader": DataLoader(Subset(LOADER.dataset, range(8)), 4), "val_loader": PART}, "got 1 samples"),
        ({"val_loader": DataLoader(TensorDataset(*LOADER.dataset.tensors), 50)}, "got 100 samples"),
        ({"val_loader": DataLoader(TensorDataset(LOADER.dataset.tensors[0][60:]), 50)}, "got 40 samples"),
        (
            {"loader": BATCHES, "val_loader": BATCHES[1:]},
            "got 4 samples or batches that are in the training's loader too",
        ),
        ({"loader": DataLoader(SAMPLES), "val_loader": DataLoader(Subset(SAMPLES[5:], [0, 1]))}, "got 2 samples"),
        ({"val_loader": iter(VAL)}, "val_loader: got a .*Iter, which can be iterated only once"),
        ({"loader": (batch for batch in LOADER)}, "loader: got a generator, which can be iterated only once"),
        ({"loader": []}, "loader: it is empty"),
        ({"grid": ()}, r"grid: got \[\]; give at least two"),
        ({"grid": (1e-3, 1e-3)}, "give at least two different"),
        ({"grid": (1e-3, -1e-4)}, "grid: got -0.0001 among them; give numbers in"),
        ({"grid": (1e-3, math.nan)}, "grid: got nan"),
        ({"grid": (1e-3, math.inf)}, "grid: got inf"),
        ({"grid": (1e-3, "0")}, "grid: got '0'"),
        ({"grid": 1e-3}, "grid: got 0.001; give several"),
        ({"steps": 19}, "steps: got 19; .*at least 20"),
        ({"steps": 30.5}, "steps: got 30.5"),
        ({"repeats": 1}, "repeats: got 1; .*at least 2"),
        ({"max_lr": 0}, "max_lr: got 0"),
        ({"momentum": 1.0}, "momentum: got 1.0"),
        ({"optimizer": torch.optim.SGD(MODEL.parameters(), 0.1)}, "optimizer: got SGD; the short runs are made with"),
        ({"accumulate": 0}, "accumulate: got 0"),
    ],
)
def test_a_bad_argument_is_refused_by_name(options, named):
    given = {"loader": LOADER, "val_loader": VAL, "max_lr": 0.01, "steps": 20, **options}
    with pytest.raises(ValueError, match=named):
        find_weight_decay(MODEL, LOSS_FN, **given)
