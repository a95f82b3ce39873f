"""Which momentum buffers have been updated: the first update of a buffer is another one under dampening."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class FirstUpdates:
    """Flags of the momentum buffers that were made here.

    In torch, a buffer exists from its first update on. Here, an update may be skipped on the device after the host has
    made the buffer, and a captured step needs it in advance. So a buffer is made of zeros, which is the right first
    update without dampening, and under dampening has a flag: int64 [] on the buffer's device, 0 until an update was
    applied. A buffer that is not known here comes from outside and counts as updated.

    Attributes:
        flags: by buffer; None in place of a flag where there was no dampening.
    """

    def __init__(self) -> None:
        self.flags: dict[Tensor, Tensor | None] = {}

    def add(self, buffer: Tensor, *, tracked: bool) -> None:
        """Take note of a new buffer of zeros; ``tracked``: with a flag."""
        self.flags[buffer] = torch.zeros((), dtype=torch.int64, device=buffer.device) if tracked else None

    def track(self, buffer: Tensor) -> None:
        """Give ``buffer`` a flag if it has none; it counts as updated if it comes from outside or is not all zeros."""
        if self.flags.get(buffer) is None:
            one = torch.ones((), dtype=torch.int64, device=buffer.device)
            self.flags[buffer] = buffer.count_nonzero() if buffer in self.flags else one

    def flag(self, buffer: Tensor | None) -> Tensor | None:
        """The flag of ``buffer``; None if every update of it is like the others."""
        return None if buffer is None else self.flags.get(buffer)

    def awaits(self, buffer: Tensor | None) -> bool:
        """Whether ``buffer`` was made here and no update of it was applied; waits for the device."""
        if buffer is None or buffer not in self.flags or not buffer.numel():
            return False
        flag = self.flags[buffer]
        return not bool(buffer.any() if flag is None else flag)

    def keep(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Forget the buffers that are in none of ``states``."""
        used = {id(state.get("momentum_buffer")) for state in states}
        self.flags = {buffer: flag for buffer, flag in self.flags.items() if id(buffer) in used}
