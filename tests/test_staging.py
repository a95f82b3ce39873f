"""prefetched: on the CPU its order of events, with stand-ins for streams; marked ``gpu`` the real copies."""

from __future__ import annotations

import contextlib
from collections import UserDict

import pytest
import torch

from clrfast.graph import prefetched, staging


def test_other_devices_get_the_batches_themselves():
    batches = [(torch.zeros(2), {"a": torch.ones(1)}), "anything"]
    assert [got is given for got, given in zip(prefetched(batches, "cpu"), batches, strict=True)] == [True, True]


@pytest.fixture
def events(monkeypatch):
    """What happens on the stand-ins for CUDA's streams and events, in order."""
    happened = []

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            assert self is current[0]
            assert other is not self
            happened.append("wait for the copy")

    class Event:
        made = 0

        def __init__(self):
            self.number = Event.made
            Event.made += 1

        def record(self, stream):
            assert stream is current[0]
            happened.append(f"batch {self.number} consumed")

        def synchronize(self):
            happened.append(f"host waits for batch {self.number}")

    @contextlib.contextmanager
    def on(stream):
        current.append(stream)
        yield
        current.pop()

    def pinned(tensor):
        happened.append("pin")
        return tensor

    def moved(batch, device):
        assert len(current) == 2  # aside
        happened.append("copy")
        return batch

    current = [Stream()]
    for name, value in {
        "Stream": Stream,
        "Event": Event,
        "current_stream": lambda device=None: current[-1],
        "stream": on,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(staging, "_pinned", pinned)
    monkeypatch.setattr(staging, "moved", moved)
    return happened


def test_the_host_is_at_most_two_batches_ahead(events):
    for _ in prefetched([torch.zeros(1)] * 4, "cuda"):
        events.append("step")
    step = ["pin", "copy", "wait for the copy", "step"]
    assert events == [
        *step,
        "batch 0 consumed",
        *step,
        "batch 1 consumed",
        "host waits for batch 0",
        *step,
        "batch 2 consumed",
        "host waits for batch 1",
        *step,
        "batch 3 consumed",
    ]


def test_no_batch_is_read_before_it_is_asked_for(events):
    source = iter([torch.tensor(float(i)) for i in range(5)])
    taken = [float(batch) for _, batch in zip(range(2), prefetched(source, "cuda"), strict=False)]
    assert taken == [0.0, 1.0]
    assert float(next(source)) == 2.0


class Encoding(UserDict):
    """A batch as tokenisers give them."""

    def to(self, device):
        return self


@pytest.mark.parametrize("batch", [Encoding, lambda values: [Encoding(values), 1], dict, lambda values: (values,)])
def test_the_memory_of_every_tensor_is_kept_for_the_consumer(events, batch):
    recorded, current = [], torch.cuda.current_stream()

    class OnDevice(torch.Tensor):
        device = torch.device("cuda")

        def record_stream(self, stream):
            recorded.append((self, stream))

    tensors = [torch.zeros(2).as_subclass(OnDevice) for _ in range(2)]
    for _ in prefetched([batch({"a": tensors[0], "b": {"c": tensors[1]}})], "cuda"):
        assert [(id(tensor), stream) for tensor, stream in recorded] == [(id(tensor), current) for tensor in tensors]


@pytest.mark.gpu
def test_tensors_that_cannot_be_pinned_arrive():
    expanded = torch.arange(3.0, device="cpu").expand(4, 3)
    sparse = torch.eye(3, device="cpu").to_sparse()
    for a, b in prefetched([(expanded, sparse)], "cuda"):
        assert torch.equal(a.cpu(), expanded)
        assert torch.equal(b.cpu().to_dense(), sparse.to_dense())


def test_errors_of_the_loader_pass(events):
    def loader():
        yield torch.zeros(1)
        raise OSError("disk")

    got = prefetched(loader(), "cuda")
    next(got)
    with pytest.raises(OSError, match="disk"):
        next(got)


@pytest.mark.gpu
def test_batches_arrive_as_they_were():
    generator = torch.Generator("cpu").manual_seed(0)
    batches = [
        {"x": torch.randn(257, 33, generator=generator, device="cpu"), "y": (torch.tensor(i, device="cpu"), "kept")}
        for i in range(20)
    ]
    kept = []
    for batch in prefetched(batches, "cuda"):
        torch.cuda._sleep(1 << 22)  # the host runs ahead of a slow consumer
        kept.append((batch["x"] * 1, batch["y"]))
    for (x, (y, text)), batch in zip(kept, batches, strict=True):
        assert x.is_cuda
        assert y.is_cuda
        assert text == "kept"
        assert torch.equal(x.cpu(), batch["x"])
        assert int(y) == int(batch["y"][0])
