"""``render_report``: the report on a recipe as one HTML page. Its template is ``report.html``."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from ..batch_size._memory_budget import format_bytes
from ..finder import LRCurve
from ..finder._suggestion import NoSuggestionError
from ..schedules import Schedule
from ._optimizers import OptimizerName
from ._pair_trials import PairTrials
from ._setting_trials import SettingTrials
from ._study import Study

DPI = 120
"""Resolution of the pictures. It makes them 768 pixels wide: enough for a phone and for 40rem on a laptop."""


class Reportable(Protocol):
    """The members of a ``Recipe`` that this module uses. The template uses the others."""

    @property
    def study(self) -> Study: ...

    @property
    def optimizer_name(self) -> OptimizerName: ...

    def schedule(self, total_steps: int) -> Schedule: ...


@dataclass(frozen=True)
class Picture:
    """A picture in the page, or the reason why there is none.

    Attributes:
        png: the file in base64; None without a picture.
        missing: the module that drawing needs and that is not installed.
    """

    png: str | None
    missing: str | None = None


@dataclass(frozen=True)
class RangeTestSection:
    """A range test in the report: its condition, why it ended, the suggested rate, and its picture."""

    condition: str
    stop_reason: str
    suggestion: str
    picture: Picture


def render_report(recipe: Reportable, title: str = "", saved: str = "recipe.json") -> str:
    """Return the report as one page: the settings, their reasons, all measurements, and what to do next.

    The page has pictures if matplotlib is installed. It is self-contained, and all text in it is escaped.

    Args:
        recipe: what to report on.
        title: the name of the task; any text.
        saved: path of the recipe's JSON, for the code that the page offers.
    """
    study, chosen = recipe.study, recipe.study.for_optimizer(recipe.optimizer_name)
    return _template().render(
        recipe=recipe,
        study=study,
        title=title,
        saved=saved,
        chosen=chosen,
        range_tests=_range_tests(chosen),
        pairs_picture=_pairs_picture(chosen.pair_trials),
        weight_decay_picture=_trials_picture(chosen.weight_decay_trials, "weight decay"),
        momentum_picture=_trials_picture(chosen.momentum_trials, "momentum"),
        workers=_workers(study),
        schedule_picture=_picture(lambda: recipe.schedule(study.planned_steps).plot()),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"format_bytes": format_bytes, "python_literal": repr}
    return environment.get_template("report.html")


def _range_tests(study: Study) -> list[RangeTestSection]:
    conditions = (
        ("the task as it was given", study.range_test),
        ("the chosen batch size", study.range_test_after_batch_size),
        ("the chosen weight decay", study.range_test_after_weight_decay),
    )
    return [_range_test(condition, curve) for condition, curve in conditions if curve is not None]


def _range_test(condition: str, curve: LRCurve) -> RangeTestSection:
    try:
        found = curve.suggest()
        text = f"suggested: {found.max_lr:.3g} ({found.low:.2g} to {found.high:.2g}): {found.reason}"
    except NoSuggestionError as error:
        found, text = None, f"no answer: {error}"
    return RangeTestSection(condition, curve.stop_reason, text, _picture(lambda: curve.plot(suggestion=found).figure))


def _workers(study: Study) -> list[tuple[str, list[int], float]]:
    """Return for each worker the numbers of its trials, and their time in seconds."""
    names = dict.fromkeys(trial.worker for trial in study.trials)
    own = {name: [trial for trial in study.trials if trial.worker == name] for name in names}
    return [
        (name, [t.number for t in trials], sum(t.finished - t.started for t in trials)) for name, trials in own.items()
    ]


def _pairs_picture(trials: PairTrials | None) -> Picture | None:
    return None if trials is None else _picture(lambda: trials.plot().figure)


def _trials_picture(trials: SettingTrials | None, name: str) -> Picture | None:
    return None if trials is None else _picture(lambda: trials.plot(title=name).figure)


def _picture(draw: Callable[[], Any]) -> Picture:
    """Return the figure that ``draw`` makes, or without matplotlib the name of the missing module."""
    try:
        png = io.BytesIO()
        draw().savefig(png, format="png", dpi=DPI)
    except ModuleNotFoundError as error:
        return Picture(None, error.name)
    return Picture(base64.b64encode(png.getvalue()).decode())
