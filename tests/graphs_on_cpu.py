"""CUDA graphs acted out on the CPU: a capture notes every operation on tensors, a replay does them again on the same
memory. What surrounds a graph can so be tested, numbers included, without a GPU; backend "torch" only, whose operations
are all torch's own."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from clrfast.graph import graphs
from clrfast.optim import StepControl, capture

Storages = dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]]


class Recording(TorchDispatchMode):
    """Notes operations, and lets none of them leave a mark: as in a capture, nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self._before: Storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            if not _control_asks():
                raise RuntimeError("operation not permitted when stream is capturing")
            return func(*args, **kwargs)
        if func._schema.is_mutable or func is torch.ops.aten.native_batch_norm.default:  # whose schema hides it
            for tensor in tree_iter((args, kwargs)):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = func(*args, **kwargs)
        # What is a view, or was written in place, has its memory from before.
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


def _control_asks() -> bool:
    """Whether it is StepControl that reads a number: on a CPU it may, for that is no wait."""
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

    def replay(self) -> None:
        self.replays += 1
        self.recording.replay()


class Stream:
    device = torch.device("cpu")

    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


class Generator:
    """The default generator of a device, around a capture."""

    def clone_state(self):
        return torch.get_rng_state()

    def graphsafe_set_state(self, state):
        torch.set_rng_state(state)


def install(patch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins in torch's place, and have the CPU count as a device with graphs."""
    capturing: list[bool] = []

    @contextlib.contextmanager
    def graph(graph, pool=None, stream=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        assert isinstance(stream, Stream)
        random_state = torch.get_rng_state()
        capturing.append(True)
        try:
            with graph.recording:
                yield
        finally:
            capturing.pop()
            graph.recording.undo()
            torch.set_rng_state(random_state)

    advance = StepControl.advance

    def advance_unseen(self, *args, **kwargs):
        before = self.host_step
        advance(self, *args, **kwargs)
        if capturing:
            self.host_step = before

    patch.setattr(StepControl, "advance", advance_unseen)
    patch.setattr(capture, "is_capturing", lambda devices: bool(capturing))
    patch.setattr(graphs, "why_no_graphs", lambda device: None)
    modes = ["default"]
    for name, value in {
        "CUDAGraph": CUDAGraph,
        "graph": graph,
        "Stream": Stream,
        "current_stream": Stream,
        "set_stream": lambda stream: None,
        "stream": lambda stream: contextlib.nullcontext(),
        "device": lambda device: contextlib.nullcontext(),
        "graph_pool_handle": lambda: "pool",
        "default_generators": {None: Generator()},
        "get_sync_debug_mode": lambda: modes[-1],
        "set_sync_debug_mode": modes.append,
    }.items():
        patch.setattr(torch.cuda, name, value)
