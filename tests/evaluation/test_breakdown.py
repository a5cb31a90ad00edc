"""Reliability curve, histogram of intervals and anatomy of errors, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from surrogate.evaluation.bootstrap import Resamples, draw_weights
from surrogate.evaluation.breakdown import error_anatomy, interval_histogram, reliability
from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.protocols import Outputs


def _outputs(true, ours, steps: int = 1000, first_bin: int = 0) -> Outputs:
    spikes, emitted = np.zeros((2, len(true), steps), np.uint8)
    for train, times in ((spikes, true), (emitted, ours)):
        for row, bins in zip(train, times, strict=True):
            row[bins] = 1
    flat = np.zeros(spikes.shape, np.float32)
    return Outputs(
        flat,
        flat,
        spikes,
        flat,
        emitted.astype(bool),
        trials=np.arange(len(true)) + 40,
        dropped=0,
        first_bin=first_bin,
        protocol="stateful",
        labels="exact",
        seconds=0.0,
    )


def test_reliability_of_a_model_that_is_right_on_average() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(-2, 2, (30, 4000))
    spikes = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    resamples = Resamples(Comparison(logits, logits, spikes, logits), draw_weights(30, 200, 0))
    curve = reliability(resamples)
    assert sum(part["n_bins"] for part in curve) == logits.size
    for part in curve:
        assert part["low"] <= part["mean_probability"] < part["high"]
        error = np.sqrt(part["mean_probability"] / part["n_bins"])
        assert part["spike_share"] == pytest.approx(part["mean_probability"], abs=4 * error)
        low, high = part["spike_share_interval"]
        assert low <= part["spike_share"] <= high


def test_reliability_lists_only_ranges_that_occur() -> None:
    logits = np.full((2, 10), 40.0)  # probability 1 to the last digit
    spikes = np.ones((2, 10), np.uint8)
    (only,) = reliability(Resamples(Comparison(logits, logits, spikes, logits), np.ones((0, 2))))
    assert (only["low"], only["high"], only["n_bins"], only["spike_share"]) == (0.5, 1, 20, 1)
    assert only["spike_share_interval"] is None


def test_histogram_holds_every_interval() -> None:
    found = interval_histogram(_outputs([[0, 1, 999]], [[0, 6, 11]]))
    edges = np.array(found["edges_ms"])
    for side, lengths in (("neuron", [1, 998]), ("surrogate", [6, 5])):
        np.testing.assert_array_equal(found[side], np.histogram(lengths, edges)[0])
        assert sum(found[side]) == 2


def test_anatomy_says_where_errors_are() -> None:
    outputs = _outputs(
        [[100, 106, 112, 300, 700], [50], []], [[101, 120, 125, 900], [], [10, 800]], first_bin=400
    )
    found = error_anatomy(outputs)
    # 101 hits 100, 120 and 125 stand for 106 and 112.
    assert [found[outcome] for outcome in ("hit", "shifted", "missed", "false")] == [1, 2, 3, 3]
    assert found["delay_ms"] == {
        "mean": pytest.approx(28 / 3),
        "sd": pytest.approx(np.std([1, 14, 13])),
    }
    assert found["by_place"] == {
        "alone": {"hit": 0, "shifted": 0, "missed": 3},
        "burst_first": {"hit": 1, "shifted": 0, "missed": 0},
        "burst_later": {"hit": 0, "shifted": 2, "missed": 0},
    }
    assert found["false_beside_spikes"] == 0
    assert found["onset"] == {"hit": 0, "shifted": 0, "missed": 1, "false": 1}  # 100 bins of it
    assert found["worst_trials"] == [
        {"trial": 40, "missed": 2, "false": 1},
        {"trial": 42, "missed": 0, "false": 2},
        {"trial": 41, "missed": 1, "false": 0},
    ]
    assert found["worst_tenth_share"] == 1 / 2


def test_false_spikes_beside_true_ones_are_counted() -> None:
    found = error_anatomy(_outputs([[100]], [[95, 100, 120, 121]]))
    assert (found["false"], found["false_beside_spikes"]) == (3, 2)
    assert error_anatomy(_outputs([[]], [[]]))["worst_tenth_share"] is None
