"""The scores of a surrogate, one entry each; those of its spikes are in
:mod:`surrogate.evaluation.spike_scores`.

``surrogate evaluate --json``, its table and the report of a model show what :data:`SCORES` holds,
in its order. A new score is one more entry: a function of a
:class:`~surrogate.evaluation.comparison.Comparison`. Its interval follows from resampled trials.

Everything that ranks bins works on logits in float64: float32 sigmoids merge distinct outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from surrogate.evaluation.anatomy import bins_within, near
from surrogate.evaluation.bootstrap import Resamples
from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.roc import FALSE_POSITIVE_RATES
from surrogate.evaluation.score import Score, pooled
from surrogate.evaluation.spike_scores import SPIKE_SCORES

__all__ = [
    "SCORES",
    "VOLTAGE_CLIP_MV",
    "ScoreRow",
    "bin_nll",
    "clipped_voltages",
    "score_rows",
]

#: Voltage above it belongs to output spikes, which the logit is scored by; the L5PC literature
#: clips there (Beniaguev et al. 2021).
VOLTAGE_CLIP_MV = -55.0

#: Greatest distance from a spike of the neuron's at which voltage counts as near one, ms.
NEAR_SPIKES_MS = 10


@dataclass(frozen=True)
class ScoreRow:
    """A line of a table of scores: label with unit, value and ends of its interval, decimals."""

    label: str
    value: float | None
    interval: list[float] | None
    digits: int


def score_rows(result: Mapping[str, Any]) -> list[ScoreRow]:
    """The table of scores in a result of :func:`surrogate.evaluate`."""
    rows = []
    for score in SCORES.values():
        label = f"{score.label} ({score.unit})" if score.unit else score.label
        value, ends = result[score.name], result[f"{score.name}_interval"]
        if not score.at:
            rows.append(ScoreRow(label, value, ends, score.digits))
        for at in score.at if value else ():
            edges = (ends or {}).get(str(at))
            rows.append(ScoreRow(label.format(at), value[str(at)], edges, score.digits))
    return rows


def bin_nll(logits: NDArray[np.floating], spikes: NDArray[np.integer]) -> NDArray[np.float64]:
    """Negative log-likelihood of each bin's spike or silence, nats: BCE-with-logits."""
    # -log sigmoid(x) for a spike and -log sigmoid(-x) for silence, without their difference.
    towards_truth = np.where(spikes, 1.0, -1.0) * logits
    return np.logaddexp(0, -towards_truth)


def clipped_voltages(
    comparison: Comparison, limit: float = VOLTAGE_CLIP_MV
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predicted and true voltage [N, T], mV, both clipped at ``limit``.

    Clipped alike, a model trained on clipped voltage and one trained on raw voltage are compared by
    the same subthreshold membrane.
    """
    ours, theirs = (
        np.minimum(voltage.astype(np.float64), limit)
        for voltage in (comparison.voltage, comparison.target)
    )
    if comparison.rescale_voltage and ours.std() > 0:
        ours = (ours - ours.mean()) * (theirs.std() / ours.std()) + theirs.mean()
    return ours, theirs


def _of_bins(metric: Callable[..., Any]) -> Callable[[Comparison], float | None]:
    """A score that scikit-learn computes from the labels and logits of all bins."""

    def function(comparison: Comparison) -> float | None:
        if not comparison.rankable:
            return None
        logits = comparison.logits.ravel().astype(np.float64)
        return float(metric(comparison.spikes.ravel(), logits))

    return function


def _tpr_at_fpr(comparison: Comparison, fpr: float) -> float | None:
    return comparison.roc.tpr_at(fpr) if comparison.rankable else None


def _bin_nll(comparison: Comparison) -> NDArray[np.float64]:
    return bin_nll(comparison.logits, comparison.spikes)


def _voltage_scores(infix: str, adverb: str, limit: float) -> tuple[Score, Score]:
    """Root mean square error and explained variance of voltages clipped at ``limit``."""

    def rmse(comparison: Comparison) -> float:
        ours, theirs = clipped_voltages(comparison, limit)
        return math.sqrt(np.square(theirs - ours).mean())

    def rmse_resampled(resamples: Resamples) -> NDArray[np.float64]:
        ours, theirs = clipped_voltages(resamples.comparison, limit)
        return np.sqrt(resamples.mean(np.square(theirs - ours)))

    def explained(comparison: Comparison) -> float | None:
        ours, theirs = clipped_voltages(comparison, limit)
        variance = theirs.var()
        return float(1 - (theirs - ours).var() / variance) if variance > 0 else None

    def explained_resampled(resamples: Resamples) -> NDArray[np.float64]:
        ours, theirs = clipped_voltages(resamples.comparison, limit)
        variance = resamples.variance(theirs)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = 1 - resamples.variance(theirs - ours) / variance
        return np.where(variance > 0, share, np.nan)

    name, label = f"voltage_explained_variance{infix}", f"Voltage explained variance, {adverb}"
    return (
        Score(f"voltage_rmse{infix}_mv", f"Voltage RMSE, {adverb}", rmse, rmse_resampled, "mV"),
        Score(name, label, explained, explained_resampled),
    )


def _errors_around_spikes(
    comparison: Comparison, where: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Squared errors of clipped voltage near the neuron's spikes or away from them, and bins."""
    ours, theirs = clipped_voltages(comparison)
    there = near(comparison.spikes, bins_within(NEAR_SPIKES_MS, comparison.dt_ms))
    if where == "away":
        there = ~there
    error = np.square(theirs - ours)
    return (error * there).sum(axis=1), np.count_nonzero(there, axis=1)


_VOLTAGE_AROUND_SPIKES = pooled(
    "voltage_rmse_around_spikes_mv",
    "Voltage RMSE, clipped, spikes {}",
    _errors_around_spikes,
    lambda error, bins: np.sqrt(error / bins),
    unit="mV",
    at=("near", "away"),
)

_CALIBRATION = (
    pooled(
        "calibration_ratio",
        "Sum of probabilities over spikes",
        lambda comparison: (comparison.probability.sum(axis=1), comparison.spikes.sum(axis=1)),
        np.divide,
        digits=3,
    ),
    pooled(
        "brier",
        "Brier score",
        lambda comparison: (
            np.square(comparison.probability - comparison.spikes).sum(axis=1),
            comparison.spikes.shape[1],
        ),
        np.divide,
        digits=6,
    ),
)


#: Every score, by its name.
SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("roc_auc", "ROC AUC", _of_bins(roc_auc_score), lambda each: each.ranking["roc_auc"]),
        Score(
            "average_precision",
            "Average precision",
            _of_bins(average_precision_score),
            lambda each: each.ranking["average_precision"],
        ),
        Score(
            "tpr_at_fpr",
            "TPR at FPR {:.2%}",
            _tpr_at_fpr,
            lambda each, fpr: each.ranking[f"tpr_at_fpr {fpr}"],
            at=FALSE_POSITIVE_RATES,
        ),
        Score(
            "nll",
            "Negative log-likelihood",
            lambda comparison: float(_bin_nll(comparison).mean()),
            lambda each: each.mean(_bin_nll(each.comparison)),
            unit="nats/bin",
        ),
        *_CALIBRATION,
        *_voltage_scores("", "clipped", VOLTAGE_CLIP_MV),
        *_voltage_scores("_unclipped", "unclipped", math.inf),
        _VOLTAGE_AROUND_SPIKES,
        *SPIKE_SCORES,
    )
}
