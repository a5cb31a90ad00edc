"""Pairs of spikes and distances of spike trains against brute force and elephant."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surrogate.evaluation.spike_trains import (
    burst_spikes,
    coincidences,
    intervals,
    pairs,
    van_rossum,
    victor_purpura,
)

TIMES = st.sets(st.integers(0, 24), max_size=7)

# Distances that elephant 1.2.1 gives of these two trains, by time constant (cost 1 / tau).
OURS, THEIRS = [3, 10, 17, 50, 58, 120, 121, 199], [1, 11, 16, 30, 52, 60, 118, 199, 210]
ELEPHANT = {5: (5.0, 2.616390865972567), 20: (3.5, 1.9740617694654299)}


def _train(times, steps: int = 250) -> np.ndarray:
    train = np.zeros((1, steps), np.uint8)
    train[0, list(times)] = 1
    return train


def test_coincidences_pair_each_spike_once() -> None:
    true = np.zeros((3, 30), np.uint8)
    ours = np.zeros((3, 30), bool)
    true[0, [5, 20]] = 1
    ours[0, [4, 5, 6, 22]] = True  # three emitted near one true spike count once
    true[1, [10, 12]] = 1
    ours[1, [11]] = True  # one emitted between two true spikes counts once
    ours[2, [3]] = True
    assert coincidences(ours, true, 0).tolist() == [1, 0, 0]
    assert coincidences(ours, true, 1).tolist() == [1, 1, 0]
    assert coincidences(ours, true, 2).tolist() == [2, 1, 0]


@settings(max_examples=60, deadline=None)
@given(
    true=st.sets(st.integers(0, 24), max_size=7),
    ours=st.sets(st.integers(0, 24), max_size=7),
    window=st.integers(0, 6),
)
def test_coincidences_are_a_greatest_matching(true, ours, window) -> None:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    trains = np.zeros((2, 1, 25), np.uint8)
    trains[0, 0, list(true)], trains[1, 0, list(ours)] = 1, 1
    near = np.abs(np.subtract.outer(sorted(ours), sorted(true))) <= window
    pairs = 0
    if near.any():
        pairs = int((maximum_bipartite_matching(csr_array(near)) >= 0).sum())
    assert coincidences(trains[1].astype(bool), trains[0], window).tolist() == [pairs]


@settings(max_examples=60, deadline=None)
@given(true=TIMES, ours=TIMES, window=st.integers(0, 6))
def test_each_pair_is_of_two_spikes_near_each_other(true, ours, window) -> None:
    _, a, b = pairs(_train(ours), _train(true), window)
    assert set(a) <= ours
    assert set(b) <= true
    assert len(set(a)) == len(a) == len(set(b))
    assert (np.abs(a - b) <= window).all()


@pytest.mark.parametrize("tau", ELEPHANT)
def test_distances_are_those_of_elephant(tau) -> None:
    ours, theirs = _train(OURS), _train(THEIRS)
    cost, distance = ELEPHANT[tau]
    assert victor_purpura(ours, theirs, 1 / tau)[0] == pytest.approx(cost, rel=1e-12)
    assert np.sqrt(van_rossum(ours, theirs, tau))[0] == pytest.approx(distance, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(true=TIMES, ours=TIMES, cost=st.floats(0, 3))
def test_victor_purpura_is_the_cheapest_way(true, ours, cost) -> None:
    a, b = tuple(sorted(ours)), tuple(sorted(true))

    @functools.cache
    def cheapest(i: int, j: int) -> float:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        moved = cost * abs(a[i] - b[j]) + cheapest(i + 1, j + 1)
        return min(moved, 1 + cheapest(i + 1, j), 1 + cheapest(i, j + 1))

    found = victor_purpura(_train(ours), _train(true), cost)[0]
    assert found == pytest.approx(cheapest(0, 0), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(true=TIMES, ours=TIMES, tau=st.floats(0.5, 30))
def test_van_rossum_is_the_integral_of_filtered_trains(true, ours, tau) -> None:
    fine, end = 1 / 64, 25 + 20 * tau
    t = np.arange(0, end, fine) + fine / 2

    def filtered(times) -> np.ndarray:
        return sum((np.exp((s - t) / tau) * (t > s) for s in times), np.zeros(len(t)))

    integral = 2 / tau * np.square(filtered(ours) - filtered(true)).sum() * fine
    assert van_rossum(_train(ours), _train(true), tau)[0] == pytest.approx(integral, abs=1e-2)


def test_trials_are_apart() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.random((2, 9, 80)) < np.linspace(0, 0.4, 9)[:, None]
    for measure in (
        lambda a, b: coincidences(a, b, 2),
        lambda a, b: victor_purpura(a, b, 0.2),
        lambda a, b: van_rossum(a, b, 5.0),
    ):
        alone = [measure(ours[n : n + 1], theirs[n : n + 1])[0] for n in range(9)]
        np.testing.assert_allclose(measure(ours, theirs), alone, rtol=1e-12)
    trial, length = intervals(ours)
    for n in range(9):
        np.testing.assert_array_equal(length[trial == n], np.diff(np.flatnonzero(ours[n])))


def test_spikes_of_a_burst_follow_or_lead_others() -> None:
    train = np.concatenate([_train([0, 10, 21, 100]), _train([5])])
    trial, follows, leads = burst_spikes(train, 10)
    assert trial.tolist() == [0, 0, 0, 0, 1]
    assert follows.tolist() == [False, True, False, False, False]
    assert leads.tolist() == [True, False, False, False, False]
