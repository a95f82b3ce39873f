"""The report on a recipe: one HTML page for a person to read and to keep. Its template is ``report.html``."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from ..finder import LRCurve
from ..finder._suggestion import NoSuggestionError
from ._memory import format_bytes
from ._pair_search import Pairs
from ._short_runs import ShortRuns

if TYPE_CHECKING:
    from ._recipe import Recipe

DPI = 120
"""Resolution of the pictures, which are 768 pixels wide with it: enough for a phone and for 40rem on a laptop."""


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
class RangeTest:
    """What the report shows of a range test: when it was made, why it ended, the suggested rate and the picture."""

    condition: str
    stop_reason: str
    suggestion: str
    picture: Picture


def html(recipe: Recipe, title: str = "", saved: str = "recipe.json") -> str:
    """Return the report as one page: the settings, their reasons, all measurements, and what to do next.

    The page has pictures where matplotlib is installed. It refers to nothing outside of itself, and all text in it is
    escaped.

    Args:
        recipe: what to report on.
        title: the name of the task; any text.
        saved: path of the recipe's JSON, for the code that the page offers.
    """
    parts = recipe.parts
    return _template().render(
        recipe=recipe,
        parts=parts,
        title=title,
        saved=saved,
        range_tests=_range_tests(recipe),
        pairs_picture=_pairs_picture(parts.pairs),
        weight_decay_picture=_short_runs_picture(parts.weight_decays, "weight decay"),
        momentum_picture=_short_runs_picture(parts.momenta, "momentum"),
        schedule_picture=_picture(lambda: recipe.schedule(parts.planned_steps).plot()),
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


def _range_tests(recipe: Recipe) -> list[RangeTest]:
    parts = recipe.parts
    conditions = (
        ("the task as it was given", parts.rate),
        ("the chosen batch size", parts.rate_after_batch_size),
        ("the chosen weight decay", parts.rate_after_weight_decay),
    )
    return [_range_test(condition, curve) for condition, curve in conditions if curve is not None]


def _range_test(condition: str, curve: LRCurve) -> RangeTest:
    try:
        found = curve.suggest()
        told = f"suggested: {found.max_lr:.3g} ({found.low:.2g} to {found.high:.2g}): {found.reason}"
    except NoSuggestionError as error:
        found, told = None, f"no answer: {error}"
    return RangeTest(condition, curve.stop_reason, told, _picture(lambda: curve.plot(suggestion=found).figure))


def _pairs_picture(found: Pairs | None) -> Picture | None:
    return None if found is None else _picture(lambda: found.plot().figure)


def _short_runs_picture(found: ShortRuns | None, name: str) -> Picture | None:
    return None if found is None else _picture(lambda: found.plot(title=name).figure)


def _picture(draw: Callable[[], Any]) -> Picture:
    """The figure that ``draw`` returns; without matplotlib, which module is missing."""
    try:
        png = io.BytesIO()
        draw().savefig(png, format="png", dpi=DPI)
    except ModuleNotFoundError as error:
        return Picture(None, error.name)
    return Picture(base64.b64encode(png.getvalue()).decode())
