"""Emulates CUDA graphs on the CPU: a capture records operations on tensors, a replay repeats them on the same memory.

It tests what surrounds a graph, the numbers included, without a GPU. Backend "torch" only, whose operations are all
torch's own.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from clrfast.optim import StepControl
from clrfast.optim import _capture as capture
from clrfast.training import _graph_cache as graphs

pools: list[object] = []
"""The memory pools of the captures in progress."""

Storages = dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]]


class Recording(TorchDispatchMode):
    """Records operations and undoes their writes afterwards: in a capture nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self._before: Storages = {}
        self.broken = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            if not _step_control_reads():
                self.broken = True
                raise RuntimeError("operation not permitted when stream is capturing")
            return func(*args, **kwargs)
        if func._schema.is_mutable or func is torch.ops.aten.native_batch_norm.default:  # whose schema hides it
            for tensor in tree_iter((args, kwargs)):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = func(*args, **kwargs)
        # Views and outputs of in-place operations keep the memory they had.
        outputs = [] if _aliases(func) else [out for out in tree_iter(result) if isinstance(out, torch.Tensor)]
        if func._schema.is_mutable or outputs:
            self.operations.append((func, args, kwargs, outputs))
        return result

    def undo(self) -> None:
        for storage, before in self._before.values():
            storage.copy_(before)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, outputs in self.operations:
                again = [out for out in tree_iter(func(*args, **kwargs)) if isinstance(out, torch.Tensor)]
                for out, new in zip(outputs, again, strict=False):
                    out.copy_(new)


def _step_control_reads() -> bool:
    """Return whether StepControl reads the number: on a CPU it may, because nothing waits there."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.endswith("control.py"):
        frame = frame.f_back
    return frame is not None


def _aliases(func: Any) -> bool:
    return any(returned.alias_info is not None for returned in func._schema.returns)


class CUDAGraph:
    last: CUDAGraph

    def __init__(self) -> None:
        CUDAGraph.last = self
        self.recording = Recording()
        self.replays = 0
        self.was_reset = False

    def replay(self) -> None:
        self.replays += 1
        self.recording.replay()

    def reset(self) -> None:
        self.was_reset = True


class Stream:
    """Records which stream waits for which; the work itself runs at once."""

    device = torch.device("cpu")
    current: Stream
    waits: ClassVar[list[tuple[Stream, Stream]]] = []

    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        Stream.waits.append((self, other))

    @contextlib.contextmanager
    def made_current(self):
        before, Stream.current = Stream.current, self
        try:
            yield
        finally:
            Stream.current = before


class Generator:
    """Stands in for the default generator of a device around a capture."""

    put_back = 0

    def clone_state(self):
        return torch.get_rng_state()

    def graphsafe_set_state(self, state):
        Generator.put_back += 1
        torch.set_rng_state(state)


def install(patch: pytest.MonkeyPatch) -> None:
    """Replace torch's graphs and streams by the emulation, and let the CPU count as a device with graphs."""
    capturing: list[bool] = []
    Stream.current = Stream()
    for noted in (pools, Stream.waits):
        noted.clear()
    Generator.put_back = 0

    @contextlib.contextmanager
    def graph(graph, pool=None, stream=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        assert isinstance(stream, Stream)
        assert stream is not Stream.current  # CUDA captures on no default stream
        random_state = torch.get_rng_state()
        before, Stream.current = Stream.current, stream
        pools.append(pool)
        capturing.append(True)
        try:
            with graph.recording:
                yield
        finally:
            capturing.pop()
            graph.recording.undo()
            if graph.recording.broken:  # torch restores nothing else then
                raise RuntimeError("operation failed due to a previous error during capture")
            torch.set_rng_state(random_state)
            pools.remove(pool)
            Stream.current = before

    advance = StepControl.advance

    def advance_unseen(self, *args, **kwargs):
        before = self.host_step
        advance(self, *args, **kwargs)
        if capturing:
            self.host_step = before

    patch.setattr(StepControl, "advance", advance_unseen)
    patch.setattr(capture, "is_capturing", lambda devices: bool(capturing))
    patch.setattr(graphs, "reason_against_graphs", lambda device: None)
    modes = ["default"]
    for name, value in {
        "CUDAGraph": CUDAGraph,
        "graph": graph,
        "Stream": Stream,
        "current_stream": lambda device=None: Stream.current,
        "set_stream": lambda stream: setattr(Stream, "current", stream),
        "stream": Stream.made_current,
        "device": lambda device: contextlib.nullcontext(),
        "graph_pool_handle": object,
        "default_generators": {None: Generator(), 0: Generator()},
        "get_sync_debug_mode": lambda: modes[-1],
        "set_sync_debug_mode": modes.append,
    }.items():
        patch.setattr(torch.cuda, name, value)
    for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):  # from torch 2.8 on, and before
        patch.setattr(torch._C, name, lambda device, pool: pools.remove(pool), raising=False)
