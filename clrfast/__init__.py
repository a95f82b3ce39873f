"""Find a PyTorch model's learning rate and train it with Leslie Smith's policies, fast.

The names below are imported at their first use, so that ``clrfast --help`` need not wait for torch.
"""

from importlib import import_module, util
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import schedules
    from .finder import LRCurve, NoSuggestionError, RateMonitor, Suggestion, Trials, range_test, trial_cycles
    from .optim import SGD, StepControl, layer_groups
    from .recipe import (
        BatchSizes,
        Choice,
        Diagnosis,
        History,
        Momenta,
        Recipe,
        WeightDecays,
        diagnose,
        find_batch_size,
        find_momentum,
        find_recipe,
        find_weight_decay,
    )
    from .schedules import Schedule, as_lr_scheduler, constant, lr_ramp, one_cycle
    from .tasks import Task
    from .training import Replicas, StepOptions, sweep

__all__ = [
    "SGD",
    "BatchSizes",
    "Choice",
    "Diagnosis",
    "History",
    "LRCurve",
    "Momenta",
    "NoSuggestionError",
    "RateMonitor",
    "Recipe",
    "Replicas",
    "Schedule",
    "StepControl",
    "StepOptions",
    "Suggestion",
    "Task",
    "Trials",
    "WeightDecays",
    "__version__",
    "as_lr_scheduler",
    "constant",
    "diagnose",
    "find_batch_size",
    "find_momentum",
    "find_recipe",
    "find_weight_decay",
    "layer_groups",
    "lr_ramp",
    "one_cycle",
    "range_test",
    "schedules",
    "sweep",
    "trial_cycles",
]

if not TYPE_CHECKING:  # a type checker would take any name for one of the package's

    def __getattr__(name: str) -> Any:
        value = _module(name) or _public(name)
        if value is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

    def _module(name: str) -> Any:
        """The module ``clrfast.name``; None if there is none."""
        if name.startswith("_") or util.find_spec(f"{__name__}.{name}") is None:
            return None
        return import_module(f"{__name__}.{name}")

    def _public(name: str) -> Any:
        """What one of the packages exports as ``name``, if this one does, too; else None."""
        packages = ("finder", "optim", "recipe", "schedules", "tasks", "training") if name in __all__ else ()
        homes = (import_module(f"{__name__}.{package}") for package in packages)
        return next((getattr(home, name) for home in homes if name in home.__all__), None)
