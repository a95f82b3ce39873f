"""Searches for a part of the settings: ``find_weight_decay``, ``find_momentum``, and ``find_pair`` for two at once."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from .._checks import is_whole, require_finite, require_positive
from .._progress import Progress, show_progress
from ..diagnosis import History
from ..schedules._policies import Momentum
from ..tasks import Task
from ..training import StepOptions
from ..training._losses import ComputeLoss
from ..training._step_options import StepKeywords, resolve_options
from ..training._task_argument import resolve_task
from ._optimizers import OptimizerName, require_optimizer_name
from ._pair_sampler import MIN_PAIR_TRIALS, PairResult, next_pair
from ._pair_trials import PairTrials
from ._plan import default_grid, due_momenta, due_weight_decays
from ._setting_trials import (
    DEFAULT_REPEATS,
    DEFAULT_STEPS,
    GRID,
    MOMENTUM_VALUES,
    MomentumTrials,
    SettingRuns,
    WeightDecayTrials,
    count_steps,
)
from ._stacked_trials import MAX_COPIES
from ._study import RANGE_TEST_STEPS, TrialSpec, range_test_key
from ._trial_runner import TRIAL_VALIDATIONS, TrialRunner

if TYPE_CHECKING:
    from typing_extensions import Unpack

VALUES_PER_ROUND = 2
"""Maximum number of new weight decays in a refinement round. The progress expects one such round."""


def find_weight_decay(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    val_loader: Iterable[Any] | None = None,
    grid: Sequence[float] | None = None,
    optimizer: OptimizerName = "sgd",
    max_lr: float | None = None,
    momentum: Momentum = (0.95, 0.85),
    steps: int = DEFAULT_STEPS,
    repeats: int = DEFAULT_REPEATS,
    refine: bool = True,
    max_steps: int | None = None,
    compute_loss: ComputeLoss | None = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> WeightDecayTrials:
    """Run short 1cycles with several weight decays, and judge them by the validation loss after them.

    All trials start from the current model with the same random numbers and batches. Afterwards everything is
    restored, as after ``range_test``. Weight decay applies to all trainable parameters. Its effect grows with
    ``lr * weight_decay * steps``, so a trial much shorter than a tenth of the training shows little.

    Smith's advice for the grid: a shallow network, or few and simple data, need more decay, ``(1e-2, 1e-3, 1e-4)``; a
    deep network on complex data needs less, ``(1e-4, 1e-5, 1e-6, 0)``. Cycling the weight decay does not help. The rate
    regularises too, so the range test may suggest another rate with another weight decay.

    Args:
        model, loss_fn, loader, compute_loss: see ``range_test``; ``model`` may be a ``Task``. The loader can be
            iterated repeatedly.
        val_loader: samples that are not in ``loader``; None: the task's. The first batches are used, at most one for
            every ten steps of a trial. The last validation loss of a trial counts; the lowest one would hide
            overfitting, as early stopping does.
        grid: weight decays to try, >= 0, at least 2. None: 1e-3, 1e-4, 1e-5 and 0 for SGD, and 100 times as much for
            AdamW.
        optimizer: name of the optimizer of all runs: "sgd" or "adamw". The momentum is beta1 of AdamW.
        max_lr: highest rate of the 1cycles, > 0; None: the suggestion of ``range_test``.
        momentum: (upper, lower) to cycle it against the rate, or a number.
        steps: length of each trial, >= 20.
        repeats: number of trials for each value, >= 2, each on the batches after those of the one before. They show
            the noise.
        refine: whether to bisect the exponent around the best value to one significant digit (around 1e-4 between 1e-3
            and 1e-5 also 3e-4 and 3e-5). If the largest value is as good as the best, refinement continues above it,
            for at most 4 rounds.
        max_steps: limit on the steps of all trials together, at which refinement ends; the grid is always tried. None:
            no limit.
        progress: ``progress(done, total, shown)``; the total includes one round of refinement, and grows with more.
            True shows a bar with tqdm.
        options, step_options: see ``range_test``.
    Returns:
        The results of all trials; ``suggest()`` returns the weight decay to train with.
    Raises:
        TypeError: a keyword is unknown.
        ValueError: an argument is wrong, or the validation data are visibly in the training data.
        NoSuggestionError: ``max_lr`` is None, and the range test has no valid answer.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", sections 4.4 and 5.
    """
    require_optimizer_name(optimizer)
    values = _checked_values(
        default_grid(optimizer) if grid is None else grid, name="grid", below=math.inf, example=GRID
    )
    _require_repeats(repeats)
    most = 0.0 if not refine else math.inf if max_steps is None else max_steps // (repeats * steps)
    given = (model, loss_fn, loader, compute_loss, val_loader)
    search = _Search(given, options, step_options, "find_weight_decay", optimizer, steps, max_lr)
    with show_progress(progress, "weight decay", reaches_total=False) as show:
        runs = search.run(
            lambda runs: due_weight_decays(runs, values, most, optimizer, repeats),
            lambda spec, value: replace(spec, momentum=_hashable(momentum), weight_decay=value),
            repeats * (len(values) + (VALUES_PER_ROUND if refine else 0)),
            show,
        )
    trials = WeightDecayTrials.of(runs, search.max_lr, optimizer)
    assert trials is not None  # there are two values, and no trial is missing
    return trials


def find_momentum(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    val_loader: Iterable[Any] | None = None,
    values: Sequence[float] = MOMENTUM_VALUES,
    max_lr: float | None = None,
    weight_decay: float = 0.0,
    optimizer: OptimizerName = "sgd",
    steps: int = DEFAULT_STEPS,
    repeats: int = DEFAULT_REPEATS,
    compute_loss: ComputeLoss | None = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> MomentumTrials:
    """Run short 1cycles with several constant momenta, and judge them by the validation loss after them.

    A momentum range test would not help: if the momentum rises during a run, the loss falls up to the largest values
    and shows no optimum (section 4.3 of the report). Trials with constant momenta show it. All of them are 1cycles of
    the rate with the same ``max_lr``. A larger momentum takes larger effective steps, ``lr / (1 - momentum)``, so the
    result is valid for that rate only. Then the suggested momentum is cycled against the rate. According to the report,
    that is as good as the best constant value, and more stable.

    All trials start from the current model with the same random numbers and batches. Afterwards everything is
    restored, as after ``range_test``.

    Args:
        model, loss_fn, loader, compute_loss, val_loader, max_lr, optimizer, repeats, progress, options, step_options:
            see ``find_weight_decay``.
        values: momenta to try, in [0, 1), at least 2.
        weight_decay: weight decay of all trials, >= 0.
        steps: length of each trial, >= 20. A momentum needs several times ``1 / (1 - momentum)`` steps to show its
            effect; 200 are few for 0.99.
    Returns:
        The results of all trials; ``suggest()`` returns the best constant value, ``cycle`` the range to cycle in.
    Raises:
        TypeError, ValueError, NoSuggestionError: see ``find_weight_decay``.

    Source: Smith 2018, "A disciplined approach to neural network hyper-parameters: Part 1", sections 4.3 and 5.
    """
    require_optimizer_name(optimizer)
    tried = _checked_values(values, name="values", below=1.0, example=MOMENTUM_VALUES)
    _require_repeats(repeats)
    require_finite(weight_decay=weight_decay)
    if weight_decay < 0:
        raise ValueError(f"weight_decay: got {weight_decay!r}; give a number of at least 0")
    given = (model, loss_fn, loader, compute_loss, val_loader)
    search = _Search(given, options, step_options, "find_momentum", optimizer, steps, max_lr)
    with show_progress(progress, "momentum", reaches_total=False) as show:
        runs = search.run(
            lambda runs: due_momenta(runs, tried, repeats),
            lambda spec, value: replace(spec, momentum=value, weight_decay=weight_decay),
            repeats * (len(tried) + 1),
            show,
        )
    trials = MomentumTrials.of(runs, search.max_lr)
    assert trials is not None  # there are two values, and no trial is missing
    return trials


def find_pair(
    model: nn.Module | Task,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    loader: Iterable[Any] | None = None,
    *,
    val_loader: Iterable[Any] | None = None,
    max_lr: float,
    steps: int,
    max_steps: int,
    momentum: Momentum = (0.95, 0.85),
    optimizer: OptimizerName = "sgd",
    compute_loss: ComputeLoss | None = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> PairTrials:
    """Run 1cycles that are about as long as the training, with several pairs of a rate and a weight decay.

    Short trials do not overfit. So they show neither the best decay nor the best rate with it, and these trials are few
    and long. The first has ``max_lr`` and a weight decay of 1e-3. Each further one is placed where a Gaussian process
    through the losses expects the largest improvement, on a lattice: quarter decades of the rate, weight decays of
    1e-n, and 3e-n above 1e-3. All these decays are 100 times larger for AdamW. The suggestion takes into account that
    a rate just below failure is risky; see ``PairTrials.expected_loss``.

    All trials start from the current model with the same random numbers and batches. Afterwards everything is
    restored, as after ``range_test``.

    Args:
        model, loss_fn, loader, compute_loss, val_loader, momentum, optimizer, progress, options, step_options: see
            ``find_weight_decay``.
        max_lr: highest rate of the first trial, such as the suggestion of ``range_test``; > 0.
        steps: length of each trial, >= 40. It should be as long as the training, at least a quarter of it.
        max_steps: limit on the steps of all trials together, >= 3 * ``steps``; no trial starts that could exceed it. 12
            times ``steps`` usually suffice. Fewer are used if no more improvement is expected.
    Returns:
        The results of all trials; ``suggest()`` returns the pair to train with.
    Raises:
        TypeError: a keyword is unknown.
        ValueError: an argument is wrong, or the validation data are visibly in the training data.
    """
    require_optimizer_name(optimizer)
    require_positive(max_lr=max_lr)
    least = 2 * TRIAL_VALIDATIONS
    if not is_whole(steps) or steps < least:
        raise ValueError(f"steps: got {steps!r}; give a whole number of updates for each run, at least {least}")
    if not is_whole(max_steps) or max_steps < MIN_PAIR_TRIALS * steps:
        raise ValueError(
            f"max_steps: got {max_steps!r}; give at least {MIN_PAIR_TRIALS} times the {steps} steps of a run, for the "
            f"first {MIN_PAIR_TRIALS}"
        )
    given = (model, loss_fn, loader, compute_loss, val_loader)
    search = _Search(given, options, step_options, "find_pair", optimizer, steps, max_lr)
    results: list[PairResult] = []
    histories: list[History] = []
    with show_progress(progress, "rate and weight decay", reaches_total=False) as show:
        while len(results) < MIN_PAIR_TRIALS or count_steps(histories) + steps <= max_steps:
            point = next_pair(results, (), {optimizer: float(max_lr)}, int(steps))
            if point is None:
                break
            spec = replace(search.spec, stage="pair", max_lr=point.max_lr, weight_decay=point.weight_decay)
            (history,) = search.run_trials(
                [replace(spec, momentum=_hashable(momentum), repeat=point.repeat)],
                count_steps(histories),
                max_steps,
                show,
            )
            loss = np.asarray(history.val_loss)
            results.append(PairResult(point, float(loss[-1]), float(loss[0])))
            histories.append(history)
    rates, decays = zip(*((result.point.max_lr, result.point.weight_decay) for result in results), strict=True)
    return PairTrials(np.array(rates), np.array(decays), int(steps), tuple(histories), optimizer)


class _Search:
    """The trials of one setting, which run in this process.

    Args:
        given: model, loss_fn, loader, compute_loss and val_loader, as the caller gave them.
        options, keywords: the step's options, in either form.
        function: name of the caller, for messages.
        max_lr: highest rate of all trials; None: the suggestion of a range test.
    """

    def __init__(
        self,
        given: tuple[Any, ...],
        options: StepOptions | None,
        keywords: Mapping[str, Any],
        function: str,
        optimizer: OptimizerName,
        steps: Any,
        max_lr: Any,
    ):
        options = resolve_options(options, keywords, function)
        self._runner = TrialRunner(resolve_task(*given), options)
        if not is_whole(steps) or steps < TRIAL_VALIDATIONS:
            raise ValueError(
                f"steps: got {steps!r}; give a whole number of updates for each run, at least {TRIAL_VALIDATIONS}"
            )
        if max_lr is not None:
            require_positive(max_lr=max_lr)
        self.spec = TrialSpec("", "weight decay", optimizer, int(steps), None if max_lr is None else float(max_lr))

    @property
    def max_lr(self) -> float:
        """Highest rate of all trials."""
        assert self.spec.max_lr is not None
        return self.spec.max_lr

    def run(
        self,
        due: Callable[[SettingRuns], list[tuple[Any, int]]],
        spec_of: Callable[[TrialSpec, Any], TrialSpec],
        n_expected: int,
        progress: Progress | None,
    ) -> SettingRuns:
        """Run trials until none is due.

        Args:
            due: ``due(runs)`` returns the values and repeats to run next.
            spec_of: ``spec_of(spec, value)`` returns the trial with a value of the setting.
            n_expected: number of trials that the progress expects.
        """
        tested = 0
        if self.spec.max_lr is None:
            test = TrialSpec(range_test_key(self.spec.optimizer), "range test", self.spec.optimizer, RANGE_TEST_STEPS)
            total = RANGE_TEST_STEPS + n_expected * self.spec.steps
            (curve,) = self._runner.run([test], progress and (lambda done, _, shown: progress(done, total, shown)))
            tested, self.spec = RANGE_TEST_STEPS, replace(self.spec, max_lr=curve.suggest().max_lr)  # type: ignore[union-attr]
        runs: dict[tuple[Any, int], History] = {}
        while trials := due(runs):
            same = [trial for trial in trials if trial[1] == trials[0][1]] if self._runner.stacks else trials[:1]
            n_expected = max(n_expected, len(runs) + len(trials))
            done, total = tested + len(runs) * self.spec.steps, tested + n_expected * self.spec.steps
            specs = [replace(spec_of(self.spec, value), repeat=repeat) for value, repeat in same[:MAX_COPIES]]
            runs |= zip(same, self.run_trials(specs, done, total, progress), strict=False)
        if progress is not None:
            done = tested + len(runs) * self.spec.steps
            progress(done, done, {})
        return runs

    def run_trials(self, specs: Sequence[TrialSpec], done: int, total: int, progress: Progress | None) -> list[History]:
        """Run trainings; ``done`` and ``total`` are the steps before them and of the whole search."""
        show = None if progress is None else lambda n, _, shown: progress(done + n, total, shown)
        return self._runner.run(specs, show)  # type: ignore[return-value]


def _checked_values(values: Any, *, name: str, below: float, example: Sequence[float]) -> list[float]:
    """Return the values of a setting to try, ascending and without duplicates.

    Raises:
        ValueError: fewer than 2 different values, or one that is not in ``[0, below)``.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name}: got {values!r}; give several numbers, as {example}")
    given = list(values)
    for value in given:
        if not isinstance(value, numbers.Real) or not 0 <= float(value) < below:
            raise ValueError(f"{name}: got {value!r} among them; give numbers in [0, {below:g})")
    ascending = sorted({float(value) for value in given})
    if len(ascending) < 2:
        raise ValueError(f"{name}: got {given}; give at least two different values to compare, as {example}")
    return ascending


def _require_repeats(repeats: Any) -> None:
    """Raise ValueError unless ``repeats`` is a whole number of at least 2, which shows the noise."""
    if not is_whole(repeats) or repeats < 2:
        raise ValueError(
            f"repeats: got {repeats!r}; give a whole number of runs for each value, at least 2, whose differences "
            "show the noise"
        )


def _hashable(momentum: Any) -> Momentum:
    return tuple(momentum) if isinstance(momentum, list) else momentum
