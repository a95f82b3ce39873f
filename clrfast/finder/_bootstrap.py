"""The interval of a suggestion: a rule's answers on curves whose noise is resampled (a wild bootstrap)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ._smoothing import Floats, smooth, thin
from ._suggestion import NoSuggestionError, Suggestion
from ._suggestion_rules import Rule

N_RESAMPLES = 40
"""Number of resampled curves. The median of this many answers changes by a few per cent with other random signs."""

INTERVAL_QUANTILES = (0.05, 0.95)
"""Quantiles of the answers that are the ends of a suggestion's interval."""


def bootstrap(rule: Rule, curves: Sequence[tuple[Floats, Floats]]) -> Suggestion:
    """Apply ``rule`` to resampled curves; return the median answer with the 90 % interval of all answers.

        loss[i] = smoothed[i] + sign[i] * (loss[i] - smoothed[i]),   sign[i] = -1 or 1 at random

    Noise moves a minimum or a crossing from one point to another. The median over resampled curves is steadier than
    the answer of the measured curve, and the spread shows how far to trust it. The random signs are the same in every
    call. The answer and its reason are those of one resampled curve: the median one, or the lower of the middle two. A
    long curve is thinned first; see ``thin``.

    Args:
        curves: ``(lr, loss)`` of each ramp, both float64 ``[n]``; the losses are raw.
    Raises:
        NoSuggestionError: the rule has no answer for one of the measured curves.

    Source: Wu 1986, "Jackknife, Bootstrap and Other Resampling Methods in Regression Analysis"; the signs are those of
    Liu 1988, "Bootstrap Procedures under some Non-I.I.D. Models".
    """
    curves = [thin(lr, loss) for lr, loss in curves]
    measured = [(rule(lr, smooth(loss)), number) for number, (lr, loss) in enumerate(curves, 1)]
    random = np.random.default_rng(0)
    resampled = []
    for number, (lr, loss) in enumerate(curves, 1):
        trend = smooth(loss)
        for _ in range(N_RESAMPLES):
            other = trend + random.choice((-1.0, 1.0), len(loss)) * (loss - trend)
            try:
                resampled.append((rule(lr, smooth(other)), number))
            except NoSuggestionError:
                continue  # resampled curves without an answer do not count
    answers = sorted(resampled or measured, key=lambda found: (found[0].max_lr, found[0].base_lr))
    median, number = answers[(len(answers) - 1) // 2]
    of_ramp = "" if len(curves) == 1 else f", of ramp {number} of {len(curves)}"
    logs = np.log([answer.max_lr for answer, _ in answers])
    low, high = (float(np.exp(np.quantile(logs, q))) for q in INTERVAL_QUANTILES)
    return replace(
        median,
        reason=f"{median.reason}; the median of {len(answers)} resampled curves{of_ramp}",
        # Logarithms round: the answer is put inside its interval even if all answers are equal.
        low=min(low, median.max_lr),
        high=max(high, median.max_lr),
    )
