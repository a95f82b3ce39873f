"""``RateMonitor``: runs range tests at the end of epochs, to show how the best rate moves during a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .._checks import is_whole
from ..plot import rates
from ..tasks import Task
from ..training._optimizer_list import join_optimizers
from ..training._step_options import resolve_options
from ..training._task_argument import resolve_task
from ._curve import LRCurve
from ._experiment import Experiment
from ._range_test import RangeTestKeywords, range_test
from ._suggestion import NoSuggestionError, Suggestion
from ._suggestion_rules import RULES

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack


@dataclass(frozen=True)
class RateRecord:
    """The result of one range test of a monitor.

    Attributes:
        epoch: the number of the epoch that had just ended.
        curve: the curve of the range test.
        suggestion: the suggestion of the curve; None if it has no valid answer.
        reason: the reason of the suggestion, or of its absence.
        lr: the highest rate of the optimizer's groups at that time; None without an optimizer.
    """

    epoch: int
    curve: LRCurve
    suggestion: Suggestion | None
    reason: str
    lr: float | None


class RateMonitor:
    """Runs a range test every few epochs of a training, without changing the training.

    A test takes about 100 training steps and memory for one more copy of the parameters and the optimizer state.

        monitor = RateMonitor(model, loss_fn, loader, optimizer=optimizer, every_n_epochs=5)
        for epoch in range(epochs):
            ...  # train
            suggestion = monitor(epoch)  # None, except at epochs 0, 5, 10, ...
        monitor.plot().savefig("rates.png")

    A suggestion is valid for about the next 100 steps. On a trained model it is the rate at which the loss still falls;
    there is none if the loss no longer falls.

    On several ranks, each rank has a monitor and calls it at the same epochs. Their records agree.

    Args:
        model, loss_fn, loader: as for ``range_test``, or a ``Task``. A loader that is an iterator is used up.
        every_n_epochs: number of epochs between two tests, at least 1.
        method: the rule of the suggestion; see ``LRCurve.suggest``.
        keywords: all other arguments of ``range_test``. Give the ``optimizer`` of the training, so that its momentum
            counts; without it each test has a new SGD.
    Attributes:
        history: one ``RateRecord`` per test, in order.
    Raises:
        ValueError: an argument is out of range, or ``range_test`` refuses it.
        TypeError: ``range_test`` has no such argument.
    """

    def __init__(
        self,
        model: nn.Module | Task,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        loader: Iterable[Any] | None = None,
        *,
        every_n_epochs: int = 5,
        method: str = "edge",
        **keywords: Unpack[RangeTestKeywords],
    ):
        if not is_whole(every_n_epochs) or every_n_epochs < 1:
            raise ValueError(f"every_n_epochs: got {every_n_epochs!r}; give a whole number of epochs, at least 1")
        if method not in RULES:
            raise ValueError(f"method: got {method!r}; give one of {sorted(RULES)}")
        # Bad arguments are reported now, not after an epoch of training.
        known = RangeTestKeywords.__optional_keys__
        options = resolve_options(keywords.get("options"), keywords, "range_test", known)
        optimizer = keywords.get("optimizer")
        Experiment(resolve_task(model, loss_fn, loader, keywords.get("compute_loss")), options, optimizer=optimizer)
        keywords.setdefault("trials", False)
        self._range_test = partial(range_test, model, loss_fn, loader, **keywords)
        self._optimizer, self._every_n_epochs, self._method = join_optimizers(optimizer), int(every_n_epochs), method
        self.history: list[RateRecord] = []

    def __call__(self, epoch: int) -> Suggestion | None:
        """Run a range test if ``epoch`` is a multiple of ``every_n_epochs``, and record it in ``history``.

        Args:
            epoch: the number of the epoch that has just ended, >= 0.
        Returns:
            The suggestion. None in other epochs, and if the curve has no valid answer; the record has the reason.
        Raises:
            ValueError: ``epoch`` is not a whole number >= 0; or as for ``range_test``.
            RankError: as for ``range_test``.
        """
        if not is_whole(epoch) or epoch < 0:
            raise ValueError(f"epoch: got {epoch!r}; give the number of the epoch that has just ended, 0 or more")
        if epoch % self._every_n_epochs:
            return None
        lr = None if self._optimizer is None else max(float(group["lr"]) for group in self._optimizer.param_groups)
        curve = self._range_test()
        suggestion = None
        try:
            suggestion = curve.suggest(self._method)
            reason = suggestion.reason
        except NoSuggestionError as error:
            reason = str(error)
        self.history.append(RateRecord(int(epoch), curve, suggestion, reason, lr))
        return suggestion

    def plot(self) -> Figure:
        """Draw the suggested rates over the epochs, and the curves. See ``clrfast.plot.rates``."""
        return rates(self.history)
