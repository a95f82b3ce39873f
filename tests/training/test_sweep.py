import functools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrfast
from clrfast import Schedule, one_cycle
from clrfast.schedules import constant
from clrfast.training import _graph_cache as graphs
from clrfast.training import _sweep as sweep_module
from clrfast.training import _vectorization as vectorization
from tests.cuda_on_cpu import emulated_graphs

STEPS = 12


def data(n=96, batch_size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    y = (x.sum(1) > 0).long() + (x[:, 0] > 1).long()
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True, generator=generator)


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def batch_norm():
    """Without a bias before the normalization: its gradient is rounding, of which Adam makes whole steps."""
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def frozen():
    model = mlp()
    model[0].weight.requires_grad_(False)
    return model


class Tied(nn.Module):
    """A model that uses one weight twice."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.first(self.first(x).relu()))


LOSS = nn.CrossEntropyLoss()
SCHEDULES = [
    one_cycle(0.1, STEPS),
    one_cycle(0.3, STEPS, weight_decay=1e-2),
    constant(0.05, STEPS),
    one_cycle(0.1, STEPS, momentum=None),
]


def both(make_model, schedules=SCHEDULES, **options):
    return [
        clrfast.sweep(make_model, LOSS, data(), schedules, vectorize=vectorize, **options)
        for vectorize in (True, False)
    ]


def same(a, b, rtol=2e-4, atol=2e-5):
    torch.testing.assert_close(a.losses, b.losses, rtol=rtol, atol=atol, equal_nan=True)
    assert a.steps.tolist() == b.steps.tolist()
    assert a.stopped.tolist() == b.stopped.tolist()
    for one, other in zip(a.models, b.models, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("make_model", [mlp, batch_norm, frozen, Tied])
@pytest.mark.parametrize("seeds", [0, [3, 1, 4, 1]])
def test_vectorized_and_sequential_training_are_equal(make_model, seeds):
    together, in_sequence = both(make_model, seeds=seeds)
    assert together.sequential_reason is None
    assert in_sequence.sequential_reason == "vectorize=False was given"
    same(together, in_sequence)
    assert together.losses.shape == (4, STEPS)
    assert together.steps.tolist() == [STEPS] * 4


MAKERS = {
    "sgd": functools.partial(clrfast.SGD, momentum=0.9),
    "adamw": clrfast.AdamW,
    "clipped adam": functools.partial(clrfast.Adam, betas=(0.8, 0.99), clip_norm=0.1),
}
every_maker = pytest.mark.parametrize("make_optimizer", MAKERS.values(), ids=MAKERS)


@every_maker
@pytest.mark.parametrize("device", ["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("make_model", [mlp, batch_norm])
def test_captured_and_eager_stacked_steps_are_equal(make_model, device, make_optimizer, monkeypatch):
    options = {"generator": torch.Generator("cpu").manual_seed(0), "device": "cpu"}
    batches = [(torch.randn(16, 6, **options), torch.randint(3, (16,), **options)) for _ in range(5)]

    def trained():
        return clrfast.sweep(make_model, LOSS, batches, SCHEDULES, make_optimizer=make_optimizer, vectorize=True)

    if device == "emulated":
        make_optimizer = functools.partial(make_optimizer, backend="torch")
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "reason_against_graphs", lambda device: "not this time")
        eager = trained()
    if device == "emulated":
        emulated_graphs.install(monkeypatch)
    captured = trained()
    if device == "emulated":
        assert emulated_graphs.CUDAGraph.last.replays == STEPS - graphs.WARM_UP_CALLS
    assert torch.equal(captured.losses, eager.losses)
    for one, other in zip(captured.models, eager.models, strict=True):
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b)


@every_maker
@pytest.mark.parametrize("vectorize", [True, False])
def test_each_copy_is_trained_as_by_a_plain_loop(make_optimizer, vectorize):
    found = clrfast.sweep(
        mlp, LOSS, data(), SCHEDULES, seeds=[5, 6, 7, 8], make_optimizer=make_optimizer, vectorize=vectorize
    )
    for index, schedule in enumerate(SCHEDULES):
        torch.manual_seed(5 + index)
        model = mlp()
        optimizer = make_optimizer(model.parameters(), schedule=schedule)
        losses = []
        while len(losses) < STEPS:
            if not losses:
                loader = data()
            for x, y in loader:
                optimizer.zero_grad()
                loss = LOSS(model(x), y)
                losses.append(loss.item())
                loss.backward()
                optimizer.step(loss=loss)
                if len(losses) == STEPS:
                    break
        torch.testing.assert_close(found.losses[index], torch.tensor(losses), rtol=2e-4, atol=2e-5)
        torch.testing.assert_close(found.models[index].state_dict(), model.state_dict(), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_copy_that_diverges_stops_and_the_others_continue(vectorize):
    schedules = [constant(0.05, STEPS), constant(1e4, STEPS), constant(0.01, STEPS)]
    found = clrfast.sweep(mlp, LOSS, data(), schedules, vectorize=vectorize)
    assert repr(found) == f"SweepResult({len(schedules)} copies, {found.losses.shape[1]} steps, 1 stopped)"
    alone = clrfast.sweep(mlp, LOSS, data(), schedules[::2], vectorize=vectorize)
    assert found.stopped.tolist() == [False, True, False]
    assert found.steps[1] < STEPS
    steps = int(found.steps[1])
    assert found.losses[1, : steps + 1].isfinite().sum() >= steps
    assert found.losses[1, steps + 1 :].isnan().all()
    torch.testing.assert_close(found.losses[::2], alone.losses)
    assert all(param.isfinite().all() for param in found.models[1].parameters())


def test_vectorized_and_sequential_training_stop_at_the_same_step():
    same(*both(mlp, [constant(0.05, STEPS), constant(30.0, STEPS), constant(1e30, STEPS)]), rtol=1e-2)


def test_a_sweep_runs_a_range_test_for_each_weight_decay():
    decays = [0.0, 1e-3, 1e-1]
    schedules = [Schedule(lr=clrfast.lr_ramp(1e-4, 1.0, 30).lr, weight_decay=decay, total_steps=30) for decay in decays]
    together, in_sequence = both(mlp, schedules)
    same(together, in_sequence, rtol=1e-3)
    assert not torch.equal(together.losses[0], together.losses[2])


def test_a_model_that_vmap_cannot_run_is_trained_sequentially():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            outputs = self.net(x)
            return outputs if outputs.mean().item() < 1e9 else -outputs

    found = clrfast.sweep(Branching, LOSS, data(), SCHEDULES)
    assert "vmap cannot run this model or loss" in found.sequential_reason
    same(found, clrfast.sweep(Branching, LOSS, data(), SCHEDULES, vectorize=False))
    with pytest.raises(ValueError, match=r"vectorize: got True, and torch\.func\.vmap cannot run"):
        clrfast.sweep(Branching, LOSS, data(), SCHEDULES, vectorize=True)


def test_auto_chooses_one_way_and_says_why():
    found = clrfast.sweep(mlp, LOSS, data(), SCHEDULES)
    assert found.sequential_reason is None or "times as fast as vectorized" in found.sequential_reason
    same(found, clrfast.sweep(mlp, LOSS, data(), SCHEDULES, vectorize=False))
    assert clrfast.sweep(mlp, LOSS, data(), SCHEDULES[:1]).sequential_reason == "there is only one copy"


@every_maker
@pytest.mark.parametrize("make_model", [mlp, batch_norm, frozen])
@pytest.mark.parametrize("faster", ["_train_stacked", "_train_sequentially"])
def test_the_timed_steps_count_as_training(make_model, faster, make_optimizer, monkeypatch):
    tried, finish = [], getattr(sweep_module, faster)

    def seconds(train, batches, untimed, device):
        for batch in batches:
            train(batch)
        tried.append(len(batches))
        return {"_train_stacked": (2.0, 1.0), "_train_sequentially": (1.0, 2.0)}[faster][len(tried) - 1]

    monkeypatch.setattr(vectorization, "_fastest_step_s", seconds)
    monkeypatch.setattr(
        sweep_module, faster, lambda plan, started, *others: tried.append(started) or finish(plan, started, *others)
    )
    options = {"make_optimizer": make_optimizer}
    found = clrfast.sweep(make_model, LOSS, data(), SCHEDULES, **options)
    *tried, started = tried
    assert tried == [2, 2]
    assert started.n_done == 4
    same(found, clrfast.sweep(make_model, LOSS, data(), SCHEDULES, vectorize=False, **options), rtol=1e-3)


@pytest.mark.parametrize("vectorize", [True, False, "auto"])
def test_the_loader_continues_as_after_one_run(vectorize):
    orders = []
    for run in (True, False):
        loader = data()
        torch.manual_seed(1)
        if run:
            clrfast.sweep(mlp, LOSS, loader, SCHEDULES, vectorize=vectorize)
        else:
            model = mlp()
            clrfast.sweep(lambda model=model: model, LOSS, loader, SCHEDULES[:1], vectorize=False)
        orders.append([y.tolist() for _, y in loader])
    assert orders[0] == orders[1]


def test_custom_losses_and_dict_batches_are_accepted():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    batches = [{"x": part, "name": ["a"]} for part in x.split(8)]
    found = [
        clrfast.sweep(
            mlp,
            loader=batches,
            schedules=SCHEDULES,
            compute_loss=lambda model, batch: model(batch["x"]).square().mean(),
            vectorize=vectorize,
        )
        for vectorize in (True, False)
    ]
    same(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"make_optimizer": "adamw"}, "make_optimizer: got str; give a function of the parameters"),
        ({"make_optimizer": clrfast.AdamW, "momentum": 0.9}, "momentum: got 0.9, and make_optimizer decides it"),
        ({"make_optimizer": torch.optim.AdamW}, r"make_optimizer: it returned torch\.optim\.adamw\.AdamW; return an"),
        (
            {"make_optimizer": lambda params: clrfast.AdamW(params, schedule=constant(0.1, STEPS))},
            "make_optimizer: it returned an optimizer with a schedule",
        ),
        (
            {
                "make_optimizer": clrfast.AdamW,
                "schedules": [one_cycle(0.1, STEPS), Schedule(lr=0.1, momentum=1.0, total_steps=STEPS)],
            },
            "schedule: its momentum reaches 1; it is beta1 here",
        ),
    ],
)
def test_a_bad_optimizer_is_an_error_that_names_it(options, message):
    with pytest.raises(ValueError, match=message):
        clrfast.sweep(mlp, LOSS, data(), **{"schedules": SCHEDULES, **options})


def test_progress_counts_the_steps():
    told = []
    for vectorize in (True, False):
        clrfast.sweep(
            mlp, LOSS, data(), SCHEDULES[:2], vectorize=vectorize, progress=lambda *args: told.append(args[:2])
        )
    assert told == [(i, STEPS) for i in range(2, STEPS + 1)] + [(i, 2 * STEPS) for i in range(1, 2 * STEPS + 1)]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schedules": []}, "schedules: got \\[\\]"),
        ({"schedules": [0.1]}, "schedules: got 0.1 among them"),
        ({"schedules": [constant(0.1, 3), constant(0.1, 4)]}, "schedules: got total_steps of"),
        ({"schedules": [Schedule(lr=0.1)]}, r"schedules: got total_steps of \['None'\]"),
        ({"seeds": [1, 2]}, "seeds: got 2 for 4 schedules"),
        ({"make_model": mlp()}, "make_model: got Sequential"),
        ({"make_model": lambda: 3}, "make_model: it returned"),
        ({"make_model": lambda: nn.LazyLinear(3)}, "make_model: it returned lazy modules"),
        ({"make_model": lambda: nn.ReLU()}, "without trainable parameters"),
        ({"loader": 3}, "loader: got int"),
        ({"loader": []}, "loader: it is empty"),
        ({"vectorize": "yes"}, "vectorize: got 'yes'"),
        ({"loss_fn": nn.CrossEntropyLoss(reduction="none"), "vectorize": False}, r"loss: got shape \(16,\)"),
        ({"stop_factor": 1.0, "vectorize": False}, "stop_factor: got 1"),
        ({"stop_factor": 1.0, "vectorize": True}, "stop_factor: got 1"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_its_name(changes, named):
    arguments = {"make_model": mlp, "loss_fn": LOSS, "loader": data(), "schedules": SCHEDULES, **changes}
    with pytest.raises(ValueError, match=named):
        clrfast.sweep(**arguments)


def test_returning_the_same_model_again_is_refused():
    model = mlp()
    with pytest.raises(ValueError, match="make_model: it returned the same model again"):
        clrfast.sweep(lambda: model, LOSS, data(), SCHEDULES)


def test_a_shared_network_is_refused_unless_it_is_frozen():
    network = mlp()
    with pytest.raises(ValueError, match="make_model: it returned models that share parameters"):
        clrfast.sweep(lambda: nn.Sequential(network, nn.Linear(3, 3)), LOSS, data(), SCHEDULES)
    network.requires_grad_(False)
    found = clrfast.sweep(lambda: nn.Sequential(network, nn.Linear(3, 3)), LOSS, data(), SCHEDULES, vectorize=False)
    assert found.steps.tolist() == [STEPS] * len(SCHEDULES)


def test_a_sweep_preserves_the_random_states():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    clrfast.sweep(mlp, LOSS, [next(iter(data()))], SCHEDULES, vectorize=True)
    assert torch.equal(torch.get_rng_state(), before)
