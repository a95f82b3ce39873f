from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from clrfast._distributed import SINGLE_PROCESS
from clrfast.finder import _trial_batches as module
from clrfast.finder._bad_batches import BadBatches
from clrfast.finder._trial_batches import TrialBatches
from clrfast.training._batches import cycle_loader


def numbered(n_batches, batch_size=64):
    """Batches of which all values are the number of the batch."""
    return [torch.full((batch_size, 2), float(number)) for number in range(n_batches)]


def split(loader, n_needed=10):
    return TrialBatches(cycle_loader(loader), loader, n_needed, BadBatches(), SINGLE_PROCESS)


def numbers(batches, n=None):
    return [int(batch[0, 0]) for batch in islice(batches, n)]


def test_the_next_batches_of_a_large_data_set_are_the_probes_and_those_after_them_train_every_trial():
    found = split(numbered(100))
    assert numbers(found.probes) == list(range(8))  # 512 samples
    assert numbers(found, 10) == numbers(found, 10) == list(range(8, 18))


def test_a_longer_trial_continues_where_the_kept_batches_end():
    found = split(numbered(100))
    assert numbers(found, 3) == [8, 9, 10]
    assert numbers(found, 5) == [8, 9, 10, 11, 12]


def test_what_exceeds_the_memory_is_not_kept(monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 2 * 64 * 2 * 4)
    found = split(numbered(100))
    assert numbers(found, 4) == [8, 9, 10, 11]
    assert numbers(found, 4) == [8, 9, 12, 13]


def test_a_trial_cycles_through_what_a_small_data_set_has_besides_its_probes():
    found = split(numbered(11))
    assert numbers(found.probes) == [0, 1]  # at most a fifth
    assert numbers(found, 12) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 2, 3, 4]
    assert numbers(found.training, 12) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 2, 3, 4]


def test_a_small_data_set_that_exceeds_the_memory_continues_with_new_batches(monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 2 * 64 * 2 * 4)
    found = split(numbered(11))
    assert numbers(found, 2) == [2, 3]
    assert len(numbers(found, 30)) == 30


@pytest.mark.parametrize("n_batches", [1, 2, 3, 4])
def test_a_data_set_of_few_batches_has_one_probe(n_batches):
    found = split(numbered(n_batches))
    assert numbers(found.probes) == [0]
    assert set(numbers(found, 5)) == (set(range(1, n_batches)) or {0})


@pytest.mark.parametrize(("batch_size", "n_probes"), [(1, 16), (32, 16), (100, 6), (512, 3), (4096, 3)])
def test_512_samples_are_probes_but_3_to_16_batches(batch_size, n_probes):
    assert len(split(numbered(200, batch_size)).probes) == n_probes


def test_batches_are_copied_because_a_loader_may_write_the_next_one_into_the_same_memory():
    class Reused:
        memory = torch.zeros(64, 2)

        def __iter__(self):
            for number in range(100):
                yield self.memory.fill_(number)

    found = split(Reused())
    assert numbers(found.probes) == list(range(8))
    first = numbers(found, 5)
    assert numbers(found, 5) == first == list(range(8, 13))


def test_a_loader_without_a_length_counts_as_large():
    class Endless:
        def __iter__(self):
            return iter(numbered(1000))

    assert numbers(split(Endless()), 2) == [8, 9]


def test_no_sample_of_a_shuffled_small_data_set_is_both_probe_and_training_data():
    data = TensorDataset(torch.arange(96.0).repeat(2, 1).T)
    loader = DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(0))
    found = split(loader, 50)
    probes = {float(x) for (batch,) in found.probes for x in batch[:, 0]}
    trained = {float(x) for (batch,) in islice(found, 40) for x in batch[:, 0]}
    assert probes.isdisjoint(trained)
    assert len(probes | trained) == 96
