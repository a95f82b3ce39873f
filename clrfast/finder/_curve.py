"""LRCurve: the record of a range test."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from html import escape
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from .. import _saving as saving
from .._checks import short_repr
from .._fields import Fields
from ._noise import Floats, divergence, noise, smoothed
from ._suggest import METHODS, MIN_POINTS, NoSuggestionError, Suggestion, edge, resampled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

StopReason = Literal["completed", "diverged", "non-finite"]

VALIDATION_LOSS = "validation loss"
"""Name of the metric that is the loss itself, on held-out batches."""

NOISE_FACTOR = 2.5
"""A fall of fewer median distances of the loss from its smoothed curve is no answer: 94 of 100 curves of 100 points
that are nothing but noise fall by less."""

FITTED = 1e-2
"""A loss that stays below this part of its start: the model fits the data, and its gradients vanish."""

_FORMAT = "clrfast.LRCurve/1"


@dataclass(frozen=True, eq=False)
class LRCurve:
    """Loss over learning rate, as a range test measured it.

    Attributes:
        lr: float64 ``[n]``, ascending.
        loss: float64 ``[n]``, raw; ``loss[i]`` was measured after the update with ``lr[i]``, on the next batch.
        initial_loss: the loss before the first update.
        stopped: "completed" (reached max_lr), "diverged" or "non-finite".
        stop_reason: one sentence that says where and why it stopped.
        metric: float64 ``[n]``, on held-out batches after the update with ``lr[i]``, NaN where it was not looked at;
            None without such batches.
        metric_name: "validation loss", "accuracy", or the name of the user's function.
        momentum: of the SGD that the sweep was made with; None for other optimizers.
        repeats: further sweeps, with other batches.
    """

    lr: Floats
    loss: Floats
    initial_loss: float
    stopped: StopReason
    stop_reason: str
    metric: Floats | None = None
    metric_name: str = ""
    momentum: float | None = None
    repeats: tuple[LRCurve, ...] = ()
    again: Callable[..., LRCurve] | None = field(default=None, repr=False, metadata=saving.NOT_SAVED)
    """``again(max_lr=…)`` measures anew; not saved nor pickled, for it holds the model and the loader."""

    def __post_init__(self) -> None:
        for name, values in (("loss", self.loss), ("metric", self.metric)):
            if values is not None and (self.lr.ndim != 1 or self.lr.shape != values.shape):
                raise ValueError(
                    f"lr, {name}: got shapes {self.lr.shape} and {values.shape}; give two arrays of one length"
                )
        if self.stopped not in get_args(StopReason):
            raise ValueError(f"stopped: got {self.stopped!r}; give one of {get_args(StopReason)}")

    @cached_property
    def bounded(self) -> Floats:
        """float64 ``[n]``: the loss, at most the limit of ``divergence``, which also stands for what is not finite."""
        _, limit = divergence(np.concatenate(([self.initial_loss], self.loss)))
        return np.where(np.isfinite(self.loss), np.minimum(self.loss, limit), limit)

    @cached_property
    def smoothed(self) -> Floats:
        """float64 ``[n]``: the bounded loss without its noise; see the function of this name."""
        return smoothed(self.bounded)

    @property
    def fitted_from(self) -> int | None:
        """The index from which on the loss is next to nothing, for some points at least; None for none."""
        above = np.flatnonzero(~(np.abs(self.loss) <= FITTED * abs(self.initial_loss)))
        first = int(above[-1]) + 1 if len(above) else 0
        return first if first + MIN_POINTS <= len(self.loss) else None

    @property
    def divergence_lr(self) -> float | None:
        """The rate from which on the smoothed loss, past its minimum, stays above all that it was before it, by more
        than the usual distance of a loss from it; the last rate if the run was stopped before that; None if neither
        happened."""
        smooth = self.smoothed
        if len(smooth):
            until, apart = int(smooth.argmin()) + 1, 0.0
            if len(smooth) > 4 * MIN_POINTS:  # enough to tell noise; where there is nothing else, so is the minimum
                until = max(until, len(smooth) // 4)
                apart = float(np.median(np.abs(self.bounded - smooth)[: max(until, len(smooth) // 2)]))
            below = np.flatnonzero(smooth <= smooth[:until].max() + NOISE_FACTOR * apart)
            if below[-1] + 1 < len(smooth):
                return float(self.lr[below[-1] + 1])
        return None if self.stopped == "completed" else float(self.lr[-1])

    @property
    def stability_lr(self) -> float | None:
        """The largest rate at which gradient descent is stable, from how fast the loss grows as it diverges; None for
        a sweep that did not diverge.

            sqrt((loss[i] - best) / (loss[i-1] - best)) = growth
            stability_lr = lr[i] * 2 * (1 + momentum) / (1 + momentum + growth + momentum / growth)

        the median over the last 3 rises. Beyond the limit of heavy-ball momentum the steepest direction grows by
        ``growth`` a step, which solves ``growth + momentum / growth = lr * lambda_max - 1 - momentum``; so on a
        quadratic this is ``2 * (1 + momentum) / lambda_max``, wherever noise and other directions hide the beginning
        of that growth. On other losses it is the limit of the curvature met there. Without a known momentum (other
        optimizers than SGD), or where it exploded within one step, the rate at which the final climb began.
        """
        if self.stopped == "completed" or not len(self.loss):
            return None
        end = len(self.loss) - (1 if math.isfinite(self.loss[-1]) else 2)
        first = end
        while first > 0 and self.loss[first - 1] < self.loss[first]:
            first -= 1
        if end < 1 or self.momentum is None or first == end:
            return float(self.lr[max(first, 0)])
        rises = np.arange(max(first, end - 3), end + 1)
        above = self.loss[rises] - min(self.loss[: end + 1].min(), self.initial_loss)
        known = above[:-1] > 0  # growth from the best itself could be any
        if not known.any():
            return float(self.lr[first])
        growth, lr = np.sqrt(above[1:][known] / above[:-1][known]), self.lr[rises[1:]][known]
        m = self.momentum
        return float(np.median(lr * 2 * (1 + m) / (1 + m + growth + m / growth)))

    def suggest(self, method: str = "edge", *, of: Literal["loss", "metric"] | None = None) -> Suggestion:
        """The learning rate that this curve suggests.

        The answer is the median over curves with the noise drawn anew, with the range of these answers. Where a sweep
        did not diverge, but fitted the data, points past that say nothing and are left out.

        Args:
            method: "edge", "steepest", "valley", "slide", "minimum_tenth" or "clr_bounds"; see the functions of these
                names.
            of: what to look at: the training "loss", or the held-out "metric" where that is a loss. "clr_bounds"
                takes the metric, which is then one that rises, such as the accuracy. None: the metric for
                "clr_bounds", else the loss.
        Raises:
            NoSuggestionError: the curve has no valid answer; the message says why.
            ValueError: an unknown method, or one that wants a metric where none was measured.
        """
        if method not in METHODS:
            raise ValueError(f"method: got {method!r}; give one of {sorted(METHODS)}")
        if of not in (None, "loss", "metric"):
            raise ValueError(f"of: got {of!r}; give 'loss', 'metric' or None")
        rises = method == "clr_bounds"
        if rises and of == "loss":
            raise ValueError("of: 'clr_bounds' needs a metric that rises; give 'metric', or leave it out")
        curves = (self, *self.repeats)
        if rises or of == "metric":
            return resampled(METHODS[method], [curve._looks(rises, method) for curve in curves])
        for curve in curves:
            curve._require_descent()
        judged = METHODS[method]
        if method == "edge" and any(curve._telling < len(curve.lr) for curve in curves):
            judged = partial(edge, beyond="there the data are fitted, and higher rates tell nothing")
        return resampled(judged, [(curve.lr[: curve._telling], curve.bounded[: curve._telling]) for curve in curves])

    @property
    def _telling(self) -> int:
        """The number of points that tell something: of a sweep that did not diverge, those until the data are fitted
        and a few more."""
        if self.stopped != "completed" or self.fitted_from is None:
            return len(self.lr)
        return self.fitted_from + MIN_POINTS

    def _looks(self, rises: bool, method: str) -> tuple[Floats, Floats]:
        """The points at which the metric was measured."""
        if self.metric is None:
            raise ValueError(
                f"method: {method!r} needs a held-out metric, and none was measured; call range_test with val_loader"
                + (" and metric='accuracy'" if rises else "")
            )
        if rises == (self.metric_name == VALIDATION_LOSS):
            better = "one that rises, such as the accuracy" if rises else "the validation loss"
            raise ValueError(f"method: {method!r} needs {better}, and the metric measured is the {self.metric_name}")
        at = ~np.isnan(self.metric)
        if at.sum() < MIN_POINTS:
            raise NoSuggestionError(
                f"the {self.metric_name} was looked at {at.sum()} times up to {self.lr[-1]:.3g}, fewer than "
                f"{MIN_POINTS}: take a smaller val_every or more steps, or, if the sweep diverged, a lower max_lr"
            )
        return self.lr[at], self.metric[at]

    def _require_descent(self) -> None:
        """Raises NoSuggestionError if the loss does not fall by more than noise would have it."""
        smooth = self.smoothed
        if len(smooth) < MIN_POINTS:
            return  # the methods say so
        lowest = int(smooth.argmin())
        few = len(smooth) <= 4 * MIN_POINTS  # the smoothed curve then follows the noise, which tells itself otherwise
        if lowest < MIN_POINTS and not few:
            climbs = "" if self.divergence_lr is None else f" and diverges at {self.divergence_lr:.3g}"
            raise NoSuggestionError(
                f"the loss never falls: it is lowest at {self.lr[lowest]:.3g}{climbs}; lower min_lr, or, if the model "
                "is trained already, keep to rates below that"
            )
        fall = float(np.median(smooth[: max((lowest + 1) // 2, 1)]) - smooth[lowest])
        apart = noise(self.bounded) if few else float(np.median(np.abs(self.bounded - smooth)[:lowest]))
        if fall < NOISE_FACTOR * apart:
            raise NoSuggestionError(
                f"the loss falls by {max(fall, 0):.3g} only, too little beside its usual noise "
                f"({apart:.3g}): take larger batches (or accumulate), more steps or a higher max_lr, "
                "unless the model is trained already"
            )

    def extended(self, max_lr: float) -> LRCurve:
        """The range test once more, up to another highest rate, on the model as it is now.

        Raises:
            ValueError: the curve was loaded or copied, or ``max_lr`` is not above its last rate.
        """
        if self.again is None:
            raise ValueError("extended: this curve was loaded from a file or copied; call range_test(..., max_lr=...)")
        if not max_lr > self.lr[-1]:
            raise ValueError(f"max_lr: got {max_lr}; give more than the curve's last rate, {self.lr[-1]:.3g}")
        return self.again(max_lr=max_lr)

    def plot(self, ax: Axes | None = None, *, suggestion: Suggestion | None = None) -> Axes:
        """Draw loss over log lr; see ``clrfast.plot.lr_curve``."""
        from ..plot import lr_curve

        return lr_curve(self, ax, suggestion=suggestion)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the curve as JSON; numbers that are not finite become strings."""
        saving.write(path, _FORMAT, saving.plain(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LRCurve:
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file holds something else; the message names the entry.
            OSError: there is no such file, or it cannot be read.
        """
        return saving.read(path, _FORMAT, cls.of_plain, "LRCurve")

    @classmethod
    def of_plain(cls, data: Fields) -> LRCurve:
        """The curve of which ``saving.plain`` made ``data``.

        Raises:
            ValueError: an entry is missing, unknown or no such value; the message names it.
        """
        repeats = tuple(map(cls._of_sweep, data.each("repeats"))) if data.holds("repeats") else ()
        return replace(cls._of_sweep(data.without("repeats")), repeats=repeats)

    @classmethod
    def _of_sweep(cls, data: Fields) -> LRCurve:
        """A curve without its repeats, which have none of their own."""
        if data.holds("repeats") and data.items("repeats"):
            raise ValueError(f"{data.path('repeats')}: a repeat has repeats of its own; give none")
        data.only(*(f.name for f in fields(cls) if f.name != "again"))
        given: dict[str, Any] = {
            "lr": data.ascending("lr", 0.0),
            "loss": data.numbers("loss"),
            "initial_loss": data.number("initial_loss"),
            "stopped": data.text("stopped"),
            "stop_reason": data.text("stop_reason"),
            "metric": data.numbers("metric") if data.holds("metric") else None,
            "metric_name": data.text("metric_name") if data.holds("metric_name") else "",
            "momentum": data.finite("momentum", 0.0) if data.holds("momentum") else None,
        }
        with data.named():
            curve = cls(**given)
        if not len(curve.lr) or curve.lr[0] == 0:
            raise ValueError(f"{data.path('lr')}: got {short_repr(data.any('lr'))}; give rates above 0, at least one")
        return curve

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "again": None}

    def _repr_png_(self) -> bytes | None:
        """The picture, for notebooks; None without matplotlib."""
        try:
            suggestion = self.suggest()
        except NoSuggestionError:
            suggestion = None
        try:
            picture = io.BytesIO()
            self.plot(suggestion=suggestion).figure.savefig(picture, format="png")  # type: ignore[union-attr]
        except ModuleNotFoundError:
            return None
        return picture.getvalue()

    def _repr_html_(self) -> str:
        """The answer and why, for notebooks that show no picture."""
        try:
            answer = self.suggest()
            told = (
                f"<b>suggested learning rate: {answer.max_lr:.3g}</b> ({answer.low:.2g} to {answer.high:.2g})<br>"
                f"{escape(answer.reason)}"
            )
        except NoSuggestionError as error:
            told = f"<b>no suggestion:</b> {escape(str(error))}"
        return f"<p>{told}<br>range test: {escape(self.stop_reason)}</p>"
