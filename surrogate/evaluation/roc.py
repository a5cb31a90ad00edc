"""The ROC curve of spike logits, the thresholds it offers, and how closely they must be met."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

__all__ = [
    "FALSE_POSITIVE_RATES",
    "Roc",
    "ideal_thresholds",
    "logit_gap",
    "logit_spread",
    "roc_of",
    "sigmoid",
]

#: False positive rates at which the true positive rate is reported, as in the L5PC literature.
FALSE_POSITIVE_RATES = (0.0025, 0.01)

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
