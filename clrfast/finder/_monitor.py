"""How the best rate moves while training goes on: range tests at the end of epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .._checks import is_whole
from ..plot import rates
from ..tasks import Task
from ..training._joined_optimizer import join_optimizers
from ..training._step_options import resolve_options
from ..training._task_argument import resolve_task
from ._curve import LRCurve
from ._experiment import Experiment
from ._range_test import RangeTestKeywords, range_test
from ._rules import RULES
from ._suggestion import NoSuggestionError, Suggestion

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Unpack


@dataclass(frozen=True)
class RateRecord:
    """What a monitor found at the end of one epoch.

    Attributes:
        epoch: its number, as given.
        curve: the range test's.
        suggestion: what the curve suggests; None where it has no answer.
        reason: the suggestion's, or why there is none.
        lr: the highest rate of the optimizer's groups at that time; None without an optimizer.
    """

    epoch: int
    curve: LRCurve
    suggestion: Suggestion | None
    reason: str
    lr: float | None


class RateMonitor:
    """Range tests on a model in training, every few epochs, that change nothing of the training.

    Each takes up to about 100 training steps ("auto") and, meanwhile, the memory for one more copy of parameters and
    optimizer state; see ``range_test``.

        monitor = RateMonitor(model, loss_fn, loader, optimizer=optimizer, every_n_epochs=5)
        for epoch in range(epochs):
            ...  # train
            suggestion = monitor(epoch)  # None, except at epochs 0, 5, 10, ...
        monitor.plot().savefig("rates.png")

    A suggestion is about the next 100 steps from here: on a trained model the rate at which the loss still falls, or no
    answer where it does not fall any more.

    On several ranks, each has a monitor of its own and all call theirs at the same epochs; their records agree. See
    ``range_test``, and ``group`` among its arguments.

    Args:
        model, loss_fn, loader: as of ``range_test``, or a ``Task``; a loader that is an iterator is used up by it.
        optimizer: the one that trains the model, so that its momentum counts, or a list; None: a new SGD each time.
        every_n_epochs: epochs from one test to the next.
        method: see ``LRCurve.suggest``.
        keywords: any other argument of ``range_test``, a ``StepOptions`` as ``options`` among them.
    Attributes:
        history: a ``RateRecord`` for each test, in order.
    Raises:
        ValueError: an argument outside of its range, or one that ``range_test`` refuses.
        TypeError: an argument that ``range_test`` does not have.
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
        self._range_test = partial(range_test, model, loss_fn, loader, **keywords)
        self._optimizer, self._every_n_epochs, self._method = join_optimizers(optimizer), int(every_n_epochs), method
        self.history: list[RateRecord] = []

    def __call__(self, epoch: int) -> Suggestion | None:
        """A range test if ``epoch`` is a multiple of ``every_n_epochs``: its suggestion, recorded in ``history``.

        Args:
            epoch: the number of the epoch that has just ended, >= 0.
        Returns:
            The suggestion; None in other epochs, and where the curve has no answer: the record tells why.
        Raises:
            ValueError, RankError: ``epoch`` is no such number, or what ``range_test`` raises.
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
        """Draw the suggested rates over the epochs, and the curves; see ``clrfast.plot.rates``."""
        return rates(self.history)
