"""Scores of emitted spikes by hand: events, coincidence factor, distances, intervals, outcomes."""

from __future__ import annotations

import numpy as np
import pytest

from surrogate.evaluation.comparison import Comparison
from surrogate.evaluation.scores import SCORES
from surrogate.evaluation.spike_scores import SPIKE_SCORES


def _compare(true, ours, steps: int = 1000, dt_ms: float = 1.0) -> Comparison:
    """Trials with spikes at these times, one list of bins for each trial."""
    spikes, emitted = np.zeros((2, len(true), steps), np.uint8)
    for train, times in ((spikes, true), (emitted, ours)):
        for row, bins in zip(train, times, strict=True):
            row[bins] = 1
    flat = np.zeros(spikes.shape, np.float32)
    return Comparison(flat, flat, spikes, flat, emitted.astype(bool), dt_ms)


def test_windows_of_coincidences_are_in_ms() -> None:
    spikes = np.zeros((1, 30), np.uint8)
    spikes[0, 10] = 1
    emitted = np.roll(spikes, 3, axis=1).astype(bool)  # 3 bins late
    for dt_ms, found in ((1.0, [0, 0, 0, 1]), (0.5, [0, 0, 1, 1]), (0.1, [0, 1, 1, 1])):
        compared = Comparison(spikes, spikes, spikes, spikes, emitted, dt_ms)
        for name in ("event_f1", "event_precision", "event_recall"):
            assert list(SCORES[name].measure(compared).values()) == found


def test_event_scores_by_hand() -> None:
    spikes, emitted = np.zeros((2, 50), np.uint8), np.zeros((2, 50), bool)
    spikes[0, [5, 20]] = spikes[1, [7, 30, 40]] = 1
    emitted[0, [5, 22]] = emitted[1, [8]] = True
    compared = Comparison(spikes, spikes, spikes, spikes, emitted)
    pairs = {"0": 1, "1": 2, "2": 3, "5": 3}
    for name, whole in (("event_precision", 3), ("event_recall", 5), ("event_f1", 4)):
        expected = {window: pytest.approx(count / whole) for window, count in pairs.items()}
        assert SCORES[name].measure(compared) == expected
    assert SCORES["event_f1"].measure(Comparison(spikes, spikes, spikes, spikes)) is None


def test_mean_f1_is_over_every_ms() -> None:
    # Pairs 0, 1, 3 and 5 ms apart: 1, 2, 2, 3, 3, 4 of 4 within 0, 1, ... 5 ms.
    compared = _compare([[10, 100, 200, 300]], [[10, 101, 203, 305]])
    assert SCORES["event_f1_mean"].measure(compared) == pytest.approx(15 / 24)


def test_coincidence_factor_by_hand() -> None:
    # 5 emitted in 2000 ms: 2 * 2 ms * 5 / 2000 ms = .01 expected at each of the 4 true spikes.
    compared = _compare([[10, 500], [30, 700]], [[12, 503, 900], [30, 100]])
    expected = (2 - 0.01 * 4) / (0.5 * (5 + 4) * 0.99)
    assert SCORES["gamma_2ms"].measure(compared) == pytest.approx(expected)


def test_coincidence_factor_is_one_for_equal_trains_and_zero_for_chance() -> None:
    rng = np.random.default_rng(0)
    spikes, chance = (rng.random((2, 200, 5000)) < 0.01).astype(np.uint8)
    flat = np.zeros(spikes.shape, np.float32)
    equal = Comparison(flat, flat, spikes, flat, spikes > 0)
    assert SCORES["gamma_2ms"].measure(equal) == pytest.approx(1)
    by_chance = Comparison(flat, flat, spikes, flat, chance > 0)
    assert abs(SCORES["gamma_2ms"].measure(by_chance)) < 0.02


def test_distances_are_0_for_equal_trains_and_1_for_silence() -> None:
    true = [[10, 60, 66], [500]]
    for name in ("victor_purpura", "van_rossum"):
        score = SCORES[name]
        assert set(score.measure(_compare(true, true)).values()) == {0}
        assert list(score.measure(_compare(true, [[], []])).values()) == pytest.approx([1, 1])
        assert score.measure(_compare([[], []], true)) is None
    moved = _compare(true, [[11, 60, 66], [500]])
    assert SCORES["victor_purpura"].measure(moved)["5"] == pytest.approx(1 / 5 / 4)


def test_rate_ratio_and_intervals_by_hand() -> None:
    compared = _compare([[0, 10, 40], [5]], [[0, 20, 40], [7, 17]], dt_ms=0.5)
    assert SCORES["rate_ratio"].measure(compared) == 5 / 4
    assert SCORES["isi_cv"].measure(compared) == {
        "surrogate": pytest.approx(np.std([10, 10, 5]) / np.mean([10, 10, 5])),
        "neuron": pytest.approx(np.std([5, 15]) / np.mean([5, 15])),
    }
    # Shares up to 5, 10 and 15 ms: 1/3, 1, 1 against 1/2, 1/2, 1.
    assert SCORES["isi_distance"].measure(compared) == pytest.approx(1 / 2)
    assert SCORES["isi_distance"].measure(_compare([[1]], [[2]])) is None


def test_share_of_spikes_in_bursts() -> None:
    compared = _compare([[0, 10, 21], [5]], [[0, 11, 22], [5]])
    assert SCORES["burst_share"].measure(compared) == {"surrogate": 0, "neuron": 1 / 2}


def test_every_spike_has_one_outcome() -> None:
    # 99 hits 100, 120 stands for 105, and 300 and 500 are too far apart.
    compared = _compare([[100, 105, 300]], [[99, 120, 500]])
    third = pytest.approx(1 / 3)
    assert SCORES["spike_outcomes"].measure(compared) == dict.fromkeys(
        ("hit", "shifted", "missed", "false"), third
    )
    assert compared.anatomy.delays.tolist() == [-1, 15]


def test_without_a_rule_no_score_of_spikes_exists() -> None:
    spikes = _compare([[3]], [[3]]).spikes
    silent = Comparison(spikes, spikes, spikes, spikes)
    assert {score.measure(silent) for score in SPIKE_SCORES} == {None}
