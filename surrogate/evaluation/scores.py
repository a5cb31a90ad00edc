"""What a surrogate is judged by: pure functions of its outputs and the neuron's.

Everything that ranks bins works on logits in float64: float32 sigmoids merge distinct outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

__all__ = [
    "FALSE_POSITIVE_RATES",
    "VOLTAGE_CLIP_MV",
    "Roc",
    "bin_nll",
    "coincidences",
    "ideal_thresholds",
    "logit_gap",
    "logit_spread",
    "roc_of",
    "sigmoid",
    "spike_scores",
    "voltage_pairs",
    "voltage_scores",
]

#: False positive rates at which the true positive rate is reported, as in the L5PC literature.
FALSE_POSITIVE_RATES = (0.0025, 0.01)

#: Voltage above it belongs to output spikes, which the logit is judged by; the L5PC literature
#: clips there (Beniaguev et al. 2021).
VOLTAGE_CLIP_MV = -55.0

#: The false positive rates between whose thresholds the spread of the logits is measured.
SPREAD_FALSE_POSITIVE_RATES = (0.0025, 0.05)


def sigmoid(logit: Any) -> Any:
    """``1 / (1 + exp(-logit))`` without overflow, in the precision of its argument."""
    return 0.5 * (1 + np.tanh(0.5 * logit))


@dataclass(frozen=True)
class Roc:
    """Receiver operating characteristic: one point per distinct logit, from highest to lowest.

    Attributes
    ----------
    fpr, tpr : float64 [K]
        Shares of silent and of spiking bins whose logit reaches the threshold.
    logit : float64 [K]
        The thresholds.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    logit: NDArray[np.float64]

    def at(self, index: int) -> dict[str, float]:
        """One point: logit, probability, tpr and fpr."""
        logit = float(self.logit[index])
        return {
            "logit": logit,
            "probability": float(sigmoid(logit)),
            "tpr": float(self.tpr[index]),
            "fpr": float(self.fpr[index]),
        }

    def tpr_at(self, fpr: float) -> float:
        """The highest true positive rate whose false positive rate does not exceed ``fpr``."""
        return float(self.tpr[self.fpr <= fpr].max(initial=0.0))


def roc_of(logits: NDArray[np.floating], spikes: NDArray[np.integer]) -> Roc:
    """ROC of logits against spikes, arrays of equal shape with at least one bin of each class."""
    fpr, tpr, logit = roc_curve(
        spikes.ravel(), logits.ravel().astype(np.float64), drop_intermediate=False
    )
    # scikit-learn begins at an infinite threshold, which no rule can use.
    return Roc(fpr[1:], tpr[1:], logit[1:])


def bin_nll(logits: NDArray[np.floating], spikes: NDArray[np.integer]) -> NDArray[np.float64]:
    """Negative log-likelihood of each bin's spike or silence, nats: BCE-with-logits."""
    # -log sigmoid(x) for a spike and -log sigmoid(-x) for silence, without their difference.
    towards_truth = np.where(spikes, 1.0, -1.0) * logits
    return np.logaddexp(0, -towards_truth)


def spike_scores(logits: NDArray[np.floating], spikes: NDArray[np.integer]) -> dict[str, Any]:
    """ROC AUC, average precision, TPR at low FPR and mean negative log-likelihood.

    Parameters
    ----------
    logits : array [N, T]
    spikes : array [N, T] of 0 and 1

    Returns
    -------
    dict
        ``roc_auc``, ``average_precision``, ``tpr_at_fpr`` (by FPR, as text) and ``nll`` (nats per
        bin). All but the last are None where the bins do not include both classes.
    """
    scores: dict[str, Any] = {"roc_auc": None, "average_precision": None, "tpr_at_fpr": None}
    if 0 < int(spikes.sum()) < spikes.size:
        truth, score = spikes.ravel(), logits.ravel().astype(np.float64)
        roc = roc_of(logits, spikes)
        scores = {
            "roc_auc": float(roc_auc_score(truth, score)),
            "average_precision": float(average_precision_score(truth, score)),
            "tpr_at_fpr": {str(fpr): roc.tpr_at(fpr) for fpr in FALSE_POSITIVE_RATES},
        }
    return scores | {"nll": float(bin_nll(logits, spikes).mean())}


def ideal_thresholds(
    logits: NDArray[np.floating], spikes: NDArray[np.integer]
) -> dict[str, dict[str, float]]:
    """Thresholds by three criteria, each a point of the ROC curve.

    Returns
    -------
    dict
        ``youden`` maximises Youden's J = TPR - FPR (Youden 1950), ``gmean`` the geometric mean
        sqrt(TPR (1 - FPR)), and at ``rate`` the number of bins that reach the logit is closest to
        the number of spikes. Of equal thresholds the highest.
    """
    roc = roc_of(logits, spikes)
    n_spikes = int(spikes.sum())
    called = roc.tpr * n_spikes + roc.fpr * (spikes.size - n_spikes)
    return {
        "youden": roc.at(int(np.argmax(roc.tpr - roc.fpr))),
        "gmean": roc.at(int(np.argmax(roc.tpr * (1 - roc.fpr)))),
        "rate": roc.at(int(np.argmin(np.abs(np.rint(called) - n_spikes)))),
    }


