"""Which epoch is kept, when a run stops early, and when it counts as unstable."""

from __future__ import annotations

import math

import pytest
import torch

from surrogate.training.selection import Selection, instability


def _entry(epoch: int, auc: float | None, nll: float | None = 1.0, logit_gap: float | None = 1.0):
    return {"epoch": epoch, "roc_auc": auc, "nll": nll, "logit_gap": logit_gap}


RUN = [
    _entry(1, 0.80, 0.5, 9.0),
    _entry(2, 0.95, 0.4, 1.0),
    _entry(3, 0.96, 0.6, 2.0),
    _entry(4, 0.955, 0.45, 3.0),
    _entry(5, 0.90, 0.7, 8.0),
]


@pytest.mark.parametrize(("rule", "kept"), [("nll", 2), ("auc", 3), ("spread", 4), ("last", 5)])
def test_each_rule_keeps_its_epoch_and_its_weights(rule, kept) -> None:
    selection = Selection(rule, patience=0)
    weights = {"w": torch.zeros(1)}
    for entry in RUN:
        weights["w"].fill_(entry["epoch"])
        selection.offer(entry, weights)
    assert selection.entry is not None
    assert selection.entry["epoch"] == kept
    assert selection.weights is not None
    assert selection.weights["w"].item() == kept


def test_an_epoch_without_a_finite_score_never_beats_one_with() -> None:
    for rule in ("nll", "auc", "spread"):
        selection = Selection(rule, patience=0)
        for entry in (_entry(1, None, None, None), RUN[1], _entry(3, math.nan, math.nan, None)):
            selection.offer(entry, {})
        assert selection.entry == RUN[1]


def test_patience_counts_epochs_since_the_best() -> None:
    selection = Selection("nll", patience=2)
    exhausted = []
    for entry in RUN:
        selection.offer(entry, {})
        exhausted.append(selection.exhausted)
    assert exhausted == [False, False, False, True, True]


def test_selection_continues_from_its_state() -> None:
    whole, first, second = (Selection("spread", 3) for _ in range(3))
    for entry in RUN:
        whole.offer(entry, {"w": torch.ones(1)})
    for entry in RUN[:3]:
        first.offer(entry, {"w": torch.ones(1)})
    second.load_state(first.state(), first.weights)
    for entry in RUN[3:]:
        second.offer(entry, {"w": torch.ones(1)})
    assert second.state() == whole.state()
    assert second.exhausted == whole.exhausted


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([0.6, 0.8, 0.93, 0.95], None),
        ([0.93, 0.931, 0.92, 0.93], None),
        ([0.6, 0.605, 0.58, 0.6], "never rose"),
        ([0.5, None, 0.4, 0.3], "never rose"),
        ([0.6, 0.9, 0.95, 0.8], "fell back"),
        ([0.7], None),
    ],
)
def test_runs_whose_auc_never_rises_or_falls_back_are_unstable(scores, reason) -> None:
    found = instability([_entry(i, auc) for i, auc in enumerate(scores)], None)
    assert (found is None) if reason is None else (reason in (found or ""))


def test_a_run_that_met_nan_is_unstable() -> None:
    assert instability(RUN, "loss not finite at step 3") == "loss not finite at step 3"
