"""``find_pair``: searches rate and weight decay together, by few trials that are about as long as the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .._checks import is_whole, require_positive
from .._progress import Progress, show_progress
from ..schedules._policies import Momentum
from ..tasks import Task
from ..training import StepOptions
from ..training._losses import ComputeLoss
from ..training._step_options import StepKeywords
from ._arguments import resolve_arguments
from ._deadline import parse_deadline
from ._lattice import pair_at
from ._optimizers import OptimizerName, require_optimizer_name
from ._pair_sampler import MIN_PAIR_TRIALS, PairSampler
from ._pair_trials import PairTrials
from ._trial_runner import TRIAL_VALIDATIONS, TrialRunner

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
    max_seconds: float | None = None,
    finished: PairTrials | None = None,
    save: Callable[[PairTrials], None] | None = None,
    compute_loss: ComputeLoss | None = None,
    progress: Progress | bool | None = None,
    options: StepOptions | None = None,
    **step_options: Unpack[StepKeywords],
) -> PairTrials:
    """Run 1cycles that are about as long as the training, with several pairs of a rate and a weight decay.

    Short trials do not overfit. So they show neither the best decay nor the best rate with it, and these trials are few
    and long. The first has ``max_lr`` and a weight decay of 1e-3. Each further one is placed where a Gaussian process
    through the losses expects the largest improvement, on a lattice: half decades of the rate, weight decays of 1e-n,
    and 3e-n above 1e-3. All these decays are 100 times larger for AdamW. The suggestion takes into account that a rate
    just below failure is risky; see ``PairTrials.expected_loss``.

    All trials start from the current model with the same random numbers and batches. Afterwards everything is
    restored, as after ``range_test``.

    Args:
        model, loss_fn, loader, compute_loss, val_loader, momentum, optimizer, progress, options, step_options: see
            ``find_weight_decay``.
        max_lr: highest rate of the first trial, such as the suggestion of ``range_test``; > 0.
        steps: length of each trial, >= 40. It should be as long as the training, at least a quarter of it.
        max_steps: limit on the steps of all trials together, >= 3 * ``steps``; no trial starts that could exceed it. 8
            times ``steps`` usually suffice. 16 times are as good as a full grid with one seed, on average over
            ``benchmarks.recipe_quality``. Fewer are used if no more improvement is expected.
        max_seconds: time limit, > 0: after the first three, no trial starts that is expected to end after it. None: no
            limit.
        finished: results of an earlier call with the same ``max_lr`` and ``steps``, to continue from. They count in
            ``max_steps``.
        save: function that is called with all results after each trial.
    Returns:
        The results of all trials; ``suggest()`` returns the pair to train with.
    Raises:
        TypeError: a keyword is unknown.
        ValueError: an argument is wrong, or the validation data are visibly in the training data.
    """
    require_optimizer_name(optimizer)
    _require_limits(max_lr, steps, max_steps, finished)
    task, options = resolve_arguments(
        model, loss_fn, loader, compute_loss, val_loader, options, step_options, "find_pair"
    )
    sampler = PairSampler(max_lr, int(steps), int(max_steps), parse_deadline(max_seconds), finished, optimizer)
    with show_progress(progress, "rate and weight decay") as show:

        def show_all(done: int, _: int, shown: dict[str, float]) -> None:
            if show is not None:
                show(sampler.done_steps + done, sampler.max_steps, shown)

        while (point := sampler.next_point()) is not None:
            lr, decay = pair_at(point, max_lr)
            runner = TrialRunner(
                task,
                options,
                max_lr=lr,
                steps=sampler.steps,
                repeats=1,
                planned_settings=1,
                progress=show_all,
                optimizer=optimizer,
            )
            ((sampler.histories[point],),) = runner.run([(momentum, decay)])
            if save is not None:
                save(sampler.results)
    return sampler.results


def _require_limits(max_lr: Any, steps: Any, max_steps: Any, finished: PairTrials | None) -> None:
    require_positive(max_lr=max_lr)
    least = 2 * TRIAL_VALIDATIONS
    if not is_whole(steps) or steps < least:
        raise ValueError(f"steps: got {steps!r}; give a whole number of updates for each run, at least {least}")
    if not is_whole(max_steps) or max_steps < MIN_PAIR_TRIALS * steps:
        raise ValueError(
            f"max_steps: got {max_steps!r}; give at least {MIN_PAIR_TRIALS} times the {steps} steps of a run, for the "
            f"first {MIN_PAIR_TRIALS}"
        )
    if finished is not None and (finished.max_lr[0], finished.steps) != (max_lr, steps):
        raise ValueError(
            f"finished: got runs of {finished.steps} steps from a max_lr of {float(finished.max_lr[0])!r} on, where "
            f"these are {steps} and {max_lr!r}; give the same, or leave it out to begin anew"
        )
