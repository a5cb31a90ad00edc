"""Which epoch of a run is kept, when to stop, and whether the run was stable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from surrogate.training.epoch_scores import Epoch

__all__ = ["Selection", "instability"]

#: An epoch chosen for its spread must score within this of the best ROC AUC so far.
AUC_MARGIN = 0.01


class Selection:
    """Keeps the weights of the best epoch so far.

    Parameters
    ----------
    rule : "nll" | "auc" | "spread" | "last"
        Lowest validation negative log-likelihood, highest ROC AUC, widest spread of outputs, or
        the last epoch. For the spread, the ROC AUC of an epoch must be within 0.01 of the best so
        far; the epoch kept is replaced when a later one exceeds its ROC AUC by more than that.
    patience : int
        Epochs without a better one after which :attr:`exhausted` is true; 0 for never.
    """

    def __init__(self, rule: str, patience: int) -> None:
        self.rule, self.patience = rule, patience
        self.entry: Epoch | None = None
        self.weights: dict[str, Tensor] | None = None
        self._best_auc = -math.inf
        self._waited = 0

    def offer(self, entry: Epoch, weights: Mapping[str, Tensor]) -> bool:
        """Keep a copy of ``weights`` if ``entry`` is better than what is kept; says whether."""
        self._best_auc = max(self._best_auc, _number(entry["roc_auc"], -math.inf))
        better = self.entry is None or self._score(entry) > self._score(self.entry)
        if self.rule == "last" or better:
            self.entry = entry.copy()
            self.weights = {name: value.cpu().clone() for name, value in weights.items()}
            self._waited = 0
            return True
        self._waited += 1
        return False

    def _score(self, entry: Mapping[str, Any]) -> tuple[float, ...]:
        auc = _number(entry["roc_auc"], -math.inf)
        if self.rule == "nll":
            return (-_number(entry["nll"], math.inf),)
        if self.rule == "spread":
            eligible = auc >= self._best_auc - AUC_MARGIN
            return (eligible, _number(entry["logit_gap"], -math.inf) if eligible else auc)
        return (auc,)

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` epochs have passed without a better one."""
        return 0 < self.patience <= self._waited

    def state(self) -> dict[str, Any]:
        """Besides the weights, what :meth:`load_state` needs to continue."""
        return {"kept": self.entry, "best_auc": self._best_auc, "waited": self._waited}

    def load_state(self, state: Mapping[str, Any], weights: dict[str, Tensor] | None) -> None:
        """Continue from :meth:`state`."""
        self.entry, self.weights = state["kept"], weights
        self._best_auc, self._waited = state["best_auc"], state["waited"]


def instability(history: Sequence[Mapping[str, Any]], failure: str | None) -> str | None:
    """Why a run counts as unstable, or None.

    Unstable is a run that met a loss or gradient that was not finite; whose validation ROC AUC
    never rose (it stayed below 0.9 and within 0.01 of its first epoch's); or whose ROC AUC fell
    back, in the mean over the last quarter of the epochs, by more than 0.05 from its best.
    """
    if failure is not None:
        return failure
    scores = [_number(entry["roc_auc"], 0.5) for entry in history]
    if not scores:
        return None
    best = max(scores)
    if best < 0.9 and best <= scores[0] + 0.01 and len(scores) > 1:
        return f"ROC AUC never rose: {scores[0]:.3f} after the first epoch, {best:.3f} at best"
    tail = scores[-max(1, len(scores) // 4) :]
    if (late := sum(tail) / len(tail)) < best - 0.05:
        return f"ROC AUC fell back from {best:.3f} to {late:.3f}"
    return None


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or not math.isfinite(value) else value
