"""Calls of a function as replays of CUDA graphs, one graph for each kind of its arguments."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .._torch_compat import tree_flatten, tree_map_only, tree_unflatten
from ._captured_step import Graph, capture_stream, run_on_stream

MAX_GRAPHS = 4
"""Kinds of arguments that get a graph: full batches and the last one of an epoch, in train and in eval mode."""

WARM_UP_CALLS = 2
"""Calls of a kind that run eagerly: the first may load and tune libraries, the last is watched for waits."""

PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
"""Values that a graph may take for good: with other ones the arguments are of another kind."""


def reason_against_graphs(device: torch.device) -> str | None:
    """Why nothing can be captured on ``device``; None if it can."""
    return None if device.type == "cuda" else f"the model is on {device}, and only CUDA devices have graphs"


class Replayable(Protocol):
    """A ``Graph``, or what stands around one."""

    def replay(self) -> Any: ...


Capture = Callable[[Callable[[], Any], torch.cuda.Stream, Any], Replayable]


class GraphCache:
    """Calls of a function as CUDA graphs, where that can be.

    The first calls with arguments of a kind (their shapes, dtypes and plain values) run eagerly, on the stream of the
    capture; the next is captured, and from then on a call copies its tensors into the graph's memory and replays it.

    Args:
        device: a CUDA device.
        max_graphs: kinds that are captured; arguments of further ones run eagerly.

    Attributes:
        eager_reason: one sentence on why the last call ran eagerly; None if it was replayed.
        impossible: why all further calls run eagerly; None if they need not.
    """

    def __init__(self, device: torch.device, max_graphs: int = MAX_GRAPHS):
        self._device, self._max_graphs = device, max_graphs
        self._stream = capture_stream(device)
        # Of all graphs together: they are never replayed at once, and results are copied out before the next replay.
        self._pool = torch.cuda.graph_pool_handle()
        self._kinds: list[_Kind] = []
        self.eager_reason: str | None = None
        self.impossible: str | None = None

    def __call__(
        self, function: Callable[..., Any], arguments: Sequence[Any], *, also: Any = None, capture: Capture = Graph
    ) -> Any:
        """What ``function(*arguments)`` returns, in tensors of its own.

        Args:
            function: the same at every call; returns tensors, or containers of them; what it changes besides must stay
                where it is in memory.
            also: what else it depends on: another value makes another kind.
            capture: ``capture(call, stream, pool)`` makes the graph of ``call()``: ``Graph``, or something around it.
        """
        leaves, structure = tree_flatten(tuple(arguments))
        kind = self._kind_of(leaves, (structure, also))
        if kind is None:
            return function(*arguments)
        kind.load(leaves)

        def call() -> Any:
            return function(*tree_unflatten(kind.static, structure))

        if kind.calls < WARM_UP_CALLS:
            return self._warm_up(kind, call)
        if kind.graph is None:
            try:
                kind.graph = capture(call, self._stream, self._pool)
            except Exception as error:  # whatever it is, the very same has just run eagerly
                first_line = (str(error).splitlines() or [""])[0]
                self.impossible = f"the capture failed ({type(error).__name__}: {first_line})"
        if kind.graph is None:  # not above: as long as the error is there, so is the memory of the capture
            return self(function, arguments, also=also, capture=capture)
        self.eager_reason = None
        return _copied(kind.graph.replay())

    def _kind_of(self, leaves: list[Any], structure: Any) -> _Kind | None:
        """The kind of arguments with these leaves, maybe a new one; None, and why, where they have to run eagerly."""
        self.eager_reason = self.impossible
        if self.eager_reason is not None:
            self._kinds.clear()  # their graphs hold the memory of whole steps
            return None
        described = [_described(leaf) for leaf in leaves]
        if None in described:
            self.eager_reason = "a batch holds something else than tensors and plain values, which a graph cannot take"
            return None
        for kind in self._kinds:
            if kind.structure == structure and kind.described == described:
                return kind
        if len(self._kinds) == self._max_graphs:
            self.eager_reason = f"batches of {self._max_graphs} other kinds came first, and max_graphs allows no more"
            return None
        static = [torch.empty_like(leaf, device=self._device) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._kinds.append(_Kind(structure, described, static))
        return self._kinds[-1]

    def _warm_up(self, kind: _Kind, call: Callable[[], Any]) -> Any:
        self.eager_reason = "it was among the first with batches of this kind; one of the next is captured"
        watching: contextlib.AbstractContextManager[list[str] | None] = (
            _waits_noticed() if kind.calls == WARM_UP_CALLS - 1 else contextlib.nullcontext()
        )
        with watching as waits:
            result = run_on_stream(call, self._stream)
        kind.calls += 1  # not where it raised
        if waits:
            self.impossible = f"something in the step waits for the device, as .item() does ({waits[0]})"
        return _copied(result)


@dataclass
class _Kind:
    """Arguments of one kind: what they have in common, and the memory that a graph reads them from."""

    structure: Any
    described: list[Any]
    static: list[Any]
    calls: int = 0
    graph: Replayable | None = None

    def load(self, leaves: list[Any]) -> None:
        for static, leaf in zip(self.static, leaves, strict=True):
            if isinstance(static, Tensor):
                static.copy_(leaf, non_blocking=True)


def _described(leaf: Any) -> Any:
    """What all values of a kind have in common at this place; None where a graph cannot stand for them."""
    if isinstance(leaf, Tensor) and leaf.layout == torch.strided and not leaf.requires_grad:
        return leaf.shape, leaf.dtype, leaf.stride()
    return (type(leaf), leaf) if isinstance(leaf, PLAIN_TYPES) else None


def _copied(result: Any) -> Any:
    """``result`` in tensors that no later call writes to."""
    return result.clone() if isinstance(result, Tensor) else tree_map_only(Tensor, Tensor.clone, result)


@contextlib.contextmanager
def _waits_noticed() -> Iterator[list[str] | None]:
    """A block whose waits for the device are listed by their places; all other warnings are passed on after it."""
    waits: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for warning in caught:
        text = str(warning.message)
        if "synchronizing CUDA operation" in text:
            waits.append(f"{warning.filename}:{warning.lineno}")
        elif not text.startswith("Synchronization debug mode"):  # torch says that it may miss some
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
