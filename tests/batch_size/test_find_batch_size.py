import contextlib
import gc
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler

import clrfast
from clrfast import BatchSizes, find_batch_size
from clrfast.batch_size import StepCost
from clrfast.batch_size import _find_batch_size as batch_size
from clrfast.batch_size import _memory_budget as memory
from tests.helpers.batch_sizes import holding, samples
from tests.helpers.state import full_state

pytestmark = pytest.mark.usefixtures("one_thread")


KIB = 1024


PER_SAMPLE = 64 * KIB
"""Bytes of each sample in tests of a budget. Everything else takes less than SLACK."""


SLACK = 32 * KIB


OUT_OF_MEMORY = {
    "torch": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
    "python": MemoryError,
    "cpu allocator": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you"
    ),
    "driver": lambda: RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"),
}


@pytest.fixture(autouse=True)
def _few_timed_steps(monkeypatch):
    monkeypatch.setattr(batch_size, "TIMED_SECONDS", 0.0)


class Noted(list):
    """A list that the search does not restore, unlike a plain list in a module."""


class Guarded(nn.Module):
    """A small network that calls ``at(size)`` before each forward pass."""

    def __init__(self, at=lambda size: None):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        self.at, self.sizes = at, Noted()

    def forward(self, x):
        if not self.sizes or self.sizes[-1] != len(x):
            self.sizes.append(len(x))
        self.at(len(x))
        return self.layers(x)


def failing_above(capacity, error):
    def at(size):
        if size > capacity:
            raise error()

    return at


def largest_on_grid(capacity):
    """The largest size up to ``capacity`` that is a power of two plus some eighths of it."""
    power = 2 ** (capacity.bit_length() - 1)
    step = max(1, power // 8)
    return capacity // step * step


@pytest.mark.parametrize(
    ("capacity", "kind"),
    [*((capacity, "torch") for capacity in (2, 3, 5, 15, 64, 127, 199, 299)), *((23, kind) for kind in OUT_OF_MEMORY)],
)
def test_the_largest_size_that_fits_is_found(capacity, kind):
    model = Guarded(failing_above(capacity, OUT_OF_MEMORY[kind]))
    found = find_batch_size(model, nn.CrossEntropyLoss(), samples(), memory=2**30)
    assert found.largest == largest_on_grid(capacity)
    assert found.limited_by == "memory"
    assert [cost.batch_size for cost in found.costs] == sorted({s for s in model.sizes if 1 < s <= capacity})
    assert len(model.sizes) == len(set(model.sizes)) <= 13, "each size once, all powers of two and three or four more"


def test_the_reason_names_the_smallest_size_that_failed():
    model = Guarded(failing_above(100, OUT_OF_MEMORY["torch"]))
    found = find_batch_size(model, nn.CrossEntropyLoss(), samples(), memory=2**30)
    assert found.largest == 96
    assert found.reason == "a batch of 104 does not fit: CUDA out of memory"


class Partial(torch.optim.Adam):
    """An optimizer that runs out of memory in an update when only some parameters have a state."""

    def step(self, closure=None):
        if self.too_much():
            self.state[self.param_groups[0]["params"][0]]["step"] = torch.tensor(1.0)
            raise OUT_OF_MEMORY["torch"]()
        return super().step(closure)


@pytest.mark.parametrize("where", ["backward", "update"])
def test_memory_may_run_out_anywhere_in_the_step(where):
    model = Guarded()
    optimizer = Partial(model.parameters(), lr=1e-3)
    optimizer.too_much = lambda: where == "update" and model.sizes[-1] > 20
    fail = failing_above(20, OUT_OF_MEMORY["torch"])

    def loss_fn(outputs, targets):
        if where == "backward":
            outputs.register_hook(lambda grad: fail(len(grad)))
        return nn.functional.cross_entropy(outputs, targets)

    before = full_state(model, optimizer)
    found = find_batch_size(model, loss_fn, samples(), optimizer=optimizer, memory=2**30)
    assert found.largest == 20
    assert model.sizes[-1] != 20, "a smaller size was measured after a larger one had failed"
    assert full_state(model, optimizer) == before


@pytest.mark.parametrize("optimizer", [None, "clrfast", "adam"])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_everything_is_restored(optimizer, error):
    model = Guarded()
    made = {
        None: lambda: None,
        "clrfast": lambda: clrfast.SGD(model.parameters(), momentum=0.9, schedule=clrfast.one_cycle(0.1, 10)),
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=1e-2),
    }[optimizer]()
    model(samples()[:][0]).sum().backward()
    if made is not None:
        made.step()
    model.eval()
    shown = made or torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(samples(), batch_size=2, shuffle=True, generator=generator)
    before, order = full_state(model, shown), generator.get_state()

    def at(size):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        failing_above(50, error or MemoryError)(size)

    model.at = at
    if error is None:
        assert find_batch_size(model, nn.CrossEntropyLoss(), loader, optimizer=made, memory=2**30).largest == 48
    else:
        with pytest.raises(error):
            find_batch_size(model, nn.CrossEntropyLoss(), loader, optimizer=made, memory=2**30)
    assert full_state(model, shown) == before
    assert torch.equal(generator.get_state(), order)


