"""``LRCurve``: the losses of a range test against the rate, with suggestions, divergence, plot and file."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

from .. import _saving as saving
from .._checks import count, require_positive, short_repr
from .._fields import Fields
from .._metric_writers import write_series
from ..plot import lr_curve
from ..tasks import Task
from ._bootstrap import bootstrap
from ._measured_curve import MeasuredCurve
from ._stability import require_descent
from ._suggestion import NoSuggestionError, Suggestion
from ._suggestion_rules import RULES, edge, require_close_rates
from ._trial_suggestion import estimate_from_ramp, suggest_from_trials
from ._trials import Trials, describe_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMAT = "clrfast.LRCurve/1"
_COUNTS = ("update_steps", "extra_forward_passes")


@dataclass(frozen=True, eq=False)
class LRCurve(MeasuredCurve):
    """Loss against learning rate, as a range test measured it, with suggestions, plot and file.

    Attributes:
        lr: float64 ``[n]``, ascending, > 0.
        loss: float64 ``[n]``, raw. ``loss[i]`` is the loss on the next batch after the update with ``lr[i]``.
        initial_loss: the loss before the first update.
        stopped: "completed" (reached ``max_lr``), "diverged" or "non-finite".
        stop_reason: one sentence that says where and why it stopped.
        metric: float64 ``[n]``, on validation batches after the update with ``lr[i]``, NaN where it was not measured;
            None without such batches.
        metric_name: "validation loss", "accuracy", or the name of the user's function.
        momentum: momentum of the SGD that the range test trained with; None for other optimizers.
        probe_loss: float64 ``[n]``, the loss of fixed training batches after the update with ``lr[i]``, NaN where it
            was not measured; None without trials.
        repeats: curves of further ramps on other batches.
        trials: short 1cycles of growing length after the ramps, which decide the suggestion. Empty without trials.
        prior_lr: the rate that is expected to train a model of this size best. The suggestion from trials is combined
            with it. None without trials, and for optimizers other than Adam and its variants.
        update_steps: number of updates that the range test made in all ramps and trials, including those of a ramp that
            a bad batch ended. An update takes ``accumulate`` batches. None for curves in ``repeats``, for curves made
            by hand, and for files written without it.
        extra_forward_passes: number of evaluations of one batch, on this rank, that led to no update: of probe and
            validation batches, of batches suspected to be bad, of the next batch after each ramp and trial that
            reaches its end, and of updates that were skipped. A loss or metric that calls the model several times
            counts once. None as above.
    """

    repeats: tuple[LRCurve, ...] = ()
    trials: tuple[Trials, ...] = ()
    prior_lr: float | None = None
    update_steps: int | None = None
    extra_forward_passes: int | None = None
    _range_test: Callable[..., LRCurve] | None = field(default=None, repr=False, metadata=saving.NOT_SAVED)
    """``range_test`` with the ramp of this curve, for ``extended``. Neither saved nor pickled."""

    def suggest(self, method: str | None = None, *, of: Literal["loss", "metric"] | None = None) -> Suggestion:
        """Suggest a learning rate, with an interval and a reason.

        The answer of a rule for the ramp is the median over curves with resampled noise (a wild bootstrap), and the
        interval holds 90 % of these answers. The interval of trials is a factor of 3.2 either way; see ``Suggestion``.
        Points past a perfect fit of the data are left out, unless the loss diverged.

        Args:
            method: "trials", or a rule for the ramp alone: "edge", "steepest", "valley", "slide", "minimum_tenth" or
                "clr_bounds"; see the functions of these names. None: "trials" if there are any and ``of`` is not
                "metric", else "edge".
            of: "loss" for the training loss, or "metric" for the validation metric. "clr_bounds" needs a metric that
                rises, such as the accuracy; the other rules need the validation loss. None: "metric" for "clr_bounds",
                else "loss".
        Raises:
            NoSuggestionError: the curve has no valid answer; the message says why.
            ValueError: an unknown method, or a method whose metric was not measured.
        """
        if method is None:
            method = "trials" if self.trials and of != "metric" else "edge"
        if method not in (*RULES, "trials"):
            raise ValueError(f"method: got {method!r}; give one of {sorted(RULES)}, or 'trials'")
        if of not in (None, "loss", "metric"):
            raise ValueError(f"of: got {of!r}; give 'loss', 'metric' or None")
        rises = method == "clr_bounds"
        if rises and of == "loss":
            raise ValueError("of: 'clr_bounds' needs a metric that rises; give 'metric', or leave it out")
        if method == "trials":
            return self._suggest_from_trials(of)
        if not rises:
            self._require_close_rates(method, of)
        return self._suggest_by_rule(method, of)

    def _require_close_rates(self, method: str, of: str | None) -> None:
        for curve in (self, *self.repeats):
            if of == "metric":
                lr, _ = curve.measured_metric(False, method)
                require_close_rates(lr, "a smaller val_every, or more steps")
            else:
                require_close_rates(curve.lr)

    def _suggest_by_rule(self, method: str, of: str | None = None) -> Suggestion:
        """Suggest by a rule for the ramp; see ``suggest``."""
        rises = method == "clr_bounds"
        curves = (self, *self.repeats)
        if rises or of == "metric":
            return bootstrap(RULES[method], [curve.measured_metric(rises, method) for curve in curves])
        for curve in curves:
            require_descent(curve.lr, curve.bounded, curve.smoothed, curve.divergence_lr)
        ends = [curve.informative_end for curve in curves]
        rule = RULES[method]
        if method == "edge" and any(end < len(curve.lr) for curve, end in zip(curves, ends, strict=True)):
            rule = partial(edge, beyond="the data are fitted there, so higher rates show nothing")
        return bootstrap(rule, [(c.lr[:end], c.bounded[:end]) for c, end in zip(curves, ends, strict=True)])

    def _suggest_from_trials(self, of: str | None) -> Suggestion:
        if not self.trials:
            raise ValueError("method: 'trials' needs trials, and none were made; call range_test with trials=True")
        if of == "metric":
            raise ValueError("of: trials are judged by the training loss; give 'loss', or leave it out")
        base_lr = None if self._edge is None else self._edge.base_lr
        return suggest_from_trials(self.trials, self.ramp_lr, self.noise, base_lr, self.prior_lr)

    @property
    def ramp_lr(self) -> float:
        """The best rate as the ramps alone show it; see ``estimate_from_ramp``."""
        edge_lr = None if self._edge is None else self._edge.max_lr
        estimates = [estimate_from_ramp(curve.lr, curve.probe_loss, edge_lr) for curve in (self, *self.repeats)]
        return float(np.exp(np.mean(np.log(estimates))))

    @cached_property
    def _edge(self) -> Suggestion | None:
        """The answer of the rule "edge"; None if it has none."""
        try:
            return self._suggest_by_rule("edge")
        except NoSuggestionError:
            return None

    def extended(
        self,
        max_lr: float,
        model: nn.Module | Task,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        loader: Iterable[Any] | None = None,
        **keywords: Any,
    ) -> LRCurve:
        """Run the range test of this curve up to another highest rate, on the model as it is now.

        The curve keeps only ``min_lr``, ``steps``, ``spacing``, ``repeats``, ``stop_factor``, ``trials`` and
        ``max_steps`` of its call. Give all others again, such as ``optimizer`` or ``accumulate``; what is left out has
        the default of ``range_test``.

        Args:
            max_lr: the new end of the ramp, above the last rate of this curve.
            model, loss_fn, loader: as for ``range_test``; a ``Task`` may replace all three.
            keywords: all other arguments of ``range_test``. They override those of the curve.
        Raises:
            ValueError: the curve was loaded or copied; ``max_lr`` is not above its last rate; or as for ``range_test``.
        """
        if self._range_test is None:
            raise ValueError("extended: this curve was loaded from a file or copied; call range_test(..., max_lr=...)")
        require_positive(max_lr=max_lr)
        if not max_lr > self.lr[-1]:
            raise ValueError(f"max_lr: got {max_lr}; give more than the curve's last rate, {self.lr[-1]:.3g}")
        return self._range_test(model, loss_fn, loader, max_lr=max_lr, **keywords)

    def plot(self, ax: Axes | None = None, *, suggestion: Suggestion | None = None) -> Axes:
        """Draw the loss against the learning rate; see ``clrfast.plot.lr_curve``."""
        return lr_curve(self, ax, suggestion=suggestion)

    def log_to(self, writer: Any) -> None:
        """Write the curve to a logger: lr, loss, smoothed loss and the metric, if there is one, by the point's index.

        The names are "lr_range_test/lr", "lr_range_test/loss" and so on, and "lr_range_test/suggested_lr" if the curve
        has a suggestion.

        Args:
            writer: as for ``StepControl.log_to``.
        Raises:
            TypeError: ``writer`` has no method to log with.
        """
        series: dict[str, Any] = {"lr": self.lr, "loss": self.loss, "smoothed_loss": self.smoothed}
        if self.metric is not None:
            series[self.metric_name.replace(" ", "_")] = self.metric
        try:
            suggested_lr = self.suggest().max_lr
        except NoSuggestionError:
            suggested_lr = math.nan
        series["suggested_lr"] = np.where(np.arange(len(self.lr)) == 0, suggested_lr, math.nan)
        write_series(writer, "lr_range_test", series)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the curve as JSON. Numbers that are not finite become strings.

        Raises:
            NotWrittenError: the file cannot be written; an existing file is unchanged.
        """
        saving.write_json(path, _FORMAT, saving.to_plain(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LRCurve:
        """Read a curve that ``save`` wrote.

        Raises:
            ValueError: the file holds something else; the message names the entry.
            OSError: there is no such file, or it cannot be read.
        """
        return saving.read_json(path, _FORMAT, cls.from_plain, "LRCurve")

    @classmethod
    def from_plain(cls, data: Fields) -> LRCurve:
        """Make a curve from the plain data of ``saving.to_plain``.

        Raises:
            ValueError: an entry is missing, unknown or of another kind; the message names it.
        """
        repeats = tuple(map(cls._without_repeats, data.dicts("repeats"))) if data.has("repeats") else ()
        return replace(cls._without_repeats(data.without("repeats")), repeats=repeats)

    @classmethod
    def _without_repeats(cls, data: Fields) -> LRCurve:
        """Make one curve; a repeat has no repeats of its own."""
        if data.has("repeats") and data.values("repeats"):
            raise ValueError(f"{data.path('repeats')}: a repeat has repeats of its own; give none")
        data.require_known(*(f.name for f in fields(cls) if f.name != "_range_test"))
        given: dict[str, Any] = {
            "lr": data.ascending("lr", 0.0),
            "loss": data.numbers("loss"),
            "initial_loss": data.finite("initial_loss", -math.inf),
            "stopped": data.text("stopped"),
            "stop_reason": data.text("stop_reason"),
            "metric": data.numbers("metric") if data.has("metric") else None,
            "metric_name": data.text("metric_name") if data.has("metric_name") else "",
            "momentum": data.finite("momentum", 0.0) if data.has("momentum") else None,
            "probe_loss": data.numbers("probe_loss") if data.has("probe_loss") else None,
            "trials": tuple(map(Trials.from_plain, data.dicts("trials"))) if data.has("trials") else (),
            "prior_lr": data.positive("prior_lr") if data.has("prior_lr") else None,
            **{name: data.integer(name, 0) if data.has(name) else None for name in _COUNTS},
        }
        with data.prefix_errors():
            curve = cls(**given)
        if not len(curve.lr) or curve.lr[0] == 0:
            raise ValueError(f"{data.path('lr')}: got {short_repr(data.get('lr'))}; give rates above 0, at least one")
        return curve

    def __repr__(self) -> str:
        trials = f", {count(len(self.trials), 'length')} of trials" if self.trials else ""
        return f"LRCurve({describe_points(self.lr)}{trials}: {self.stop_reason})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_range_test": None}

    def _repr_png_(self) -> bytes | None:
        """Draw the curve for a notebook; None without matplotlib."""
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
        """Format the suggestion and its reason, for notebooks that show no picture."""
        try:
            answer = self.suggest()
            text = (
                f"<b>suggested learning rate: {answer.max_lr:.3g}</b> ({answer.low:.2g} to {answer.high:.2g}), "
                f"{answer.confidence} confidence<br>"
                f"{escape(answer.reason)}"
            )
        except NoSuggestionError as error:
            text = f"<b>no suggestion:</b> {escape(str(error))}"
        return f"<p>{text}<br>range test: {escape(self.stop_reason)}</p>"
