"""Ranks that search together: each runs a part of the trials, and all learn of every result and failure.

All ranks make the same calls in the same order. The first rank alone makes range tests, reads the clock and reads the
file, and broadcasts the results, so that rounding cannot make the ranks differ. The trials are distributed, one per
rank at a time, so that every rank learns of a failure within the length of one trial.

The ranks exchange Python objects of a few kilobytes through gloo, also on machines with GPUs: NCCL would need every
object on a GPU, for no benefit. The models, each on the device of its rank, exchange nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Union

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._distributed import SINGLE_PROCESS, Failure, Ranks
from .._errors import RankError
from ..training._preservation import preserve_rng_and_loaders

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Group = Union["ProcessGroup", "Ranks", None]
"""A process group whose ranks search together; None for a single process; ``Ranks`` within such a search."""


def require_same_start(ranks: Ranks, model: nn.Module, **loaders: Any) -> None:
    """Raise ValueError unless model, random numbers and first batches are equal on all ranks."""
    if ranks.world_size == 1:
        return
    devices = {param.device for param in model.parameters() if param.device.type == "cuda"}
    states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
    digests = {"model": _digest(model.state_dict()), "random numbers": _digest(states)}
    for name, loader in loaders.items():
        with preserve_rng_and_loaders(loader):
            digests[name] = _digest(next(iter(loader), None))
    everyone = ranks.all_gather("the start", digests)
    differ = [name for name in digests if len({each[name] for each in everyone}) > 1]
    if differ:
        raise ValueError(
            f"group: the ranks differ in {', '.join(differ)}, and their runs could not be compared; make them with "
            "the same seed everywhere, each over all of the data (no DistributedSampler)"
        )


@contextlib.contextmanager
def shared_failures(ranks: Ranks) -> Iterator[Ranks]:
    """Run a block that all ranks leave together; an exception on one of them is raised on all."""
    try:
        yield ranks
        ranks.all_gather("the end", None)
    except RankError:
        raise
    except Exception as error:
        # Replaces the value that the others wait for next. An interruption (Ctrl-C) is not sent: the others may take
        # long to get here, and notice the end of this process anyway.
        with contextlib.suppress(RankError):
            ranks.all_gather("", Failure.from_error(error))
        raise


@contextlib.contextmanager
def joined_ranks(group: Group) -> Iterator[Ranks]:
    """Yield the ranks of ``group``, all of which execute this context; a failure on one is raised on all.

    Raises:
        ValueError: this process is not in the group, or the group has no backend for the CPU.
        RankError: see ``Ranks.all_gather``.
    """
    if group is None or isinstance(group, Ranks):
        yield group or SINGLE_PROCESS  # the search that makes this call shares failures already
        return
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group: this process is not in it; make the call only on ranks of the group")
    backends = dist.get_backend_config(group)
    if "cpu:" not in backends:
        raise ValueError(
            f"group: got one of {backends}, and what ranks tell each other here are objects in the CPU's memory; give "
            'torch.distributed.new_group(backend="gloo"), which works beside NCCL'
        )
    with shared_failures(Ranks(group)) as ranks:
        yield ranks


def require_no_ddp(model: Any) -> None:
    """Raise ValueError for a model whose ranks wait for each other in every step: they may stop at different steps."""
    if isinstance(model, nn.Module):
        for module in model.modules():
            if isinstance(module, nn.parallel.DistributedDataParallel):
                raise ValueError(
                    "model: got a DistributedDataParallel, whose ranks wait for each other at every step, and short "
                    "runs may end at different ones; give the model in it (model.module), and group= to share them out"
                )


def _digest(value: Any) -> str:
    """Hash all numbers and texts in ``value``, and the types of other objects."""
    digest = hashlib.sha256()
    for piece in _pieces(value):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor) and value.layout is torch.strided:
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, str | bytes | int | float | None):
        yield repr(value).encode()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*_pieces(key), *_pieces(item))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _pieces(item)
    else:
        yield type(value).__name__.encode()
