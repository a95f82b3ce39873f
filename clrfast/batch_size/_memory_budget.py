"""Measures free memory and the memory that a block of code takes, and recognises out-of-memory errors."""

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
"""Fraction of the machine's free memory that may be taken. The rest is for other programs."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Texts of out-of-memory errors that have no class of their own."""

LIFT = torch.ops.aten.lift_fresh.default


class DoesNotFitError(MemoryError):
    """The work takes more memory than there is, or than its budget allows."""


@dataclass(frozen=True)
class MemoryBudget:
    """The memory that work may take beyond what is held when it starts.

    Attributes:
        limit: bytes; infinite for a device that reports itself that it is full.
        resident: bytes that the process held at the start. With it, the growth of the process counts as well as that
            of its tensors, because the process keeps freed memory and may grow 1.6 times as much. None: only tensors
            count.
    """

    limit: float
    resident: int | None = None

    @classmethod
    def of(cls, device: torch.device, memory: int | None) -> MemoryBudget:
        """Return a budget of ``memory`` bytes. None: all of a CUDA device, or most of the machine's free memory."""
        if memory is not None:
            return cls(memory)
        if device.type == "cuda":
            return cls(math.inf)
        return cls(MACHINE_FRAC * available_memory(), resident_memory())

    def require(self, taken: int) -> None:
        """Raise DoesNotFitError if ``taken`` bytes exceed the limit."""
        if taken > self.limit:
            raise DoesNotFitError(f"more than {format_bytes(self.limit)} were taken")


class MemoryMeter(TorchDispatchMode):
    """A context that counts the memory of new tensors; the operation that exceeds the budget raises DoesNotFitError.

    Attributes:
        peak: the most bytes held at once, beyond what was held before the context.
        kept: bytes of the new tensors that are held now. It stays up to date after the context.
    """

    def __init__(self, budget: MemoryBudget):
        super().__init__()
        self.peak = self.kept = 0
        self._budget = budget
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        # A tensor that torch.tensor makes first appears as an argument of lift_fresh.
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


class CudaMemoryMeter:
    """A ``MemoryMeter`` for a CUDA device, which reads its allocator and checks the budget at the context's end."""

    peak = kept = 0

    def __init__(self, device: torch.device, budget: MemoryBudget):
        self._device, self._budget = device, budget

    def __enter__(self) -> CudaMemoryMeter:
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.peak = torch.cuda.max_memory_allocated(self._device) - self._before
        self.kept = torch.cuda.memory_allocated(self._device) - self._before
        if error is None:
            self._budget.require(self.peak)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether ``error`` means that memory was too small."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def release(device: torch.device) -> None:
    """Free unreachable objects, and return a CUDA device's cached memory to it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def available_memory(root: Path = Path("/")) -> int:
    """Return how many bytes this process can take without swapping, within its control groups' limits.

    Args:
        root: the directory that holds ``proc`` and ``sys``.
    Raises:
        ValueError: the system does not report its memory.
    """
    room = [*_room_in_groups(root)]
    try:
        room.append(1024 * _fields(root / "proc/meminfo")["MemAvailable"])
    except (OSError, KeyError):
        room.append(_half_of_all())
    return max(0, min(room))


def resident_memory() -> int:
    """Return how many bytes of the machine's memory this process holds; 0 on a system without /proc."""
    try:
        with open("/proc/self/statm") as numbers:
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def format_bytes(n_bytes: float) -> str:
    """Return a number of bytes with its unit.

    >>> format_bytes(900), format_bytes(3.4e6), format_bytes(8 * 2**30)
    ('900 bytes', '3.2 MiB', '8.0 GiB')
    """
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if n_bytes >= 2**power:
            return f"{n_bytes / 2**power:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    """Yield the storages of the tensors among ``values``. A sparse gradient, such as an embedding's, has two."""
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.layout is torch.strided:
            yield value.untyped_storage()
        elif isinstance(value, Tensor) and value.layout is torch.sparse_coo:
            yield from (part.untyped_storage() for part in sparse_parts(value))


def _room_in_groups(root: Path) -> Iterator[int]:
    """Yield the free bytes within each limit, from this process's control group (v1 or v2) upwards.

    File caches count as free.
    """
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
            except (OSError, ValueError):  # no limit, or the group is not visible, as inside a container
                continue


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers in a file that has a name and a number on each line."""
    words = (line.split() for line in path.read_text().splitlines())
    return {name.rstrip(":"): int(number) for name, number, *_ in words}


def _half_of_all() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        raise ValueError("memory: this system does not tell how much is free; give memory=, in bytes") from None
