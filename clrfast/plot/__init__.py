"""Pictures of curves and schedules; needs matplotlib (``pip install "clrfast[plot]"``)."""

from ._lr_curve import lr_curve
from ._lr_curves import lr_curves, rates
from ._pairs import pairs
from ._schedule import schedule
from ._short_runs import short_runs

__all__ = ["lr_curve", "lr_curves", "pairs", "rates", "schedule", "short_runs"]
