"""``MomentumFlags``: which momentum buffers have been updated. With dampening, a buffer's first update is special."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class MomentumFlags:
    """Flags of the momentum buffers that an optimizer has made.

    torch makes a buffer at its first update. clrfast may make it earlier, because a captured step needs it in advance
    and the device may skip the update. Such a buffer starts with zeros, which gives the right first update without
    dampening. With dampening it has a flag: int64 [] on the buffer's device, 0 until an update was applied. A buffer
    that is not known here was loaded or assigned, and counts as updated.

    Attributes:
        by_buffer: the flag of each buffer; None where there was no dampening.
    """

    def __init__(self) -> None:
        self.by_buffer: dict[Tensor, Tensor | None] = {}

    def add(self, buffer: Tensor, *, tracked: bool) -> None:
        """Register a new buffer of zeros; it gets a flag if ``tracked``."""
        self.by_buffer[buffer] = torch.zeros((), dtype=torch.int64, device=buffer.device) if tracked else None

    def track(self, buffer: Tensor) -> None:
        """Give ``buffer`` a flag if it has none. The flag says "updated" for a buffer that is unknown or not zero."""
        if self.by_buffer.get(buffer) is None:
            one = torch.ones((), dtype=torch.int64, device=buffer.device)
            self.by_buffer[buffer] = buffer.count_nonzero() if buffer in self.by_buffer else one

    def flag_of(self, buffer: Tensor | None) -> Tensor | None:
        """Return the flag of ``buffer``; None if the buffer needs no flag."""
        return None if buffer is None else self.by_buffer.get(buffer)

    def is_fresh(self, buffer: Tensor | None) -> bool:
        """Return whether ``buffer`` was made here and no update of it was applied. Waits for the device."""
        if buffer is None or buffer not in self.by_buffer or not buffer.numel():
            return False
        flag = self.by_buffer[buffer]
        return not bool(buffer.any() if flag is None else flag)

    def keep_only(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Forget the buffers that are in none of ``states``."""
        used = {id(state.get("momentum_buffer")) for state in states}
        self.by_buffer = {buffer: flag for buffer, flag in self.by_buffer.items() if id(buffer) in used}
