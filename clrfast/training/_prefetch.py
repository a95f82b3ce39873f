"""Batches on their way to a CUDA device while it works on the ones before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch_compat import sparse_parts, tree_leaves, tree_map_only
from ._batches import move_batch

MAX_AHEAD = 2
"""Batches that the host may be ahead of the device: one is in use while the next is copied."""


def prefetch(batches: Iterable[Any], device: torch.device | str) -> Iterator[Any]:
    """The same batches on ``device``, each copied from pinned memory on a stream of its own while the device still
    works on those before it.

    None is read before it is asked for, so no batch of ``batches`` is lost where somebody stops early. The host gets
    at most 2 batches ahead of the device, else the copies of all that it is ahead would fill the memory. Devices other
    than CUDA get the batches as they are.

    Args:
        batches: tensors, or dicts, lists and tuples of them; what already lies on ``device`` stays as it is.
        device: where the model is.
    """
    device = torch.device(device)
    return _staged(batches, device) if device.type == "cuda" else iter(batches)


def _staged(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    stream = torch.cuda.Stream(device)
    in_use: deque[torch.cuda.Event] = deque()
    for batch in batches:
        if len(in_use) == MAX_AHEAD:
            in_use.popleft().synchronize()
        with torch.cuda.stream(stream):
            staged = move_batch(tree_map_only(Tensor, _pinned, batch), device)
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for tensor in _tensors(staged):
            if tensor.device.type == "cuda":
                for part in _parts(tensor):
                    part.record_stream(current)  # its memory is not reused while the consumer still reads it
        yield staged
        consumed = torch.cuda.Event()
        consumed.record(torch.cuda.current_stream(device))
        in_use.append(consumed)


def _tensors(batch: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):  # a tokeniser's, unknown to torch, and moved as a whole
            yield from _tensors(dict(leaf))


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """The dense tensors that hold ``tensor``'s memory: a sparse one has no ``record_stream``."""
    if tensor.layout == torch.sparse_coo:
        return sparse_parts(tensor)
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def _pinned(tensor: Tensor) -> Tensor:
    """A copy from pageable memory would have the host wait for it."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_pinned():
        return tensor
    # Not tensor.pin_memory(), which fails where elements share memory, as those of an expanded tensor do.
    return torch.empty_like(tensor, pin_memory=True).copy_(tensor)
