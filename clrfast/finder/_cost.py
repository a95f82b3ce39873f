"""``Cost``: counts the updates and the extra forward passes of a range test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Cost:
    """What this rank has done to the model so far, measurements and repeated runs included.

    Attributes:
        update_steps: number of updates.
        extra_forward_passes: number of forward passes of one batch that led to no update.
    """

    update_steps: int = 0
    extra_forward_passes: int = 0
