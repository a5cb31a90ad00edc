"""The spike rule: what it emits, and the level it is given."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surrogate.model.spike_rule import KINDS, REFRACTORY_MS, SpikeRule, match_output_rate


def _emit_one_bin_at_a_time(
    logits: np.ndarray, level: float, refractory_bins: int, kind: str = "level", low: float = 0.0
) -> np.ndarray:
    spikes = np.zeros(logits.shape, bool)
    for row, trial in zip(spikes, logits.astype(np.float64).tolist(), strict=True):
        last, armed = -refractory_bins, True
        for t, logit in enumerate(trial):
            before = trial[t - 1] if t else -np.inf
            reaches = logit >= level
            here = {
                "level": reaches,
                "rising_edge": reaches and before < level,
                "local_peak": reaches and logit > before and trial[t + 1 : t + 2] <= [logit],
                "hysteresis": reaches and armed,
            }[kind]
            if kind == "local_peak" and t == len(trial) - 1:
                here = False  # nobody knows yet
            armed = not reaches and (armed or logit < low)
            if here and t - last >= refractory_bins:
                row[t] = True
                last = t
    return spikes


def test_emit_waits_for_the_refractory_period() -> None:
    logits = np.array([[0, 2, 2, 2, 2, 0, 2, 1.0]])
    emitted = SpikeRule("level", 2.0, 3, "hand").emit(logits)
    assert np.flatnonzero(emitted).tolist() == [1, 4]
    assert np.flatnonzero(SpikeRule("level", 1.0, 1, "hand").emit(logits)).tolist() == [
        *(1, 2, 3, 4, 6, 7)
    ]


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["level", "rising_edge", "local_peak", "hysteresis"]),
    seed=st.integers(0, 2**32 - 1),
    level=st.floats(-2, 2),
    gap=st.floats(0, 2),
    refractory_bins=st.integers(1, 12),
    decimals=st.integers(0, 3),
)
def test_emit_equals_the_plain_loop(kind, seed, level, gap, refractory_bins, decimals) -> None:
    logits = np.random.default_rng(seed).normal(size=(3, 80)).round(decimals).astype(np.float32)
    low = level - gap if kind == "hysteresis" else None
    rule = SpikeRule(kind, level, refractory_bins, "random", low)
    expected = _emit_one_bin_at_a_time(logits, level, refractory_bins, kind, level - gap)
    np.testing.assert_array_equal(rule.emit(logits), expected)


def test_hysteresis_waits_until_the_logit_was_low() -> None:
    logits = np.array([[2.0, 0.5, 2, -1, 0.5, 2, 2, 0, -0.1, 1]])
    emitted = SpikeRule("hysteresis", 1.0, 1, "hand", low_logit=0.0).emit(logits)
    assert np.flatnonzero(emitted).tolist() == [0, 5, 9]
    same = SpikeRule("hysteresis", 1.0, 1, "hand", low_logit=1.0).emit(logits)
    np.testing.assert_array_equal(same, SpikeRule("rising_edge", 1.0, 1, "hand").emit(logits))


def test_a_stochastic_rule_spikes_with_its_probability() -> None:
    logits = np.repeat(np.array([[-3.0], [0.0], [1.5]]), 40_000, axis=1)
    emitted = SpikeRule("stochastic", 0.5, 1, "hand", seed=3).emit(logits)
    expected = 1 / (1 + np.exp(0.5 - logits[:, 0]))
    np.testing.assert_allclose(emitted.mean(axis=1), expected, atol=0.01)
    again = SpikeRule("stochastic", 0.5, 1, "hand", seed=3).emit(logits[:, :100])
    np.testing.assert_array_equal(again, emitted[:, :100])
    other = SpikeRule("stochastic", 0.5, 1, "hand", seed=4).emit(logits)
    assert (other != emitted).any()


def test_only_a_peak_is_known_a_bin_later() -> None:
    for kind in KINDS:
        low = 0.0 if kind == "hysteresis" else None
        seed = 1 if kind == "stochastic" else None
        rule = SpikeRule(kind, 0.0, 3, "hand", low, seed)
        assert rule.delay_bins == (kind == "local_peak")
        assert ("emitted 0.5 ms later" in rule.in_words(0.5)) == (kind == "local_peak")
        higher = None if low is None else 1.5
        assert rule.shifted(1.5) == SpikeRule(kind, 1.5, 3, "hand", higher, seed)


def test_emit_leaves_the_logits_alone() -> None:
    logits = np.array([[1.0, 2.0]])
    SpikeRule("level", 0.0, 5, "hand").emit(logits)
    assert logits.tolist() == [[1.0, 2.0]]


def test_the_level_is_compared_in_float64() -> None:
    # In float32 this level would round to 1 and the bin would spike.
    level = 1 + 2.0**-25
    assert np.float32(level) == 1
    assert not SpikeRule("level", level, 1, "hand").emit(np.ones((1, 1), np.float32)).any()


@pytest.mark.parametrize("refractory_bins", [1, 4, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_matched_rule_emits_the_neurons_number_of_spikes(kind, refractory_bins) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(5, 2000)).astype(np.float32)
    spikes = (rng.random(logits.shape) < 0.01).astype(np.uint8)
    gap = 0.7 if kind == "hysteresis" else None
    rule = match_output_rate(logits, spikes, 1.0, "test", refractory_bins, kind, gap)
    assert rule.emit(logits).sum() == spikes.sum()
    assert (rule.kind, rule.refractory_bins) == (kind, refractory_bins)
    assert rule.logit > 0  # of the two levels that edges have, the upper
    if gap is not None:
        assert rule.low_logit == pytest.approx(rule.logit - gap)


def test_matched_level_lies_between_the_logits_that_spike_and_those_that_do_not() -> None:
    logits = np.array([[0.0, 5.0, 1.0, 4.0, 0.5]], np.float32)
    spikes = np.array([[0, 1, 0, 1, 0]], np.uint8)
    assert match_output_rate(logits, spikes, 1.0, "test", 1).logit == 2.5


@settings(max_examples=50, deadline=None)
@given(
    kind=st.sampled_from(["level", "local_peak"]),
    seed=st.integers(0, 2**32 - 1),
    refractory_bins=st.integers(1, 8),
    decimals=st.integers(0, 2),
)
def test_no_level_matches_the_rate_better(kind, seed, refractory_bins, decimals) -> None:
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=(2, 60)), decimals)
    spikes = (rng.random(logits.shape) < 0.1).astype(np.uint8)
    spikes[0, 0] = 1
    wanted = int(spikes.sum())
    counts = [
        _emit_one_bin_at_a_time(logits, level, refractory_bins, kind).sum()
        for level in np.unique(logits)
    ]
    rule = match_output_rate(logits, spikes, 1.0, "test", refractory_bins, kind)
    best = min(abs(int(count) - wanted) for count in counts)
    assert abs(int(rule.emit(logits).sum()) - wanted) == best


def test_a_silent_neuron_has_no_rate_to_match() -> None:
    with pytest.raises(ValueError, match="no output spike"):
        match_output_rate(np.zeros((1, 5)), np.zeros((1, 5), np.uint8), 1.0, "test")


def test_refractory_period_gives_way_to_a_faster_neuron() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 100))
    slow, fast = np.zeros((2, 2, 100), np.uint8)
    slow[0, [5, 40]] = slow[1, 41] = 1
    fast[0, [5, 8, 40]] = 1
    assert match_output_rate(logits, slow, 1.0, "test").refractory_bins == REFRACTORY_MS
    assert match_output_rate(logits, fast, 1.0, "test").refractory_bins == 3
    assert match_output_rate(logits, slow, 0.5, "test").refractory_bins == 2 * REFRACTORY_MS
    assert match_output_rate(logits, slow, 20.0, "test").refractory_bins == 1
    assert match_output_rate(logits, fast, 1.0, "test", 2).refractory_bins == 2


def test_refractory_period_is_below_every_interval_of_the_real_neuron(shared_data) -> None:
    import h5py

    with h5py.File(shared_data / "l5pc-train.h5") as file:
        times, ends = file["output/spike_time_ms"][:], file["output/trial_ptr"][:]
    shortest = min(np.diff(times[a:b]).min() for a, b in itertools.pairwise(ends) if b - a > 1)
    assert REFRACTORY_MS <= shortest < REFRACTORY_MS + 1


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "peak"},
        {"logit": float("nan")},
        {"logit": float("inf")},
        {"refractory_bins": 0},
        {"refractory_bins": 2.5},
        {"low_logit": 0.1},
        {"kind": "hysteresis"},
        {"kind": "hysteresis", "low_logit": 0.6},
        {"kind": "stochastic"},
        {"kind": "stochastic", "seed": -1},
        {"seed": 3},
    ],
)
def test_impossible_rules_are_refused(fields) -> None:
    valid = {"kind": "level", "logit": 0.5, "refractory_bins": 6, "chosen_by": "hand"}
    with pytest.raises(ValueError, match="expected"):
        SpikeRule(**(valid | fields))
