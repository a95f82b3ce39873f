"""The order of events in ``prefetch``, with emulated streams; and, marked ``gpu``, the real copies."""

from __future__ import annotations

import contextlib
from collections import UserDict
from typing import ClassVar

import pytest
import torch

from clrfast.training import _prefetch as staging
from clrfast.training import prefetch


def test_other_devices_get_the_same_batches():
    batches = [(torch.zeros(2), {"a": torch.ones(1)}), "anything"]
    assert [got is given for got, given in zip(prefetch(batches, "cpu"), batches, strict=True)] == [True, True]


@pytest.fixture
def events(monkeypatch):
    """Replace CUDA's streams and events, and return the list of what happens on them, in order."""
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
        assert len(current) == 2  # on the copying stream
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
    monkeypatch.setattr(staging, "_pin", pinned)
    monkeypatch.setattr(staging, "move_batch", moved)
    return happened


def test_the_host_is_at_most_two_batches_ahead(events):
    for _ in prefetch([torch.zeros(1)] * 4, "cuda"):
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
    taken = [float(batch) for _, batch in zip(range(2), prefetch(source, "cuda"), strict=False)]
    assert taken == [0.0, 1.0]
    assert float(next(source)) == 2.0


class OnDevice(torch.Tensor):
    """A tensor that claims to be on a CUDA device and notes calls of ``record_stream``."""

    device = torch.device("cuda")
    recorded: ClassVar[list[tuple[torch.Tensor, object]]] = []

    def record_stream(self, stream):
        self.recorded.append((self, stream))


@pytest.fixture
def recorded():
    OnDevice.recorded.clear()
    return OnDevice.recorded


class Encoding(UserDict):
    """A batch of the kind that tokenizers return."""

    def to(self, device):
        return self


@pytest.mark.parametrize("batch", [Encoding, lambda values: [Encoding(values), 1], dict, lambda values: (values,)])
def test_the_memory_of_every_tensor_is_recorded_on_the_consumers_stream(events, recorded, batch):
    current = torch.cuda.current_stream()
    tensors = [torch.zeros(2).as_subclass(OnDevice) for _ in range(2)]
    for _ in prefetch([batch({"a": tensors[0], "b": {"c": tensors[1]}})], "cuda"):
        assert [(id(tensor), stream) for tensor, stream in recorded] == [(id(tensor), current) for tensor in tensors]


SPARSE = {
    "coo": (torch.Tensor.to_sparse, ("_indices", "_values")),
    "csr": (torch.Tensor.to_sparse_csr, ("crow_indices", "col_indices", "values")),
    "csc": (torch.Tensor.to_sparse_csc, ("ccol_indices", "row_indices", "values")),
    "bsr": (lambda dense: dense.to_sparse_bsr((2, 2)), ("crow_indices", "col_indices", "values")),
    "bsc": (lambda dense: dense.to_sparse_bsc((2, 2)), ("ccol_indices", "row_indices", "values")),
}
sparse_layouts = pytest.mark.parametrize("layout", SPARSE)
beta = pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")


@beta
@sparse_layouts
def test_the_parts_of_a_sparse_tensor_are_recorded(events, recorded, layout):
    make, parts = SPARSE[layout]
    sparse = make(torch.eye(4))
    held = {name: getattr(sparse, name)().as_subclass(OnDevice) for name in parts}

    def no_kernel(self, stream):
        raise NotImplementedError("Could not run 'aten::record_stream' with arguments from the 'SparseCUDA' backend")

    own = {name: lambda self, part=part: part for name, part in held.items()}
    stand_in = type("Sparse", (OnDevice,), {"layout": sparse.layout, "record_stream": no_kernel, **own})
    for _ in prefetch([torch.zeros(1).as_subclass(stand_in)], "cuda"):
        assert [id(tensor) for tensor, _ in recorded] == [id(part) for part in held.values()]


@pytest.mark.gpu
def test_an_expanded_tensor_arrives():
    """An expanded tensor cannot be pinned."""
    expanded = torch.arange(3.0, device="cpu").expand(4, 3)
    for arrived in prefetch([expanded], "cuda"):
        assert torch.equal(arrived.cpu(), expanded)


@beta
@pytest.mark.gpu
@pytest.mark.hardware
@sparse_layouts
def test_a_sparse_tensor_arrives(layout):
    sparse = SPARSE[layout][0](torch.eye(4, device="cpu"))
    for arrived in prefetch([sparse], "cuda"):
        assert arrived.is_cuda
        assert torch.equal(arrived.cpu().to_dense(), sparse.to_dense())


def test_an_error_of_the_loader_is_raised(events):
    def loader():
        yield torch.zeros(1)
        raise OSError("disk")

    got = prefetch(loader(), "cuda")
    next(got)
    with pytest.raises(OSError, match="disk"):
        next(got)


@pytest.mark.gpu
def test_batches_arrive_unchanged():
    generator = torch.Generator("cpu").manual_seed(0)
    batches = [
        {"x": torch.randn(257, 33, generator=generator, device="cpu"), "y": (torch.tensor(i, device="cpu"), "kept")}
        for i in range(20)
    ]
    kept = []
    for batch in prefetch(batches, "cuda"):
        torch.cuda._sleep(1 << 22)  # the host runs ahead of a slow consumer
        kept.append((batch["x"] * 1, batch["y"]))
    for (x, (y, text)), batch in zip(kept, batches, strict=True):
        assert x.is_cuda
        assert y.is_cuda
        assert text == "kept"
        assert torch.equal(x.cpu(), batch["x"])
        assert int(y) == int(batch["y"][0])
