"""How the best rate moves while training goes on: range tests at the end of epochs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .._checks import is_whole
from ..plot import rates
from ..training._joined_optimizer import Optimizers, joined
from ._curve import LRCurve
from ._experiment import Bench
from ._range_test import range_test
from ._rules import RULES
from ._suggestion import NoSuggestionError, Suggestion

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        model, loss_fn, loader: as of ``range_test``; a loader that is an iterator is used up by it.
        optimizer: the one that trains the model, so that its momentum counts, or a list; None: a new SGD each time.
        every_n_epochs: epochs from one test to the next.
        method: see ``LRCurve.suggest``.
        options: any other argument of ``range_test``.
    Attributes:
        history: a ``RateRecord`` for each test, in order.
    Raises:
        ValueError: an argument outside of its range, or one that ``range_test`` refuses.
        TypeError: an option that ``range_test`` does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        loader: Iterable[Any] | None = None,
        *,
        optimizer: Optimizers | None = None,
        every_n_epochs: int = 5,
        method: str = "edge",
        **options: Any,
    ):
        if not is_whole(every_n_epochs) or every_n_epochs < 1:
            raise ValueError(f"every_n_epochs: got {every_n_epochs!r}; give a whole number of epochs, at least 1")
        if method not in RULES:
            raise ValueError(f"method: got {method!r}; give one of {sorted(RULES)}")
        known = inspect.signature(range_test).parameters
        for name in options:
            if name not in known:
                raise TypeError(f"{name}: range_test has no such argument; leave it out, or give one of {list(known)}")
        # What is wrong with these is told now, not after an epoch of training.
        of_bench = inspect.signature(Bench).parameters
        Bench(
            model,
            loss_fn,
            loader,
            optimizer=optimizer,
            **{name: value for name, value in options.items() if name in of_bench},
        )
        self._arguments = {"model": model, "loss_fn": loss_fn, "loader": loader, "optimizer": optimizer, **options}
        self._optimizer, self._every_n_epochs, self._method = joined(optimizer), int(every_n_epochs), method
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
        curve = range_test(**self._arguments)
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
