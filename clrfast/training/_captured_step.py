"""A step of the user's own as one CUDA graph, with lr, momentum and weight decay alive in the replay."""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .._torch_compat import end_allocation, tree_map_only
from ..optim import SGD
from ..optim._parameters import devices_of
from ._fingerprint import Fingerprint


class Graph:
    """What ``function`` has the device do, captured now and repeated by ``replay``.

    Args:
        function: works on tensors that stay where they are; it is called once, and nothing runs then.
        stream: to capture on.
        pool: memory of other graphs that are never replayed at the same time, ``torch.cuda.graph_pool_handle()``; None
            for memory of its own.

    Attributes:
        result: what ``function`` returned, detached; its tensors are written anew by every replay.
    """

    def __init__(self, function: Callable[[], Any], stream: torch.cuda.Stream, pool: Any = None):
        self._graph = torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle() if pool is None else pool
        # thread_local: other threads, such as NCCL's watchdog, may go on using CUDA meanwhile.
        capturing = torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        with torch.cuda.device(stream.device), _undone_on_failure(self._graph, stream.device, pool), capturing:
            # Detached, for autograd's graph would tie later eager steps to the stream of the capture.
            self.result = tree_map_only(Tensor, Tensor.detach, function())

    def replay(self) -> Any:
        """Have the device do it once more; returns ``result`` without waiting."""
        self._graph.replay()
        return self.result


class CapturedStep:
    """One training step, captured now and repeated by ``replay`` in a single launch.

    ``TrainStep`` does this by itself for an ordinary step; this is for steps of another kind.

    Args:
        step: does zero_grad, forward, backward and ``optimizer.step(loss=loss)`` on tensors that stay where they are
            (copy each batch into them before ``replay``).
        optimizer: what ``step`` calls; on CUDA devices. Gradients of before are dropped, missing state is made.
        warm_up: does forward and backward once, without the update; it is run before the capture, because libraries
            make their workspaces at their first use, which a capture forbids. Buffers that a forward pass changes,
            such as the statistics of batch normalisation, see it. None: the caller has done so, on another stream.
        stream, pool: as of ``Graph``; None for the stream of all captures.

    Attributes:
        result: what ``step`` returned, detached; its tensors are written anew by every replay.

    The schedule moves on in the replay, because it lies on the device; without one, lr, momentum and weight decay are
    captured as the numbers that they are now (a rate that is a tensor on the device is read at every replay).
    Parameters and batch must stay where they are: a model that was moved has to be captured again.

    Raises:
        RuntimeError: the step cannot be captured, for example because a trainable parameter gets no gradient in it.
            The current stream and the random numbers are then as before.
    """

    def __init__(
        self,
        step: Callable[[], Any],
        optimizer: SGD,
        *,
        warm_up: Callable[[], object] | None = None,
        stream: torch.cuda.Stream | None = None,
        pool: Any = None,
    ):
        if stream is None:
            stream = capture_stream(devices_of(optimizer.param_groups)[0])
        if warm_up is not None:
            run_on_stream(warm_up, stream)
        optimizer.zero_grad(set_to_none=True)  # gradients of before would lie outside of the graph's own memory
        optimizer.init_state()
        self._optimizer = weakref.ref(optimizer)
        # Memory that the graph works on, whatever the optimizer is given meanwhile.
        self._alive = [*optimizer.state_tensors(), *_tensors(optimizer.param_groups)]
        self._taken, self._places = _taken(optimizer), _state_places(optimizer)
        self._snapshot_state(optimizer)
        self._graph = Graph(step, stream, pool)
        self.result = self._graph.result

    def replay(self) -> Any:
        """Do the step once more; returns ``result`` without waiting for the device.

        Raises:
            RuntimeError: the optimizer is gone, or has loaded a state, or got another schedule, parameter group or
                option since the capture: a replay would update what nobody reads, or by what does not hold any more.
        """
        optimizer = self._optimizer()
        if optimizer is None:
            raise RuntimeError(
                "the optimizer of this captured step is gone; keep it for as long as the step is replayed"
            )
        what = self._what_changed(optimizer)
        if what is not None:
            raise RuntimeError(
                f"optimizer: it {what} since this step was captured; capture it again (TrainStep: call reset())"
            )
        self._graph.replay()
        optimizer.count_replay()
        return self.result

    def _what_changed(self, optimizer: SGD) -> str | None:
        """What to say of a change since the capture; None if there was none."""
        taken = _taken(optimizer)
        if taken != self._taken:
            return next(name for name, value in taken.items() if value != self._taken[name])
        same = optimizer.state is self._state and optimizer.first_updates.flags is self._flags
        if not same or not self._snapshot.holds():
            if _state_places(optimizer) != self._places:
                return "has got other momentum buffers"
            self._snapshot_state(optimizer)
        return None

    def _snapshot_state(self, optimizer: SGD) -> None:
        self._state, self._flags = optimizer.state, optimizer.first_updates.flags
        self._snapshot = Fingerprint(dicts=[self._state, *self._state.values(), self._flags])


def _taken(optimizer: SGD) -> dict[str, Any]:
    """What a capture takes from ``optimizer`` for good, by what to say where it has changed; the narrowest first. Its
    state is compared after that."""
    options = (
        "has got another option in a parameter group (rates that change belong into a schedule) or divergence watch"
    )
    return {
        "has got or lost a parameter group": len(optimizer.param_groups),
        "has got another schedule": optimizer.control,
        options: optimizer.captured_values(),
        "has loaded a state, or its parameters were moved": optimizer.generation,
    }


def _state_places(optimizer: SGD) -> list[tuple[int, int]]:
    """The tensors of the optimizer's state, and where they lie."""
    return [(id(tensor), tensor.data_ptr()) for tensor in optimizer.state_tensors()]


def _tensors(dicts: Iterable[dict[str, Any]]) -> list[Tensor]:
    return [value for values in dicts for value in values.values() if isinstance(value, Tensor)]


@contextlib.contextmanager
def _undone_on_failure(graph: torch.cuda.CUDAGraph, device: torch.device, pool: Any) -> Iterator[None]:
    """A block around a capture; where it fails, the device's stream, generator and allocator are usable again.

    A capture that CUDA has broken off cannot be ended. torch then leaves its stream current, the generator waiting for
    the end (pytorch#171263), and the allocator too (pytorch#180395): memory with ``record_stream`` is never used again.
    """
    current = torch.cuda.current_stream(device)
    generator = torch.cuda.default_generators[device.index]
    before = generator.clone_state()
    try:
        yield
    except BaseException as error:
        # Ended in order, the capture has left nothing behind; another state would part the generator from its graphs.
        if torch.cuda.current_stream(device) == current:
            raise
        torch.cuda.set_stream(current)
        graph.reset()
        generator.graphsafe_set_state(before)
        with contextlib.suppress(RuntimeError, AttributeError):  # newer versions of torch have done so
            end_allocation(device.index, pool)
        # That the capture could not be ended tells less than what broke it.
        raise error.__context__ or error  # noqa: B904 - that is the cause


def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Where this thread warms up and captures on ``device``; one stream, for libraries keep a workspace of every stream
    that they have seen, tens of megabytes for good."""
    return _stream_of(device, threading.get_ident())


@functools.cache
def _stream_of(device: torch.device, thread: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def run_on_stream(function: Callable[[], Any], stream: torch.cuda.Stream) -> Any:
    """Run ``function`` on ``stream``, in order with the current one, as work before a capture has to be."""
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            return function()
    finally:  # where it raised, too: what it has launched still writes to the model
        current.wait_stream(stream)
