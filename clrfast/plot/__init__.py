"""Pictures of curves and schedules; needs matplotlib (``pip install "clrfast[plot]"``)."""

from .curves import lr_curves, rates
from .one_curve import lr_curve
from .pairs import pairs
from .schedules import schedule
from .short_runs import short_runs

__all__ = ["lr_curve", "lr_curves", "pairs", "rates", "schedule", "short_runs"]
