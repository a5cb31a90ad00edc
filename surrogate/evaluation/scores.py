"""The scores of a surrogate, one entry each.

``surrogate evaluate --json``, its table and the report of a model show what :data:`SCORES` holds,
in its order. A new score is one more entry: a function of a
:class:`~surrogate.evaluation.comparison.Comparison`. Its interval follows from resampled trials.

Everything that ranks bins works on logits in float64: float32 sigmoids merge distinct outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from surrogate.evaluation.bootstrap import Resamples, interval
from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.roc import FALSE_POSITIVE_RATES

__all__ = [
    "COINCIDENCE_WINDOWS_MS",
    "SCORES",
    "VOLTAGE_CLIP_MV",
    "Score",
    "ScoreRow",
    "bin_nll",
    "clipped_voltages",
    "coincidences",
    "score_rows",
]

#: Voltage above it belongs to output spikes, which the logit is scored by; the L5PC literature
#: clips there (Beniaguev et al. 2021).
VOLTAGE_CLIP_MV = -55.0

#: How far apart an emitted and a true spike may be to count as the same, ms.
COINCIDENCE_WINDOWS_MS = (0, 1, 2, 5)

Figure = TypeVar("Figure")


@dataclass(frozen=True)
class Score:
    """One figure by which a surrogate is compared with its neuron.

    Attributes
    ----------
    name : str
        Its key in the result of :func:`surrogate.evaluate`, beside ``<name>_interval``.
    label : str
        What tables call it; with a field such as ``{:g}`` for the parameter, if it has one.
    function : callable
        Gives the score of a :class:`~surrogate.evaluation.comparison.Comparison`, or None where it
        does not exist. With ``at`` it takes the parameter as a second argument.
    resampled : callable, optional
        Gives the score of all resamples at once, float64 [R] with NaN where it does not exist, from
        a :class:`~surrogate.evaluation.bootstrap.Resamples` (and the parameter). Without it
        ``function`` is computed on each resample, which is slower.
    unit : str
        Of the figure, for tables.
    digits : int
        Decimals that tables show.
    at : tuple of float
        Values of a parameter. The result then holds an object with one figure for each, or null if
        no figure exists.
    """

    name: str
    label: str
    function: Callable[..., float | None]
    resampled: Callable[..., NDArray[np.float64]] | None = None
    unit: str = ""
    digits: int = 4
    at: tuple[float, ...] = ()

    def measure(self, comparison: Comparison) -> float | dict[str, float | None] | None:
        """The score, by its parameter if it has one."""
        return self._for_each(partial(self.function, comparison))

    def intervals(self, resamples: Resamples) -> list[float] | dict[str, Any] | None:
        """The central 95 % over resamples, by the parameter if the score has one."""
        if not len(resamples.weights):
            return None
        return self._for_each(lambda *at: interval(self.resample(resamples, *at)))

    def resample(self, resamples: Resamples, *at: float) -> NDArray[np.float64]:
        """The score of each resample [R], NaN where it does not exist."""
        if self.resampled is not None:
            return self.resampled(resamples, *at)
        return np.array([self.function(one, *at) for one in resamples.each()], np.float64)

    def _for_each(
        self, figure: Callable[..., Figure | None]
    ) -> Figure | dict[str, Figure | None] | None:
        if not self.at:
            return figure()
        figures = {str(value): figure(value) for value in self.at}
        return None if all(one is None for one in figures.values()) else figures


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


def coincidences(
    emitted: NDArray[np.bool_], spikes: NDArray[np.integer], window: int
) -> NDArray[np.int64]:
    """Pairs of an emitted and a true spike at most ``window`` bins apart, per trial [N].

    Each spike is in one pair at most. Pairing the earliest spikes that can be paired gives the
    greatest number of pairs there is.
    """
    pairs = np.zeros(len(spikes), dtype=np.int64)
    for trial, (ours, theirs) in enumerate(zip(emitted, spikes, strict=True)):
        waiting = list(np.flatnonzero(theirs)[::-1])
        for time in np.flatnonzero(ours):
            while waiting and waiting[-1] < time - window:
                waiting.pop()
            if waiting and waiting[-1] <= time + window:
                waiting.pop()
                pairs[trial] += 1
    return pairs


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


def _event_score(
    name: str,
    label: str,
    parts: Callable[..., tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> Score:
    """A share of spikes, by the greatest distance of a pair.

    ``parts`` makes of pairs, emitted and true spikes per trial what is divided by what.
    """

    def counts(
        comparison: Comparison, window_ms: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        emitted, spikes = comparison.emitted, comparison.spikes
        if emitted is None:
            return parts(*np.zeros((3, len(spikes)), np.int64))
        window = math.floor(window_ms / comparison.dt_ms + 1e-9)  # 0.3 / 0.1 is below 3
        ours, theirs = (train.sum(axis=1, dtype=np.int64) for train in (emitted, spikes))
        return parts(coincidences(emitted, spikes, window), ours, theirs)

    def function(comparison: Comparison, window_ms: float) -> float | None:
        part, whole = (int(count.sum()) for count in counts(comparison, window_ms))
        return part / whole if whole else None

    def resampled(resamples: Resamples, window_ms: float) -> NDArray[np.float64]:
        return resamples.ratio(*counts(resamples.comparison, window_ms))

    return Score(name, label, function, resampled, at=COINCIDENCE_WINDOWS_MS)


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
        *_voltage_scores("", "clipped", VOLTAGE_CLIP_MV),
        *_voltage_scores("_unclipped", "unclipped", math.inf),
        _event_score(
            "event_f1",
            "Spike F1 within {:g} ms",
            lambda pairs, ours, theirs: (2 * pairs, ours + theirs),
        ),
        _event_score(
            "event_precision",
            "Spike precision within {:g} ms",
            lambda pairs, ours, _: (pairs, ours),
        ),
        _event_score(
            "event_recall", "Spike recall within {:g} ms", lambda pairs, _, theirs: (pairs, theirs)
        ),
    )
}
