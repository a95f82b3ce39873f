"""``prefetch``: copies the next batches to a CUDA device while it works on the present one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch_compat import sparse_parts, tree_leaves, tree_map_only
from ._batches import move_batch

MAX_AHEAD = 2
"""Maximum number of batches that the host is ahead of the device: one in use, and one that is being copied."""


def prefetch(batches: Iterable[Any], device: torch.device | str) -> Iterator[Any]:
    """Yield ``batches`` on ``device``, copied while the device works on the batches before.

    Each batch is copied from pinned memory on a separate stream. A batch is read from ``batches`` only when the caller
    asks for it, so stopping early loses none. The host blocks when it is 2 batches ahead, because the copies of further
    batches would fill the device's memory. On devices other than CUDA, the batches are yielded unchanged.

    Args:
        batches: tensors, or dicts, lists and tuples of them; tensors on ``device`` are not copied.
        device: the device of the model.
    """
    device = torch.device(device)
    return _prefetch_to_cuda(batches, device) if device.type == "cuda" else iter(batches)


def _prefetch_to_cuda(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    stream = torch.cuda.Stream(device)
    in_use: deque[torch.cuda.Event] = deque()
    for batch in batches:
        if len(in_use) == MAX_AHEAD:
            in_use.popleft().synchronize()
        with torch.cuda.stream(stream):
            copied = move_batch(tree_map_only(Tensor, _pin, batch), device)
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for tensor in _tensors_in(copied):
            if tensor.device.type == "cuda":
                for part in _dense_parts(tensor):
                    part.record_stream(current)  # its memory is not reused while the consumer still reads it
        yield copied
        consumed = torch.cuda.Event()
        consumed.record(torch.cuda.current_stream(device))
        in_use.append(consumed)


def _tensors_in(batch: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):  # of a class unknown to torch, such as a tokenizer's
            yield from _tensors_in(dict(leaf))


def _dense_parts(tensor: Tensor) -> Sequence[Tensor]:
    """Return the dense tensors that hold the memory of ``tensor``; a sparse one has no ``record_stream``."""
    if tensor.layout == torch.sparse_coo:
        return sparse_parts(tensor)
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def _pin(tensor: Tensor) -> Tensor:
    """Return a copy in pinned memory; the host would block for a copy from pageable memory to the device."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_pinned():
        return tensor
    # tensor.pin_memory() fails for tensors whose elements share memory, such as expanded ones.
    return torch.empty_like(tensor, pin_memory=True).copy_(tensor)