def test_nothing_of_a_failed_step_stays_alive():
    """Not even the local variables in the frames of an error that keeps itself alive."""
    alive, kept = [], []

    def at(size):
        activations = torch.zeros(size)
        alive.append(weakref.ref(activations))
        if size > 10:
            error = OUT_OF_MEMORY["torch"]()
            kept.append(error)
            raise error

    model = Guarded(at)
    collects = gc.isenabled()
    gc.disable()  # find_batch_size must not need it
    try:
        assert find_batch_size(model, nn.CrossEntropyLoss(), samples(), memory=2**30).largest == 10
        assert kept
        assert [ref() for ref in alive if ref() is not None] == []
    finally:
        if collects:
            gc.enable()


def test_memory_is_freed_before_the_model_is_restored(monkeypatch):
    """On a full device nothing could be restored."""
    alive, at_restore = [], []

    def at(size):
        activations = torch.zeros(size)
        loop = [activations]
        loop.append(loop)
        if size > 10:
            alive.append(weakref.ref(activations))
            raise MemoryError

    training = batch_size.Experiment.training

    @contextlib.contextmanager
    def watched(experiment):
        with training(experiment) as step:
            try:
                yield step
            finally:
                at_restore.append(sum(ref() is not None for ref in alive))

    monkeypatch.setattr(batch_size.Experiment, "training", watched)
    assert find_batch_size(Guarded(at), nn.CrossEntropyLoss(), samples(), memory=2**30).largest == 10
    assert alive
    assert not any(at_restore)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no")])
def test_other_errors_reach_the_user(error):
    def at(size):
        if size == 8:
            raise error

    with pytest.raises(type(error), match=str(error)):
        find_batch_size(Guarded(at), nn.CrossEntropyLoss(), samples(), memory=2**30)


@pytest.mark.parametrize("capacity", [1, 2, 7, 13, 40, 43, 64, 150])
def test_the_largest_size_within_the_budget_is_found(capacity):
    model, compute_loss, met = holding(lambda size: size * PER_SAMPLE)
    found = find_batch_size(
        model, dataset=samples(), compute_loss=compute_loss, memory=capacity * PER_SAMPLE + SLACK, optimizer=None
    )
    assert found.largest == max(met) == largest_on_grid(capacity), "no larger size was tried"
    assert found.limited_by == "memory"
    for cost in found.costs:
        assert cost.batch_size * PER_SAMPLE <= cost.peak_bytes <= cost.batch_size * PER_SAMPLE + SLACK


def test_the_reason_names_the_memory_that_the_next_size_would_take():
    model, compute_loss, _ = holding(lambda size: size * 1024 * KIB)
    found = find_batch_size(model, dataset=samples(), compute_loss=compute_loss, memory=3 * 1024 * KIB + SLACK)
    assert found.reason == "a batch of 4 would take about 4.0 MiB of 3.0 MiB"


@pytest.mark.parametrize(
    "n_bytes",
    [
        lambda size: size * size * KIB,  # like a loss over all pairs of samples
        lambda size: max(2 * 1024 * KIB, size * PER_SAMPLE),  # something else takes more at first
    ],
    ids=["square", "constant, then linear"],
)
def test_growth_that_is_not_linear_is_predicted(n_bytes):
    limit = 8 * 1024 * KIB
    model, compute_loss, met = holding(n_bytes)
    found = find_batch_size(model, dataset=samples(), compute_loss=compute_loss, memory=limit + SLACK)
    assert max(n_bytes(size) for size in met) <= limit
    capacity = max(size for size in range(1, 400) if n_bytes(size) <= limit)
    assert found.largest == largest_on_grid(capacity)


def test_a_prediction_passes_through_the_measurements():
    kept, seconds = 100, 1.0
    one, two, four = (StepCost(size, seconds, peak, kept) for size, peak in ((1, 110), (2, 130), (4, 200)))
    assert batch_size._predicted([one], 2) == 120, "a batch of 0 takes what is kept"
    assert batch_size._predicted([one, two], 4) == 200, "100 + 5 size + 5 size^2"
    assert batch_size._predicted([one, two, four], 8) == 460, "100 + 5 size + 5 size^2, as before"
    flatter = StepCost(4, seconds, 140, kept)
    assert batch_size._predicted([one, two, flatter], 8) == 160, "on the line where growth has slowed down"


