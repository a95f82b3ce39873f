"""``GraphCache``: calls a function by replaying CUDA graphs, one graph for each kind of arguments."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .._torch_compat import tree_flatten, tree_map_only, tree_unflatten
from ._cuda_graph import Graph, capture_stream, run_on_stream

MAX_GRAPHS = 4
"""Default maximum number of graphs: full batches and the last one of an epoch, each in train and in eval mode."""

WARM_UP_CALLS = 2
"""Number of eager calls before a capture. The first may load and tune libraries; in the last, waits are detected."""

PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
"""Types of non-tensor arguments that a graph holds as constants. Each combination of values is another kind."""


def reason_against_graphs(device: torch.device) -> str | None:
    """Return why nothing can be captured on ``device``; None if captures are possible."""
    return None if device.type == "cuda" else f"the model is on {device}, and only CUDA devices have graphs"


class Replayable(Protocol):
    """A ``Graph``, or an object around one."""

    def replay(self) -> Any: ...


Capture = Callable[[Callable[[], Any], torch.cuda.Stream, Any], Replayable]
"""``capture(call, stream, pool)`` returns the graph of ``call()``."""


class GraphCache:
    """Calls a function through CUDA graphs where possible, and directly elsewhere.

    Arguments are of one kind if their shapes, dtypes and plain values agree. The first calls with arguments of a kind
    run eagerly on the stream of the capture, and the next one is captured. Each further call copies its tensors into
    the graph's memory and replays the graph.

    Args:
        device: a CUDA device.
        max_graphs: maximum number of kinds that are captured; calls with further kinds run eagerly.

    Attributes:
        eager_reason: why the last call ran eagerly, in one sentence; None if it was a replay.
        impossible: why all further calls run eagerly; None if captures are possible.
    """

    def __init__(self, device: torch.device, max_graphs: int = MAX_GRAPHS):
        self._device, self._max_graphs = device, max_graphs
        self._stream = capture_stream(device)
        # Shared by all graphs: one is replayed at a time, and its result is copied before the next replay.
        self._pool = torch.cuda.graph_pool_handle()
        self._kinds: list[_Kind] = []
        self.eager_reason: str | None = None
        self.impossible: str | None = None

    def __call__(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        *,
        depends_on: Any = None,
        capture: Capture = Graph,
    ) -> Any:
        """Return ``function(*arguments)`` in tensors that no later call overwrites.

        Args:
            function: the same at every call. It returns tensors or containers of tensors. All other memory that it
                writes to must stay in place.
            depends_on: values besides the arguments that the function depends on; other values make another kind.
            capture: makes the graph.
        """
        leaves, structure = tree_flatten(tuple(arguments))
        kind = self._find_kind(leaves, (structure, depends_on))
        if kind is None:
            return function(*arguments)
        kind.load(leaves)

        def call() -> Any:
            return function(*tree_unflatten(kind.static, structure))

        if kind.n_calls < WARM_UP_CALLS:
            return self._warm_up(kind, call)
        if kind.graph is None:
            try:
                kind.graph = capture(call, self._stream, self._pool)
            except Exception as error:  # of any kind: the same call has just run eagerly
                first_line = (str(error).splitlines() or [""])[0]
                self.impossible = f"the capture failed ({type(error).__name__}: {first_line})"
        if kind.graph is None:  # outside of the except block, where the error keeps the memory of the capture alive
            return self(function, arguments, depends_on=depends_on, capture=capture)
        self.eager_reason = None
        return _copy(kind.graph.replay())

    def _find_kind(self, leaves: list[Any], structure: Any) -> _Kind | None:
        """Return the kind of these arguments, a new one if needed; None, and ``eager_reason``, for an eager call."""
        self.eager_reason = self.impossible
        if self.eager_reason is not None:
            self._kinds.clear()  # their graphs hold the memory of whole steps
            return None
        signature = [_signature(leaf) for leaf in leaves]
        if None in signature:
            self.eager_reason = "a batch holds something other than tensors and plain values, which a graph cannot take"
            return None
        for kind in self._kinds:
            if kind.structure == structure and kind.signature == signature:
                return kind
        if len(self._kinds) == self._max_graphs:
            self.eager_reason = f"batches of {self._max_graphs} other kinds came first, and max_graphs allows no more"
            return None
        static = [torch.empty_like(leaf, device=self._device) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._kinds.append(_Kind(structure, signature, static))
        return self._kinds[-1]

    def _warm_up(self, kind: _Kind, call: Callable[[], Any]) -> Any:
        self.eager_reason = "it was one of the first with batches of this kind; a later one is captured"
        watching: contextlib.AbstractContextManager[list[str] | None] = (
            _watch_for_waits() if kind.n_calls == WARM_UP_CALLS - 1 else contextlib.nullcontext()
        )
        with watching as waits:
            result = run_on_stream(call, self._stream)
        kind.n_calls += 1  # a call that raised does not count
        if waits:
            self.impossible = f"something in the step waits for the device, as .item() does ({waits[0]})"
        return _copy(result)


@dataclass
class _Kind:
    """Arguments of one kind.

    Attributes:
        structure: the containers around the leaves, and the values of ``depends_on``.
        signature: ``_signature`` of every leaf.
        static: the leaves that the graph reads.
        n_calls: eager calls so far.
        graph: None before the capture.
    """

    structure: Any
    signature: list[Any]
    static: list[Any]
    n_calls: int = 0
    graph: Replayable | None = None

    def load(self, leaves: list[Any]) -> None:
        """Copy the tensors among ``leaves`` into the memory that the graph reads."""
        for static, leaf in zip(self.static, leaves, strict=True):
            if isinstance(static, Tensor):
                static.copy_(leaf, non_blocking=True)


def _signature(leaf: Any) -> Any:
    """Return a key that is equal for two leaves of one kind; None for a leaf that a graph cannot take."""
    if isinstance(leaf, Tensor) and leaf.layout == torch.strided and not leaf.requires_grad:
        return leaf.shape, leaf.dtype, leaf.stride()
    return (type(leaf), leaf) if isinstance(leaf, PLAIN_TYPES) else None


def _copy(result: Any) -> Any:
    return result.clone() if isinstance(result, Tensor) else tree_map_only(Tensor, Tensor.clone, result)


@contextlib.contextmanager
def _watch_for_waits() -> Iterator[list[str] | None]:
    """Yield a list; after the block it holds the file and line of every wait for the device in the block.

    Other warnings are issued after the block.
    """
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
        elif not text.startswith("Synchronization debug mode"):  # torch's note that it may miss some
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
