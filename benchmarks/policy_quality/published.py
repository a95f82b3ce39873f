"""ResNet-56 on CIFAR-10 as Smith 2018 (arXiv:1803.09820) and He et al. 2015 train it, setting by setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from clrfast import Schedule, one_cycle
from clrfast.schedules import Constant, Joined

WEIGHT_DECAY = 1e-4


def piecewise_constant(lr: float, total_steps: int, weight_decay: float = WEIGHT_DECAY) -> Schedule:
    """Return a schedule of ``lr``, a tenth of it after half of the steps, a hundredth after three quarters."""
    rates = tuple(Constant(lr / divisor) for divisor in (1, 10, 100))
    return Schedule(Joined(rates, (total_steps // 2, total_steps * 3 // 4)), 0.9, weight_decay, total_steps)


def published_cycle(
    total_steps: int,
    *,
    max_lr: float = 0.8,
    momentum: float | tuple[float, float] = (0.95, 0.80),
    weight_decay: float = WEIGHT_DECAY,
) -> Schedule:
    """Return Smith's 1cycle for ResNet-56."""
    return one_cycle(max_lr, total_steps, momentum=momentum, weight_decay=weight_decay)


@dataclass(frozen=True)
class Published:
    """A published run of ResNet-56 on CIFAR-10.

    Attributes:
        schedule: ``total_steps -> Schedule``.
        total_steps: updates of the run.
        batch_size: samples per update.
        accuracy: the published accuracy, or what the report says about the run.
    """

    schedule: Callable[[int], Schedule]
    total_steps: int
    batch_size: int
    accuracy: str


PUBLISHED = {
    "piecewise": Published(lambda total_steps: piecewise_constant(0.1, total_steps), 64_000, 128, "usual"),
    "1cycle": Published(partial(published_cycle, momentum=0.9), 9310, 512, "91.3 %"),
    "1cycle_momentum": Published(published_cycle, 9310, 512, "91.5 %"),
    "1cycle_wd_1e-5": Published(partial(published_cycle, weight_decay=1e-5), 9310, 512, "works"),
    "1cycle_wd_1e-3": Published(partial(published_cycle, weight_decay=1e-3), 9310, 512, "fails"),
}
"""1cycles from 0.08 to 0.8 over 95 epochs (Smith), and the usual schedule at batch 128 (He et al.)."""