def test_a_step_that_unexpectedly_exceeds_the_budget_is_interrupted():
    reached = []
    model, compute_loss, met = holding(lambda size: size * PER_SAMPLE * (100 if size > 12 else 1))

    def and_more(model, batch):
        loss = compute_loss(model, batch)
        reached.append(len(batch[0]))
        return loss

    found = find_batch_size(model, dataset=samples(), compute_loss=and_more, memory=100 * PER_SAMPLE)
    assert found.largest == max(reached) == 12
    assert max(met) == 16
    assert found.reason == "a batch of 13 does not fit: more than 6.2 MiB were taken"


@pytest.mark.parametrize("optimizer", [None, "adam"])
@pytest.mark.parametrize("scaled", [False, True])
def test_optimizer_state_is_in_memory_during_the_measured_step(optimizer, scaled):
    """From the start of the measured step, also if a scaler skips the first updates."""
    model, loss_fn = nn.Linear(4, 2), nn.CrossEntropyLoss()
    made = None if optimizer is None else torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127) if scaled else None
    found = find_batch_size(
        model,
        lambda outputs, targets: 1000 * loss_fn(outputs, targets),
        samples(),
        optimizer=made,
        scaler=scaler,
        memory=2**30,
        max_batch_size=4,
    )
    parameters, copies = 4 * 10, 2 if optimizer is None else 3  # gradient and momentum; two moments
    counters = 0 if optimizer is None else 2 * 4
    batch = 4 * (4 * 4 + 8)
    kept = found.costs[-1].kept_bytes
    assert copies * parameters + counters + batch <= kept <= copies * parameters + counters + batch + 64


def test_the_growth_of_the_process_counts_if_the_machine_is_the_limit(monkeypatch):
    """The limit is 80 % of the free memory."""
    held = [10**9]
    monkeypatch.setattr(memory, "available_memory", lambda: 50 * PER_SAMPLE + SLACK)
    monkeypatch.setattr(memory, "resident_memory", lambda: held[0])

    def at(size):
        held[0] = 10**9 + size * PER_SAMPLE  # something other than tensors

    model = Guarded(at)
    found = find_batch_size(model, nn.CrossEntropyLoss(), samples())
    assert found.largest == max(model.sizes) == 40
    assert found.costs[-1].peak_bytes == 40 * PER_SAMPLE
    assert find_batch_size(model, nn.CrossEntropyLoss(), samples(), memory=2**30).largest == 400


@pytest.mark.parametrize("how", ["budget", "error"])
def test_a_model_that_does_not_fit_at_all_is_an_error(how):
    model = Guarded(failing_above(0, MemoryError) if how == "error" else lambda size: None)
    with pytest.raises(ValueError, match=r"model: the smallest batch does not fit.*autocast"):
        find_batch_size(model, nn.CrossEntropyLoss(), samples(), memory=16 if how == "budget" else 2**30)


@pytest.mark.parametrize(
    ("n", "max_batch_size", "largest", "limited_by"),
    [(37, None, 37, "dataset"), (37, 64, 37, "dataset"), (100, 21, 21, "max_batch_size"), (3, 2, 2, "max_batch_size")],
)
def test_the_search_ends_at_the_dataset_or_max_batch_size(n, max_batch_size, largest, limited_by):
    found = find_batch_size(Guarded(), nn.CrossEntropyLoss(), samples(n), max_batch_size=max_batch_size, memory=2**30)
    assert (found.largest, found.limited_by) == (largest, limited_by)
    powers = [2**i for i in range(1, largest.bit_length())]
    assert [cost.batch_size for cost in found.costs] == sorted({*powers, largest})


def test_the_smallest_batch_has_one_sample_if_that_works():
    found = find_batch_size(nn.Linear(4, 2), nn.CrossEntropyLoss(), samples(1), memory=2**30)
    assert [cost.batch_size for cost in found.costs] == [1]
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        find_batch_size(Guarded(), nn.CrossEntropyLoss(), samples(1), memory=2**30)


class Numbered(Dataset):
    def __init__(self, n):
        self.n, self.given = n, []

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.given.append(index)
        return index


