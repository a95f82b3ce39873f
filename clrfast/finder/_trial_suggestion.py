"""The answer of the default finder: what the ramp and the trials together say about the best rate. Pure NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ._prior import prior_weight, weigh_with_prior
from ._smoothing import Floats
from ._suggestion import NoSuggestionError, Suggestion
from ._suggestion_rules import MIN_POINTS
from ._trial_search import find_harmless, is_conclusive, is_visible
from ._trials import SHORT_STEPS, Trials

MINIMUM_OCTAVES = 2.0
"""Distance of the ramp's estimate below the rate at which the probe loss is lowest, in powers of two."""

MAX_MINIMUM_OCTAVES = 8.0
"""Maximum distance of that estimate above the edge's, in powers of two. A minimum further up belongs to a model whose
weights have exploded although its loss has not, because normalisation layers follow."""

TOP_OCTAVES = 5.75
"""Distance of the ramp's estimate below its last rate, in powers of two, if the ramp shows neither an edge nor a
minimum."""

SHORT_HIGH_OCTAVES = 2.5
"""Distance of a full run's best rate below the highest rate that is good for 20 steps, in powers of two."""

LONG_OCTAVES = 0.7
"""Distance of a full run's best rate below the weighted mean of the rates that are good for 80 steps or more, in powers
of two."""

CONFLICT_OCTAVES = 4.0
"""Maximum distance between the ramp's estimate and that of the shortest trials, in powers of two. If they are further
apart, one of them is wrong, and the confidence is low."""

UNSEEN_OCTAVES = 0.5
"""Distance of the answer below the middle of the shortest trials if no trial visibly lowered the loss, in powers of
two."""

EVIDENCE_STD, UNSEEN_STD = 1.3, 1.7
"""Standard deviation of the answer's error, in powers of two: if a trial visibly lowered the loss, and if none did."""

INTERVAL_OCTAVES = 1.7
"""Half-width of the interval, in powers of two. In 96 of 100 runs on the development and fine-tuning tasks of
benchmarks/finder_quality, the interval contains a rate whose regret is at most 0.03. In 75 of 100 it contains the
single best rate, which is often in a wide valley."""


def estimate_from_ramp(lr: Floats, probe_loss: Floats | None, edge_lr: float | None) -> float:
    """Estimate the best rate from a ramp: the geometric mean of the edge's answer and a quarter of the probes' minimum.

    A minimum that is more than 2 ** 8 above the edge does not count. Where both are missing, the estimate is the last
    rate divided by 2 ** 5.75.

    Args:
        lr, probe_loss: float64 ``[n]``: the rates, and the probe losses after them, NaN where none was measured.
        edge_lr: the answer of the rule ``edge``; None if it has none.
    """
    lowest = None if probe_loss is None else _probe_minimum(lr, probe_loss)
    if lowest is None:
        return float(lr[-1]) / 2**TOP_OCTAVES if edge_lr is None else edge_lr
    below_lowest = lowest / 2**MINIMUM_OCTAVES
    if edge_lr is None:
        return below_lowest
    return edge_lr if below_lowest > edge_lr * 2**MAX_MINIMUM_OCTAVES else math.sqrt(edge_lr * below_lowest)


def suggest_from_trials(
    levels: Sequence[Trials], ramp_lr: float, noise: float, base_lr: float | None, prior_lr: float | None = None
) -> Suggestion:
    """Suggest a rate from the trials of each level and the ramp's estimate. All logarithms are to base 2.

        trials of 20 steps:              log lr = log min(ramp_lr, stable) / 2 + (log high - 2.5) / 2
        longer trials:                   log lr = log middle / 4 + log low / 4 + log high / 2 - 0.7
        conclusive ones of both lengths: the mean of the two
        no visible fall:                 log lr = log middle of the shortest trials - 0.5, with low confidence

    ``low`` to ``high`` is the range of good rates, ``middle`` its geometric mean, and ``stable`` the highest rate of a
    stable trial. Trials that are not conclusive count only where no others are. The answer is then combined with the
    prior. No answer is above the ``high`` of the longest trials that count. Without a visible fall, no answer is above
    the highest rate that did no harm, or above half the lowest rate if all did.

    The confidence is also low if trials of 20 steps count and ``log high - 2.5`` is more than 4 from ``log ramp_lr``.

    Args:
        levels: at least one, in the order of their lengths.
        noise: standard deviation of the noise of a training batch's loss.
        base_lr: the lower bound of a cyclical rate that the ramp suggests; None if it suggests none.
        prior_lr: the rate that ``expect_lr`` expects; None: no prior.
    Raises:
        NoSuggestionError: no trial changed the loss at all.
    """
    visible = [trials for trials in levels if is_visible(trials, noise)]
    counted = [trials for trials in visible if is_conclusive(trials, noise)] or visible[-1:]
    decisive = (counted or levels)[-1]
    rates = f"{decisive.lr[0]:.3g} to {decisive.lr[-1]:.3g}"
    if all((trials.loss == trials.initial_loss).all() for trials in levels):
        raise NoSuggestionError(f"no rate from {rates} changes the loss: check that gradients reach the parameters")
    low, high = decisive.good_range()
    if counted:
        logs = [_log_answer(trials, ramp_lr) for trials in counted]
        found = 2 ** (sum(logs) / len(logs))
        std, limit, limit_text = EVIDENCE_STD, high, "the highest good rate"
        best = decisive.lr[decisive.best]
        what = f"is lowest at {best:.3g} and almost as low from {low:.3g} to {high:.3g}"
        how = _explain_answers(counted, [2**log for log in logs], found, ramp_lr)
    else:
        middle = levels[0].middle
        found, std = middle / 2**UNSEEN_OCTAVES, UNSEEN_STD
        limit, limit_text = _highest_harmless(levels)
        what = "does not visibly fall, so the model did not train in any trial"
        how = (
            f"{found:.3g} is {middle:.3g}, the middle of the shortest trials, / {2**UNSEEN_OCTAVES:.3g}; "
            f"the ramp alone suggests {ramp_lr:.3g}"
        )
    weighed = weigh_with_prior(found, std, prior_lr)
    max_lr = min(weighed, limit)
    reason = (
        f"in {len(decisive.lr)} trials, {decisive.steps}-step 1cycles with peak rates from {rates}, the loss on fixed "
        f"batches {what}; {how}"
    )
    if prior_lr is not None:
        reason += (
            f"; models of this size usually train best at about {prior_lr:.2g} with this optimizer; the geometric "
            f"mean with that rate, which has {100 * prior_weight(std):.0f} % of the weight, is {weighed:.3g}"
        )
    if max_lr < weighed:
        reason += f"; that is lowered to {max_lr:.3g}, {limit_text}"
    conflict = _describe_conflict(counted, ramp_lr)
    return Suggestion(
        max_lr,
        min(max_lr / 4, math.inf if base_lr is None else base_lr),
        max_lr / 2**INTERVAL_OCTAVES,
        max_lr * 2**INTERVAL_OCTAVES,
        "trials",
        reason + conflict,
        "high" if counted and not conflict else "low",
    )


