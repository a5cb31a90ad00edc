"""Bootstrap intervals over trials: bins of one trial are not independent, trials are.

A resample draws as many trials as there are, with replacement, so it is a whole-number weight per
trial. Every score is computed from sums per trial, for all resamples at once, and equals
scikit-learn's on the data with trials repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from surrogate.evaluation.scores import FALSE_POSITIVE_RATES, bin_nll, voltage_pairs

__all__ = ["draw_weights", "intervals", "resampled_scores"]

#: Numbers held at once by the table of resamples x spikes.
_TABLE = 2_000_000

Scores = dict[str, NDArray[np.float64]]


def draw_weights(n_trials: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each resample holds each trial, whole numbers [resamples, n_trials]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_trials, np.full(n_trials, 1 / n_trials), resamples).astype(np.float64)


def intervals(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, list[float] | None]:
    """The central 95 % of each score's resamples; None for a score that no resample has."""
    return {
        name: [float(edge) for edge in np.nanquantile(values, [0.025, 0.975])]
        if np.isfinite(values).any()
        else None
        for name, values in scores.items()
    }


def resampled_scores(
    weights: NDArray[np.float64],
    logits: NDArray[np.floating],
    spikes: NDArray[np.integer],
    voltage: NDArray[np.floating],
    target: NDArray[np.floating],
    rescale_voltage: bool = False,
) -> Scores:
    """Scores of every resample.

    Parameters
    ----------
    weights : array [R, N]
        From :func:`draw_weights`.
    logits, spikes, voltage, target : array [N, T]
    rescale_voltage : bool
        See :func:`surrogate.evaluation.scores.voltage_pairs`; the scaling is that of all trials.

    Returns
    -------
    dict of float64 [R]
        By the names of :func:`surrogate.evaluation.scores.spike_scores` and ``voltage_scores``, and
        ``tpr_at_fpr <FPR>``. Scores of a resample without a spike are NaN where they need one.
    """
    scores: Scores = {"nll": _weighted_mean(weights, bin_nll(logits, spikes))}
    for infix, (ours, theirs) in voltage_pairs(voltage, target, rescale_voltage).items():
        error = theirs - ours
        square = _weighted_mean(weights, np.square(error))
        scores[f"voltage_rmse{infix}_mv"] = np.sqrt(square)
        variance = _weighted_variance(weights, theirs)
        with np.errstate(divide="ignore", invalid="ignore"):
            explained = 1 - _weighted_variance(weights, error) / variance
        scores[f"voltage_explained_variance{infix}"] = np.where(variance > 0, explained, np.nan)
    return scores | _ranking_scores(weights, logits, spikes)


def _weighted_mean(
    weights: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    return weights @ values.mean(axis=1) / weights.sum(axis=1)


def _weighted_variance(
    weights: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    centred = values - values.mean()  # keeps digits that squares of -67 mV would lose
    return _weighted_mean(weights, np.square(centred)) - _weighted_mean(weights, centred) ** 2


def _ranking_scores(
    weights: NDArray[np.float64], logits: NDArray[np.floating], spikes: NDArray[np.integer]
) -> Scores:
    """ROC AUC, average precision and TPR at low FPR.

    A spike's rank is all that matters, and spikes are rare: for each spike, the silent bins above
    and at its logit are counted per trial once. A resample weighs those counts.
    """
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
