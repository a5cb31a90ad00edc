"""The choice of a spike rule, and how much its spikes depend on the level."""

from __future__ import annotations

import numpy as np
import pytest

from surrogate.evaluation.choose_rule import choose_rule, threshold_sensitivity
from surrogate.evaluation.comparison import Comparison
from surrogate.model.spike_rule import SpikeRule


def _bumps(shape: np.ndarray, spike_at: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits with bumps of varied heights, and spikes at one place of the higher half of them."""
    rng = np.random.default_rng(seed)
    logits, spikes = np.full((6, 1000), -5.0), np.zeros((6, 1000), np.uint8)
    for trial in range(6):
        for start in range(20, 960, 40):
            height = rng.uniform(-4, 2)
            logits[trial, start : start + len(shape)] = shape + height
            spikes[trial, start + spike_at] = height > -1
    return logits + rng.normal(0, 0.01, logits.shape), spikes


def test_spikes_at_peaks_choose_local_peak() -> None:
    logits, spikes = _bumps(np.array([0, 0.5, 1, 1.5, 2, 2.5, 3, 2, 1, 0]), 6)
    rule = choose_rule(logits, spikes, 1.0, "six trials")
    assert rule.kind == "local_peak"
    assert rule.emit(logits).sum() == pytest.approx(spikes.sum(), rel=0.05)
    assert rule.chosen_by.startswith("spike F1, mean within 0 to 5 ms, at the output rate of six")
    assert "level 0." in rule.chosen_by
    assert "local_peak 0.9" in rule.chosen_by or "local_peak 1.0" in rule.chosen_by


def test_spikes_at_onsets_choose_another() -> None:
    # The peak, 15 bins after the onset, is too late to count.
    shape = np.concatenate([[2.0] * 14, [1.9, 2.1, 1.9]])
    logits, spikes = _bumps(shape, 0)
    rule = choose_rule(logits, spikes, 1.0, "six trials")
    assert rule.kind in ("rising_edge", "hysteresis")
    emitted = rule.emit(logits)
    assert (emitted & (spikes > 0)).sum() > 0.8 * spikes.sum()


def test_a_silent_neuron_has_no_rule() -> None:
    with pytest.raises(ValueError, match="no output spike"):
        choose_rule(np.zeros((2, 9)), np.zeros((2, 9), np.uint8), 1.0, "two trials")


def test_sensitivity_is_what_shifted_levels_emit() -> None:
    logits, spikes = _bumps(np.array([0, 1, 2, 3, 2, 1]), 3)
    compared = Comparison(logits, logits, spikes, logits)
    rule = SpikeRule("hysteresis", 0.5, 3, "hand", low_logit=0.0)
    found = {one["factor"]: one for one in threshold_sensitivity(rule, compared)}
    assert found[1]["emitted_spikes"] == rule.emit(logits).sum()
    higher = SpikeRule("hysteresis", 0.5 + np.log(2), 3, "hand", low_logit=np.log(2))
    emitted = higher.emit(logits)
    assert found[2]["logit"] == pytest.approx(higher.logit)
    assert found[2]["emitted_spikes"] == emitted.sum() < found[1]["emitted_spikes"]
    assert found[2]["rate_ratio"] == pytest.approx(emitted.sum() / spikes.sum())
    paired = (emitted & (spikes > 0)).sum()
    assert found[2]["event_f1"] >= 2 * paired / (emitted.sum() + spikes.sum())
