"""Two spike trains against each other: pairs of spikes, distances, intervals, bursts.

Trains are arrays [N, T] of 0 and 1, trial by trial; times and windows are in bins. Everything runs
over the spikes of all trials at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["burst_spikes", "coincidences", "intervals", "pairs", "van_rossum", "victor_purpura"]

Train = NDArray[Any]
Index = NDArray[np.int64]

#: Time of a spike that fills up a row, later than any.
_NEVER = 2**40


def pairs(ours: Train, theirs: Train, window: int) -> tuple[Index, Index, Index]:
    """Pairs of spikes at most ``window`` bins apart, each spike in one pair at most.

    Of all such pairings one with the most pairs: the earliest spikes that can be paired are.

    Returns
    -------
    trial, bin of ours, bin of theirs : int64 [P]
    """
    times = _spike_times(ours), _spike_times(theirs)
    rows = np.arange(len(ours))
    next_ours, next_theirs = np.zeros((2, len(ours)), np.int64)
    found = []
    while True:
        a, b = times[0][rows, next_ours], times[1][rows, next_theirs]
        if not (np.minimum(a, b) < _NEVER).any():
            break
        near = (np.abs(a - b) <= window) & (a < _NEVER)
        found.append(np.array([rows[near], a[near], b[near]]))
        next_ours += near | (a < b - window)
        next_theirs += near | (b < a - window)
    trial, a, b = np.concatenate(found, axis=1) if found else np.zeros((3, 0), np.int64)
    return trial, a, b


def coincidences(ours: Train, theirs: Train, window: int) -> Index:
    """Greatest number of :func:`pairs`, per trial [N]."""
    return np.bincount(pairs(ours, theirs, window)[0], minlength=len(ours))


def victor_purpura(ours: Train, theirs: Train, cost: float) -> NDArray[np.float64]:
    """Victor and Purpura's (1996) spike time distance, per trial [N].

    The least cost of turning one train into the other: 1 for a spike added or removed, ``cost`` for
    each bin that a spike is moved.
    """
    our_times, their_times = _spike_times(ours), _spike_times(theirs)
    n_ours, n_theirs = (np.count_nonzero(train, axis=1) for train in (ours, theirs))
    rows = np.arange(len(ours))
    column = np.arange(their_times.shape[1], dtype=np.float64)
    # Row i: the distance of our first i spikes from their first j, for every j.
    distance = np.tile(column, (len(ours), 1))
    result = distance[rows, n_theirs]
    for i in range(1, our_times.shape[1]):
        moved = distance[:, :-1] + cost * np.abs(our_times[:, i - 1, None] - their_times[:, :-1])
        distance[:, 1:] = np.minimum(distance[:, 1:] + 1, moved)
        distance[:, 0] = i
        # Removing spikes of theirs costs 1 each: the lowest of all starting points to the left.
        distance = np.minimum.accumulate(distance - column, axis=1) + column
        result = np.where(n_ours == i, distance[rows, n_theirs], result)
    return result


def van_rossum(ours: Train, theirs: Train, tau: float) -> NDArray[np.float64]:
    """Square of van Rossum's (2001) distance with time constant ``tau`` bins, per trial [N].

    Normalised so that a spike added or removed far from others costs 1.
    """
    difference = ours.astype(np.int8) - theirs.astype(np.int8)  # equal spikes cancel
    times = _spike_times(difference)
    rows = np.arange(len(ours))
    # Sum over all pairs of spikes of their signs times exp(-distance / tau), from left to right.
    trace, square = np.zeros((2, len(ours)))
    before = np.zeros(len(ours))
    for now in times[:, :-1].T:
        there = now < _NEVER
        sign = np.where(there, difference[rows, np.where(there, now, 0)], 0)
        trace *= np.exp((before - now) / tau)
        square += sign * (sign + 2 * trace)
        trace += sign
        before = now
    return square


def intervals(train: Train) -> tuple[Index, Index]:
    """Trial and length in bins of each interval between successive spikes."""
    trial, time = np.nonzero(train)
    same = np.diff(trial) == 0
    return trial[1:][same], np.diff(time)[same]


def burst_spikes(train: Train, longest: int) -> tuple[Index, NDArray[np.bool_], NDArray[np.bool_]]:
    """Which spikes are close to others.

    Returns
    -------
    trial : int64 [S]
        Of each spike.
    follows, leads : bool [S]
        Whether a spike lies at most ``longest`` bins before, and after.
    """
    trial, time = np.nonzero(train)
    close = (np.diff(trial) == 0) & (np.diff(time) <= longest)
    follows, leads = np.zeros((2, len(trial)), bool)
    follows[1:], leads[:-1] = close, close
    return trial, follows, leads


def _spike_times(train: Train) -> Index:
    """Bins of the spikes of each trial, filled up with at least one ``_NEVER`` [N, most + 1]."""
    trial, time = np.nonzero(train)
    counts = np.bincount(trial, minlength=len(train))
    times = np.full((len(train), counts.max(initial=0) + 1), _NEVER)
    times[trial, np.arange(len(trial)) - np.repeat(np.cumsum(counts) - counts, counts)] = time
    return times