def test_samples_come_from_the_loaders_sampler_and_collate_fn():
    batches = []

    def compute_loss(model, batch):
        batches.append(sorted(batch["chosen"]))
        return model(batch["inputs"]).mean()

    samples, chosen = Numbered(50), range(10, 30)
    loader = DataLoader(
        samples,
        batch_size=7,
        sampler=SubsetRandomSampler(chosen),
        collate_fn=lambda picked: {"chosen": picked, "inputs": torch.ones(len(picked), 4)},
    )
    found = find_batch_size(nn.Linear(4, 1), dataset=loader, compute_loss=compute_loss, memory=2**30)
    assert found.largest == len(chosen)
    assert all(len(batch) == len(set(batch)) for batch in batches)
    assert batches[-1] == list(chosen)
    assert set(samples.given) == set(chosen)


def test_a_dataset_is_shuffled_once():
    """The first samples may be the shortest ones. A larger batch contains the samples of the smaller one."""
    batches = []

    def compute_loss(model, batch):
        batches.append(set(batch.tolist()))
        return model(batch[:, None].float()).mean()

    find_batch_size(nn.Linear(1, 1), dataset=Numbered(64), compute_loss=compute_loss, memory=2**30)
    smaller, larger = next(b for b in batches if len(b) == 16), next(b for b in batches if len(b) == 32)
    assert smaller < larger < set(range(64))
    assert smaller != set(range(16))


def test_the_fastest_has_the_most_samples_per_second(monkeypatch):
    seconds = {2: 1.0, 4: 1.5, 8: 2.0, 16: 8.0, 20: 9.0}
    monkeypatch.setattr(batch_size, "_timed", lambda step, batch: seconds[len(batch[0])])
    found = find_batch_size(Guarded(), nn.CrossEntropyLoss(), samples(20), memory=2**30)
    assert (found.largest, found.fastest) == (20, 8)
    assert [cost.samples_per_second for cost in found.costs] == [size / taken for size, taken in seconds.items()]


def test_print_shows_a_table_of_sizes():
    costs = (StepCost(1, 0.5, 3 * 2**20, 2**20), StepCost(2, 2.0, 2**30, 2**20))
    found = BatchSizes(2, 1, "dataset", "the whole dataset fits", costs)
    assert str(found).splitlines() == [
        "batch size  samples / s       ms        peak",
        "         1            2      500     3.0 MiB",
        "         2            1     2000     1.0 GiB",
        "largest: 2 (the whole dataset fits); fastest: 1",
    ]
    assert repr(found) == "BatchSizes(largest=2, fastest=1, limited_by='dataset', reason='the whole dataset fits')"


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": None}, "dataset: got NoneType"),
        ({"dataset": Endless()}, "dataset: got Endless.*__len__ and __getitem__"),
        ({"dataset": DataLoader(Endless())}, "dataset: got Endless"),
        ({"dataset": iter(samples())}, "dataset: got .*__getitem__"),
        ({"dataset": []}, "dataset: it is empty"),
        ({"dataset": DataLoader(samples(), batch_size=None)}, "dataset: got a DataLoader with batch_size=None"),
        ({"max_batch_size": 0}, "max_batch_size: got 0"),
        ({"max_batch_size": 2.5}, "max_batch_size: got 2.5"),
        ({"memory": 0}, "memory: got 0; give a whole number of bytes above 0"),
        ({"memory": float("nan")}, "memory: got nan"),
        ({"memory": True}, "memory: got True"),
        ({"model": "x"}, "model: got str"),
        ({"loss_fn": 3}, "loss_fn: got int"),
        ({"clip_norm": -1.0}, "clip_norm: got -1.0"),
    ],
)
def test_a_bad_argument_is_refused_by_name(changed, message):
    arguments = {"model": Guarded(), "loss_fn": nn.CrossEntropyLoss(), "dataset": samples(), "memory": 2**30}
    with pytest.raises(ValueError, match=message):
        find_batch_size(**{**arguments, **changed})


@pytest.mark.gpu
@pytest.mark.hardware
def test_the_largest_size_on_a_gpu_fits_its_memory():
    """The process may use a fraction of the device. Cached memory goes back to the device afterwards."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved()
    model, compute_loss, met = holding(lambda size: size * 64 * 1024 * KIB)
    torch.cuda.set_per_process_memory_fraction((reserved + 50 * 64 * 1024 * KIB) / total)
    try:
        found = find_batch_size(model, dataset=samples(), compute_loss=compute_loss)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 40 <= found.largest <= 48
    assert max(met) == 64
    assert "out of memory" in found.reason
    assert found.costs[-1].peak_bytes >= found.largest * 64 * 1024 * KIB
    assert torch.cuda.memory_reserved() <= reserved + 32 * 1024 * KIB
    limited = find_batch_size(model, dataset=samples(), compute_loss=compute_loss, memory=20 * 64 * 1024 * KIB + 2**20)
    assert limited.largest == 20
