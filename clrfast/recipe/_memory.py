"""How much memory there is, how much a block of work takes, and the end of it without harm."""

from __future__ import annotations

import gc
import math
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .._torch_compat import TorchDispatchMode, sparse_parts, tree_leaves

MACHINE_FRAC = 0.8
"""Of the machine's free memory may be taken; the rest is for what others take meanwhile."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What errors without a type of their own say."""


LIFT = torch.ops.aten.lift_fresh.default


class DoesNotFit(MemoryError):
    """The work takes more memory than there is, or than it may."""


@dataclass(frozen=True)
class Budget:
    """What may be taken beyond what is held now.

    Attributes:
        limit: bytes; infinite where the device itself tells its end.
        resident: bytes that the process held at first, where its growth counts too, as well as that of its tensors:
            with freed memory that it keeps, it has grown to 1.6 times as much. None: tensors alone count.
    """

    limit: float
    resident: int | None = None

    @classmethod
    def of(cls, device: torch.device, memory: int | None) -> Budget:
        """``memory`` bytes of tensors; None: all of a CUDA device, else most of what the machine has free."""
        if memory is not None:
            return cls(memory)
        if device.type == "cuda":
            return cls(math.inf)
        return cls(MACHINE_FRAC * available_memory(), resident_memory())

    def require(self, taken: int) -> None:
        """Raises DoesNotFit if ``taken`` is more than this."""
        if taken > self.limit:
            raise DoesNotFit(f"more than {in_words(self.limit)} were taken")


class Meter(TorchDispatchMode):
    """A block whose new tensors are counted, and which is ended by DoesNotFit in the operation that breaks ``budget``.

    Attributes:
        peak: the most bytes that were held at once, beyond what was held before the block.
        kept: bytes of its tensors that are still held, also after the block.
    """

    def __init__(self, budget: Budget):
        super().__init__()
        self.peak = self.kept = 0
        self._budget = budget
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        # What torch.tensor makes comes to light as an argument.
        before = set() if func is LIFT else {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(outputs):
            if id(storage) not in before and id(storage) not in self._alive:
                self._count(storage)
        grown = 0 if self._budget.resident is None else resident_memory() - self._budget.resident
        self.peak = max(self.peak, self.kept, grown)
        self._budget.require(self.peak)
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        # A storage keeps its Python object, hence its id, for as long as any tensor uses it.
        key, size = id(storage), storage.nbytes()

        def freed(_: Any) -> None:
            self.kept -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)
        self.kept += size


class CudaMeter:
    """Likewise, as the allocator of a CUDA device counts; a broken budget is told at the end of the block."""

    peak = kept = 0

    def __init__(self, device: torch.device, budget: Budget):
        self._device, self._budget = device, budget

    def __enter__(self) -> CudaMeter:
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.peak = torch.cuda.max_memory_allocated(self._device) - self._before
        self.kept = torch.cuda.memory_allocated(self._device) - self._before
        if error is None:
            self._budget.require(self.peak)


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` is of a kind that less work avoids."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def release(device: torch.device) -> None:
    """Free what nothing can reach any more, and hand a CUDA device's unused memory back to it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take without swapping, within its control groups' limits (version 1 or 2).

    Args:
        root: the directory in which ``proc`` and ``sys`` lie.
    Raises:
        ValueError: the system tells nothing of this.
    """
    room = [*_room_in_groups(root)]
    try:
        room.append(1024 * _fields(root / "proc/meminfo")["MemAvailable"])
    except (OSError, KeyError):
        room.append(_half_of_all())
    return max(0, min(room))


def resident_memory() -> int:
    """Bytes of the machine's memory that this process holds; 0 where the system has no /proc."""
    try:
        with open("/proc/self/statm") as numbers:
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def in_words(n_bytes: float) -> str:
    """
    >>> in_words(900), in_words(3.4e6), in_words(8 * 2**30)
    ('900 bytes', '3.2 MiB', '8.0 GiB')
    """
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if n_bytes >= 2**power:
            return f"{n_bytes / 2**power:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    """Of the tensors among ``values``; a sparse one, as embeddings have for a gradient, is made of two others."""
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.layout is torch.strided:
            yield value.untyped_storage()
        elif isinstance(value, Tensor) and value.layout is torch.sparse_coo:
            yield from (part.untyped_storage() for part in sparse_parts(value))


def _room_in_groups(root: Path) -> Iterator[int]:
    """What the limits from this process's control group upwards leave; files that can be dropped do not count."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            top, limit, usage, files = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, usage = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            files = "total_inactive_file"
        else:
            continue
        group = PurePosixPath(name.lstrip("/"))
        for directory in (root / top / part for part in (group, *group.parents)):
            try:
                used = int((directory / usage).read_text()) - _fields(directory / "memory.stat").get(files, 0)
                yield int((directory / limit).read_text()) - used
            except (OSError, ValueError):  # no such group here (a container sees its own as the top), or no limit
                continue


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file with one name and number in each line."""
    words = (line.split() for line in path.read_text().splitlines())
    return {name.rstrip(":"): int(number) for name, number, *_ in words}


def _half_of_all() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        raise ValueError("memory: this system does not tell how much is free; give memory=, in bytes") from None