def logit_gap(logits: NDArray[np.floating], spikes: NDArray[np.integer]) -> float:
    """Logit reached by 0.25 % of the silent bins minus that reached by 5 %."""
    high, low = np.quantile(
        logits[spikes == 0].astype(np.float64),
        [1 - fpr for fpr in SPREAD_FALSE_POSITIVE_RATES],
        method="inverted_cdf",
    )
    return float(high - low)


def logit_spread(
    logits: NDArray[np.floating], spikes: NDArray[np.integer], logit_bound: float = math.inf
) -> dict[str, float | int]:
    """How far raw outputs are spread around the threshold that matches the output rate.

    Parameters
    ----------
    logits, spikes : array [N, T]
        With at least one bin of each class.
    logit_bound : float
        Largest magnitude a logit can have: 1 where the last layer is recurrent.

    Returns
    -------
    dict
        ``saturated_share``: share of bins whose float32 probability is the lowest or highest there
        can be, sigmoid(-+``logit_bound``), that is 0 and 1 for an unbounded logit.
        ``distinct_above_threshold`` and ``distinct_probabilities_above_threshold``: distinct
        float32 logits, and float32 sigmoids of them, from the ``rate`` threshold up.
        ``logit_gap``: see :func:`logit_gap`.
    """
    raw = logits.astype(np.float32)
    probability = _sigmoid_float32(raw)
    ends = _sigmoid_float32(np.array([-logit_bound, logit_bound], np.float32))
    above = raw >= ideal_thresholds(logits, spikes)["rate"]["logit"]
    return {
        "saturated_share": float(np.isin(probability, ends).mean()),
        "distinct_above_threshold": len(np.unique(raw[above])),
        "distinct_probabilities_above_threshold": len(np.unique(probability[above])),
        "logit_gap": logit_gap(raw, spikes),
    }


def _sigmoid_float32(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # The textbook form, as torch computes it; the tanh form keeps no digits near 0.
    with np.errstate(over="ignore"):
        return np.float32(1) / (np.float32(1) + np.exp(-logits))


def voltage_pairs(
    predicted: NDArray[np.floating], target: NDArray[np.floating], rescale: bool = False
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """What is compared with what, by the infix of the scores' names: "" and "_unclipped".

    Parameters
    ----------
    predicted, target : array [N, T], mV
    rescale : bool
        Give the prediction the target's mean and standard deviation first, as the ELM evaluation
        does (Spieler et al. 2024).

    Returns
    -------
    dict of (predicted, target)
        Without infix both are clipped at -55 mV, so that a model trained on clipped voltage and
        one trained on raw voltage are judged by the same subthreshold membrane.
    """
    pairs = {}
    for infix, limit in (("", VOLTAGE_CLIP_MV), ("_unclipped", np.inf)):
        ours, theirs = (np.minimum(v.astype(np.float64), limit) for v in (predicted, target))
        if rescale and ours.std() > 0:
            ours = (ours - ours.mean()) * (theirs.std() / ours.std()) + theirs.mean()
        pairs[infix] = (ours, theirs)
    return pairs


def voltage_scores(
    predicted: NDArray[np.floating], target: NDArray[np.floating], rescale: bool = False
) -> dict[str, float | None]:
    """Root mean square error, mV, and explained variance of :func:`voltage_pairs`.

    Returns
    -------
    dict
        ``voltage_rmse_mv`` and ``voltage_explained_variance`` = 1 - Var(error) / Var(target)
        (None where the target is constant), both clipped at -55 mV, and
        ``voltage_rmse_unclipped_mv`` and ``voltage_explained_variance_unclipped``.
    """
    scores: dict[str, float | None] = {}
    for infix, (ours, theirs) in voltage_pairs(predicted, target, rescale).items():
        variance = theirs.var()
        scores[f"voltage_rmse{infix}_mv"] = math.sqrt(np.square(theirs - ours).mean())
        scores[f"voltage_explained_variance{infix}"] = (
            float(1 - (theirs - ours).var() / variance) if variance > 0 else None
        )
    return scores


def coincidences(
    emitted: NDArray[np.bool_], spikes: NDArray[np.integer], window_ms: int
) -> NDArray[np.int64]:
    """Pairs of an emitted and a true spike at most ``window_ms`` apart, per trial [N].

    Each spike is in one pair at most. Pairing the earliest spikes that can be paired gives the
    greatest number of pairs there is.
    """
    pairs = np.zeros(len(spikes), dtype=np.int64)
    for trial, (ours, theirs) in enumerate(zip(emitted, spikes, strict=True)):
        waiting = list(np.flatnonzero(theirs)[::-1])
        for time in np.flatnonzero(ours):
            while waiting and waiting[-1] < time - window_ms:
                waiting.pop()
            if waiting and waiting[-1] <= time + window_ms:
                waiting.pop()
                pairs[trial] += 1
    return pairs
