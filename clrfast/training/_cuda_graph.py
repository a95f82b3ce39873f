"""One CUDA graph: the capture of a function, its replay, and the stream for both."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .._torch_compat import end_allocation, tree_map_only


class Graph:
    """The device work of a function, captured once and repeated by ``replay``.

    Args:
        function: works on tensors whose memory stays in place. The capture calls it once and runs nothing.
        stream: stream of the capture.
        pool: ``torch.cuda.graph_pool_handle()`` of graphs that are never replayed at the same time as this one; None
            for memory of its own.

    Attributes:
        result: what ``function`` returned, detached. Every replay overwrites its tensors.
    """

    def __init__(self, function: Callable[[], Any], stream: torch.cuda.Stream, pool: Any = None):
        self._graph = torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle() if pool is None else pool
        # thread_local: other threads, such as NCCL's watchdog, may use CUDA during the capture.
        capturing = torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        with torch.cuda.device(stream.device), _undo_broken_capture(self._graph, stream.device, pool), capturing:
            # Detached, because autograd's graph would tie later eager steps to the stream of the capture.
            self.result = tree_map_only(Tensor, Tensor.detach, function())

    def replay(self) -> Any:
        """Launch the graph and return ``result``; the host does not wait."""
        self._graph.replay()
        return self.result


def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which this thread warms up and captures on ``device``.

    There is one for all captures, because libraries allocate a workspace of tens of megabytes for every stream that
    they see, and never free it.
    """
    return _stream_of(device, threading.get_ident())


def run_on_stream(function: Callable[[], Any], stream: torch.cuda.Stream) -> Any:
    """Call ``function`` on ``stream``, after the work of the current stream and before its next work.

    CUDA requires this of the warm-up before a capture.
    """
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            return function()
    finally:  # also after an exception: what was launched still writes to the model
        current.wait_stream(stream)


@functools.cache
def _stream_of(device: torch.device, thread: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextlib.contextmanager
def _undo_broken_capture(graph: torch.cuda.CUDAGraph, device: torch.device, pool: Any) -> Iterator[None]:
    """Run a capture; if CUDA aborts it, make the device's stream, generator and allocator usable again.

    An aborted capture cannot be ended. torch then leaves the capture's stream current, and the generator
    (pytorch#171263) and the allocator (pytorch#180395) in capture mode, in which memory with ``record_stream`` is never
    reused.
    """
    current = torch.cuda.current_stream(device)
    generator = torch.cuda.default_generators[device.index]
    before = generator.clone_state()
    try:
        yield
    except BaseException as error:
        # A capture that ended normally leaves nothing behind; another state would detach the generator from its graphs.
        if torch.cuda.current_stream(device) == current:
            raise
        torch.cuda.set_stream(current)
        graph.reset()
        generator.graphsafe_set_state(before)
        with contextlib.suppress(RuntimeError, AttributeError):  # newer versions of torch have done so already
            end_allocation(device.index, pool)
        # The context is what broke the capture; `error` only says that it could not be ended.
        raise error.__context__ or error  # noqa: B904
