"""Bootstrap intervals over trials: bins of one trial are not independent, trials are.

A resample draws as many trials as there are, with replacement, so it is a whole-number weight per
trial. :meth:`Resamples.each` gives the trials of each resample, which any score can be computed on.
Faster are sums per trial, computed once and weighted for all resamples at once; they give what the
score gives on the data with trials repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.roc import FALSE_POSITIVE_RATES

__all__ = ["Resamples", "draw_weights", "interval"]

#: Numbers held at once by the table of resamples x spikes.
_TABLE = 2_000_000


def draw_weights(n_trials: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each resample holds each trial, whole numbers [resamples, n_trials]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_trials, np.full(n_trials, 1 / n_trials), resamples).astype(np.float64)


def interval(values: NDArray[np.float64]) -> list[float] | None:
    """The central 95 % of a score's resamples [R], NaN left out; None if no other is there."""
    if not np.isfinite(values).any():
        return None
    return [float(edge) for edge in np.nanquantile(values, [0.025, 0.975])]


@dataclass(frozen=True, eq=False)
class Resamples:
    """Trials drawn with replacement, R times.

    Attributes
    ----------
    comparison : Comparison
        Of all trials.
    weights : float64 [R, N]
        From :func:`draw_weights`.
    """

    comparison: Comparison
    weights: NDArray[np.float64]

    def each(self) -> Iterator[Comparison]:
        """The trials of each resample."""
        rows = np.arange(self.weights.shape[1])
        return (self.comparison.pick(np.repeat(rows, row.astype(int))) for row in self.weights)

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean over all bins, from values of all bins [N, T], per resample [R]."""
        return self.weights @ values.mean(axis=1) / self.weights.sum(axis=1)

    def variance(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variance over all bins, from values of all bins [N, T], per resample [R]."""
        centred = values - values.mean()  # keeps digits that squares of -67 mV would lose
        return self.mean(np.square(centred)) - self.mean(centred) ** 2

    @cached_property
    def ranking(self) -> dict[str, NDArray[np.float64]]:
        """ROC AUC, average precision and TPR at low FPR, per resample [R].

        By ``roc_auc``, ``average_precision`` and ``tpr_at_fpr <FPR>``; NaN where a resample lacks
        spikes. A spike's rank is all that matters, and spikes are rare: for each spike, the silent
        bins above and at its logit are counted per trial once. A resample weighs those counts.
        """
        weights, logits, spikes = self.weights, self.comparison.logits, self.comparison.spikes
        trial, time = np.nonzero(spikes)
        order = np.argsort(-logits[trial, time], kind="stable")
        trial, level = trial[order], logits[trial[order], time[order]]
        above, reaching, silent = _silent_counts(logits, spikes, level)
        last_tie = np.searchsorted(-level, -level, side="right") - 1

        names = ["roc_auc", "average_precision", *(f"tpr_at_fpr {x}" for x in FALSE_POSITIVE_RATES)]
        scores = {name: np.full(len(weights), np.nan) for name in names}
        for rows in _blocks(len(weights), len(level)):
            drawn = weights[rows]
            n_spikes, n_silent = drawn[:, trial].sum(axis=1), drawn @ silent
            both = np.flatnonzero((n_spikes > 0) & (n_silent > 0))
            drawn, n_spikes, n_silent = drawn[both], n_spikes[both], n_silent[both]
            at = np.arange(len(weights))[rows][both]
            weight = drawn[:, trial]
            true = np.cumsum(weight, axis=1)[:, last_tie]
            false = drawn @ reaching
            worse = n_silent[:, None] - (drawn @ above + false) / 2
            called = np.maximum(true + false, 1)  # 0 only where the spike's own weight is 0
            scores["roc_auc"][at] = (weight * worse).sum(axis=1) / (n_spikes * n_silent)
            scores["average_precision"][at] = (weight * true / called).sum(axis=1) / n_spikes
            for fpr in FALSE_POSITIVE_RATES:
                allowed = false / n_silent[:, None] <= fpr
                best = np.where(allowed, true, 0).max(axis=1, initial=0)
                scores[f"tpr_at_fpr {fpr}"][at] = best / n_spikes
        return scores


def _silent_counts(
    logits: NDArray[np.floating], spikes: NDArray[np.integer], level: NDArray[np.floating]
) -> tuple[NDArray[np.float64], ...]:
    """Silent bins per trial above and reaching each level [N, P], and in all [N]."""
    above, reaching = (np.empty((len(logits), len(level))) for _ in range(2))
    silent = np.empty(len(logits))
    for n, (row, truth) in enumerate(zip(logits, spikes, strict=True)):
        quiet = np.sort(row[truth == 0])
        silent[n] = len(quiet)
        above[n] = len(quiet) - np.searchsorted(quiet, level, side="right")
        reaching[n] = len(quiet) - np.searchsorted(quiet, level, side="left")
    return above, reaching, silent


def _blocks(resamples: int, n_spikes: int) -> Iterator[slice]:
    size = max(1, _TABLE // max(1, n_spikes))
    return (slice(first, first + size) for first in range(0, resamples, size))