def _highest_harmless(levels: Sequence[Trials]) -> tuple[float, str]:
    """Find the highest rate that did no harm at any length, half the lowest rate if all did; and say why it limits."""
    harmless = [float(lr) for trials in levels for lr in find_harmless(trials)]
    limit = max(harmless) if harmless else min(float(trials.lr[0]) for trials in levels) / 2
    highest = max(float(trials.lr[-1]) for trials in levels)
    return limit, "the highest rate that was tried" if limit == highest else "because higher rates did harm"


def _describe_conflict(counted: Sequence[Trials], ramp_lr: float) -> str:
    """Describe how far the shortest trials and the ramp are apart; empty if they agree or no such trials count."""
    short = [_log_short_estimate(trials) for trials in counted if trials.steps == SHORT_STEPS]
    octaves = abs(short[0] - math.log2(ramp_lr)) if short else 0.0
    if octaves <= CONFLICT_OCTAVES:
        return ""
    return (
        f"; the trials of {SHORT_STEPS} steps alone suggest {2 ** short[0]:.3g}, so the ramp and the trials disagree "
        f"by a factor of {2**octaves:.0f}"
    )


def _explain_answers(counted: Sequence[Trials], answers: Sequence[float], found: float, ramp_lr: float) -> str:
    """Explain how the answer of each length and their mean ``found`` follow from the trials and the ramp."""
    texts = [
        f"{answer:.3g} is {_explain_answer(trials, ramp_lr)}" for trials, answer in zip(counted, answers, strict=True)
    ]
    if len(answers) > 1:
        names = " and ".join(f"{answer:.3g}" for answer in answers)
        texts.insert(0, f"{found:.3g} is the geometric mean of {names}")
    if all(trials.steps > SHORT_STEPS for trials in counted):
        texts.append(f"the ramp alone suggests {ramp_lr:.3g}")
    return "; ".join(texts)


def _explain_answer(trials: Trials, ramp_lr: float) -> str:
    """Say in words what ``_log_answer`` computes."""
    low, high = trials.good_range()
    because = "because longer runs need lower rates"
    if trials.steps == SHORT_STEPS:
        stable = float(trials.lr[trials.n_stable - 1])
        ramp = f"{ramp_lr:.3g} (of the ramp)"
        if stable < ramp_lr:
            ramp = f"{stable:.3g} (the highest stable rate; the ramp's is {ramp_lr:.3g})"
        high_text = f"{high:.3g}, the highest good rate for {SHORT_STEPS} steps,"
        lowered = f"{high / 2**SHORT_HIGH_OCTAVES:.3g} ({high_text} / {2**SHORT_HIGH_OCTAVES:.3g}, {because})"
        return f"the geometric mean of {lowered} and {ramp}"
    mean = low ** (3 / 8) * high ** (5 / 8)  # half of the weight of the middle is that of each end
    return (
        f"{mean:.3g} / {2**LONG_OCTAVES:.3g}, {because}; {mean:.3g} is a geometric mean of {low:.3g} and "
        f"{high:.3g}, weighted 3 to 5"
    )


def _log_short_estimate(trials: Trials) -> float:
    """Return the binary logarithm of the rate that the shortest trials alone suggest."""
    return math.log2(trials.good_range()[1]) - SHORT_HIGH_OCTAVES


def _log_answer(trials: Trials, ramp_lr: float) -> float:
    if trials.steps == SHORT_STEPS:
        stable = float(trials.lr[trials.n_stable - 1])
        return math.log2(min(ramp_lr, stable)) / 2 + _log_short_estimate(trials) / 2
    low, high = map(math.log2, trials.good_range())
    return (low + high) / 8 + low / 4 + high / 2 - LONG_OCTAVES


def _probe_minimum(lr: Floats, probe_loss: Floats) -> float | None:
    """Find the rate at which the smoothed probe loss is lowest; None if it is nowhere below its first value."""
    at = np.isfinite(probe_loss)
    if at.sum() < MIN_POINTS:
        return None
    rates, losses = lr[at], probe_loss[at]
    highest = 2 * losses[0] - losses.min()  # an explosion must not reach far into the smoothed loss
    padded = np.pad(np.minimum(losses, highest), 1, mode="edge")
    smoothed = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    lowest = int(smoothed.argmin())
    return float(rates[lowest]) if smoothed[lowest] < losses[0] else None
