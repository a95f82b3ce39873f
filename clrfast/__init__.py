"""Find a PyTorch model's learning rate and train it with Leslie Smith's policies, fast.

``__all__`` lists the public names; the packages (``clrfast.schedules``, ``clrfast.recipe``, ...) have more.
A name is imported at its first use, so that ``clrfast --help`` does not wait for torch.
"""

import pkgutil
from importlib import import_module, util
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import schedules
    from ._errors import NotWrittenError, RankError
    from .batch_size import BatchSizes, find_batch_size
    from .diagnosis import Diagnosis, History, diagnose
    from .finder import LRCurve, NoSuggestionError, RateMonitor, Suggestion, Trials, range_test
    from .optim import SGD, Adam, AdamW, StepControl, layer_groups
    from .recipe import (
        MomentumTrials,
        Recipe,
        SettingSuggestion,
        WeightDecayTrials,
        find_momentum,
        find_recipe,
        find_weight_decay,
    )
    from .schedules import Schedule, as_lr_scheduler, constant, lr_ramp, one_cycle
    from .tasks import Task
    from .training import StepOptions, SweepResult, sweep

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "BatchSizes",
    "Diagnosis",
    "History",
    "LRCurve",
    "MomentumTrials",
    "NoSuggestionError",
    "NotWrittenError",
    "RankError",
    "RateMonitor",
    "Recipe",
    "Schedule",
    "SettingSuggestion",
    "StepControl",
    "StepOptions",
    "Suggestion",
    "SweepResult",
    "Task",
    "Trials",
    "WeightDecayTrials",
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
]

_HOMES = ("_errors", "schedules", "tasks", "optim", "training", "finder", "diagnosis", "batch_size", "recipe")
"""Modules that define the public names, in the order in which a name is looked up: cheapest import first."""

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Import a package, or the public name of one, at its first use."""
        if not name.startswith("_") and util.find_spec(f"{__name__}.{name}"):
            return import_module(f"{__name__}.{name}")
        if name in __all__:
            homes = (import_module(f"{__name__}.{home}") for home in _HOMES)
            globals()[name] = next(getattr(home, name) for home in homes if name in home.__all__)
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        packages = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
        return sorted({*(name for name in globals() if name.startswith("__")), *__all__, *packages})
