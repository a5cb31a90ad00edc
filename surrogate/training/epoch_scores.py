"""The scores that each epoch of training is followed by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.roc import logit_gap
from surrogate.evaluation.scores import SCORES
from surrogate.training.windows import Batch
from surrogate.validated import open_record

__all__ = ["Epoch", "epoch_scores"]


@open_record
class Epoch(TypedDict):
    """A line of ``metrics.jsonl``: how an epoch ended."""

    epoch: int
    step: int
    learning_rate: float
    loss: float
    spike_loss: float
    voltage_loss: float
    roc_auc: float | None
    average_precision: float | None
    nll: float | None
    voltage_rmse_mv: float | None
    logit_gap: float | None
    kept: bool


_NAMES = ("roc_auc", "average_precision", "nll", "voltage_rmse_mv")


def epoch_scores(
    logits: NDArray[np.float32], voltage: NDArray[np.float32], batch: Batch, burn_in: int
) -> dict[str, float | None]:
    """Score the outputs on a batch of windows.

    Parameters
    ----------
    logits, voltage : float32 [B, T]
        What a stack gave on ``batch`` from a zero state; voltage in mV.
    batch : Batch
    burn_in : int
        Bins at each window's start that do not count.

    Returns
    -------
    dict
        ``roc_auc``, ``average_precision``, ``nll`` (nats per bin), ``voltage_rmse_mv``, and
        ``logit_gap``, see :func:`surrogate.evaluation.roc.logit_gap`. A score that does not exist,
        for want of spikes or because outputs are not finite, is None.
    """
    logits, voltage = logits[:, burn_in:], voltage[:, burn_in:]
    if not (np.isfinite(logits).all() and np.isfinite(voltage).all()):
        return dict.fromkeys((*_NAMES, "logit_gap"))
    spikes = batch.spikes[:, burn_in:].numpy().astype(np.uint8)
    compared = Comparison(logits, voltage, spikes, batch.voltage[:, burn_in:].numpy())
    scores = {name: SCORES[name].function(compared) for name in _NAMES}
    return scores | {"logit_gap": logit_gap(logits, spikes) if compared.rankable else None}
