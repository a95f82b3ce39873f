"""The order of a loader's next batches is restored, wherever the loader keeps it."""

import random
from collections import deque
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Subset, TensorDataset

import clrfast
from clrfast.training._loader_order import MAX_ITEMS
from clrfast.training._preservation import preserve_rng_and_loaders


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def shuffled(seed=3):
    return DataLoader(TensorDataset(torch.arange(10)), batch_size=2, shuffle=True, generator=generator(seed))


class Holding:
    """A loader that iterates ``batches(held)``."""

    def __init__(self, held, batches):
        self.held, self.batches = held, batches

    def __iter__(self):
        return iter(self.batches(self.held))


class InSlots:
    __slots__ = ("empty", "loader")

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


class Permuted(IterableDataset):
    """A dataset that shuffles itself with a generator of any kind."""

    def __init__(self, permutation, *held):
        self.permutation, self.held = permutation, held

    def __iter__(self):
        return iter(list(self.permutation()))


class Noisy(Dataset):
    """A dataset that adds noise to its samples."""

    def __init__(self):
        self.transform = partial(self.with_noise, generator=generator())

    def with_noise(self, value, generator):
        return value + torch.rand((), generator=generator)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.transform(float(index))


class Randomized:
    """A loader that replaces its generator at every pass, as fastai's do."""

    def __init__(self):
        self.rng = random.Random(3)

    def randomize(self):
        self.rng = random.Random(self.rng.randint(0, 2**32 - 1))

    def __iter__(self):
        self.randomize()
        order = self.rng.sample(range(10), 10)
        return zip(order[::2], order[1::2], strict=True)


def permuted(random, permutation):
    return DataLoader(Permuted(partial(permutation, random)), batch_size=2)


def in_a_class():
    class Loader:
        loader = shuffled()

        def __iter__(self):
            return iter(self.loader)

    return Loader()


def enclosed():
    inner = shuffled()

    class Loader:
        def __iter__(self):
            return iter(inner)

    return Loader()


def in_a_cycle():
    loader = Holding(shuffled(), lambda held: held)
    loader.itself = [loader]
    return loader


def beside_large_containers():
    loader = Holding(shuffled(), lambda held: held)
    loader.samples = [object() for _ in range(20_000)]
    return Holding({"samples": list(range(20_000)), "loader": loader}, lambda held: held["loader"])


LOADERS = {
    "the loader's": shuffled,
    "a sampler's": lambda: DataLoader(range(10), 2, sampler=RandomSampler(range(10), generator=generator())),
    "in a list": lambda: Holding([shuffled(1), shuffled(2)], lambda held: zip(*held, strict=True)),
    "in a dict": lambda: Holding({"a": shuffled(1), "b": deque([shuffled(2)])}, lambda held: held["b"][0]),
    "wrapped twice": lambda: Holding(Holding(shuffled(), lambda held: held), lambda held: held),
    "in slots": lambda: InSlots(shuffled()),
    "in a class": in_a_class,
    "enclosed by a function": enclosed,
    "in a cycle": in_a_cycle,
    "beside large containers": beside_large_containers,
    "a data set's": lambda: DataLoader(Noisy(), 2),
    "a data set's in another": lambda: DataLoader(Subset(Noisy(), [4, 2, 0]), 2),
    "NumPy's": lambda: permuted(np.random.default_rng(3), lambda g: g.permutation(10)),
    "NumPy's older one": lambda: permuted(np.random.RandomState(3), lambda g: g.permutation(10)),
    "replaced at every pass": Randomized,
    "Python's": lambda: permuted(random.Random(3), lambda g: g.sample(range(10), 10)),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_the_next_batches_are_the_same_as_without_the_block(make):
    def passes(loader, n):
        return [str(batch) for _ in range(n) for batch in loader]

    loader, other = make(), make()
    passes(loader, 1), passes(other, 1)
    with preserve_rng_and_loaders(loader):
        inside = passes(loader, 2)
        assert len(set(inside)) > len(inside) // 2  # the order differs from pass to pass
    assert passes(loader, 2) == passes(other, 2) == inside


def test_a_generator_is_restored_for_all_its_holders():
    mine = generator()
    before = mine.get_state()
    with preserve_rng_and_loaders(Holding([mine], lambda held: held)):
        torch.rand(3, generator=mine)
    assert torch.equal(mine.get_state(), before)


def test_properties_are_not_called():
    class Loader(Holding):
        @property
        def __class__(self):
            raise AssertionError

        @property
        def length(self):
            raise AssertionError

    loader = Loader(shuffled(), lambda held: held)
    before = loader.held.generator.get_state()
    with preserve_rng_and_loaders(loader):
        list(loader)
    assert torch.equal(loader.held.generator.get_state(), before)


def test_samples_are_not_searched():
    """The content of large containers is not restored, and takes no time."""
    mine = generator()
    with preserve_rng_and_loaders(Holding([mine] * (MAX_ITEMS + 1), lambda held: held)):
        torch.rand(3, generator=mine)
    assert not torch.equal(mine.get_state(), generator().get_state())


def test_the_counters_of_a_custom_loader_are_not_restored():
    class Counting:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(range(3))

    loader = Counting()
    with preserve_rng_and_loaders(loader):
        list(loader)
    assert loader.passes == 1


# ------------------------------------------------------------ Accelerate's loaders


class GradientState:
    """The state that all loaders share: those that are being iterated."""

    shared: dict = {}  # noqa: RUF012

    def __init__(self):
        self.__dict__ = self.shared
        self.__dict__.setdefault("references", [None])

    def _add_dataloader(self, loader):
        self.references.append(loader)

    def _remove_dataloader(self, loader):
        self.references.remove(loader)


class SeedableRandomSampler(RandomSampler):
    """A sampler with another seed in each epoch."""

    def __init__(self, data):
        super().__init__(data)
        self.initial_seed, self.epoch = 5, 0

    def __iter__(self):
        if self.generator is None:
            self.generator = torch.Generator()
        self.generator.manual_seed(self.initial_seed + self.epoch)
        yield from super().__iter__()
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch):
        self.epoch = epoch


class DataLoaderShard:
    """Has the structure of Accelerate's wrapper, which reports the class of the wrapped loader as its own."""

    end_of_dataloader, remainder = False, -1

    def __init__(self, loader, synchronized_generator=None):
        self.base_dataloader, self.synchronized_generator = loader, synchronized_generator
        self.gradient_state, self.iteration, self.skip_batches = GradientState(), 0, 0

    def __getattr__(self, name):
        if name == "base_dataloader":
            raise AttributeError
        return getattr(self.base_dataloader, name)

    @property
    def __class__(self):
        return self.base_dataloader.__class__

    def __len__(self):
        return len(self.base_dataloader)

    def set_epoch(self, epoch):
        if hasattr(self.batch_sampler.sampler, "set_epoch"):
            self.batch_sampler.sampler.set_epoch(epoch)

    def __iter__(self):
        self.end_of_dataloader, self.remainder = False, len(self.dataset) % self.batch_size
        self.gradient_state._add_dataloader(self)
        self.set_epoch(self.iteration)
        for index, batch in enumerate(self.base_dataloader):
            if index >= self.skip_batches:
                self.end_of_dataloader = index == len(self) - 1
                yield batch
        self.iteration += 1
        self.gradient_state._remove_dataloader(self)


def data():
    torch.manual_seed(1)
    return TensorDataset(torch.randn(50, 4), torch.randn(50, 1))


def with_a_generator():
    synchronized, samples = generator(), data()
    loader = DataLoader(samples, 8, sampler=RandomSampler(samples, generator=synchronized))
    return DataLoaderShard(loader, synchronized)


def with_seeded_epochs():
    samples = data()
    return DataLoaderShard(DataLoader(samples, 8, sampler=SeedableRandomSampler(samples)))


@pytest.mark.parametrize("make", [with_a_generator, with_seeded_epochs])
@pytest.mark.parametrize("steps", [5, 15])  # in the first pass, and in a later one
def test_loaders_of_accelerate_are_restored(make, steps):
    def training(find):
        GradientState.shared.clear()
        loader = make()
        list(loader)
        if find:
            clrfast.range_test(nn.Linear(4, 1), nn.MSELoss(), loader, steps=steps, min_lr=1e-4, max_lr=1e-2)
        state = (loader.iteration, loader.end_of_dataloader, loader.remainder, loader.gradient_state.references.copy())
        return state, [inputs.tolist() for _ in range(2) for inputs, _ in loader]

    assert training(find=True) == training(find=False)


def test_loaders_of_the_installed_accelerate_are_restored():
    accelerate = pytest.importorskip("accelerate")

    def training(find):
        torch.manual_seed(0)
        loader = accelerate.Accelerator(cpu=True).prepare(DataLoader(data(), 8, shuffle=True, generator=generator()))
        if find:
            clrfast.range_test(nn.Linear(4, 1), nn.MSELoss(), loader, steps=15, min_lr=1e-4, max_lr=1e-2)
        state = loader.iteration, loader.gradient_state.in_dataloader
        return state, [inputs.tolist() for _ in range(2) for inputs, _ in loader]

    assert training(find=True) == training(find=False)
