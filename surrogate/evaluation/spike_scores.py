"""Scores of the spikes that a surrogate's rule emits, against the neuron's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surrogate.evaluation.anatomy import HIT_MS, OUTCOMES, bins_within
from surrogate.evaluation.comparison import WINDOWS_MS, Comparison
from surrogate.evaluation.score import Score, pooled
from surrogate.evaluation.spike_trains import burst_spikes, intervals, van_rossum, victor_purpura

__all__ = ["BURST_MS", "SPIKE_SCORES"]

#: Longest interval between two spikes of a burst, ms.
BURST_MS = 10

#: Time constants of the spike train distances, ms; Victor and Purpura's cost is one over it.
_TIME_CONSTANTS_MS = (5, 20)

_EVENT_WINDOWS_MS = (0, 1, 2, 5)

_SIDES = ("surrogate", "neuron")

#: Addends per trial, and their sums over trials.
Parts = tuple[Any, ...]
Sum = NDArray[Any]


def _of_spikes(
    name: str,
    label: str,
    parts: Callable[..., Parts | None],
    figure: Callable[..., Any],
    **options: Any,
) -> Score:
    """A pooled score that does not exist without emitted spikes, even none of them."""

    def parts_if_emitted(comparison: Comparison, *at: float | str) -> Parts | None:
        return None if comparison.emitted is None else parts(comparison, *at)

    return pooled(name, label, parts_if_emitted, figure, **options)


def _train(comparison: Comparison, side: str) -> NDArray[Any]:
    if side == "neuron":
        return comparison.spikes
    assert comparison.emitted is not None
    return comparison.emitted


def _counts(comparison: Comparison, *windows_ms: int) -> Parts:
    """Pairs within each window, emitted and true spikes, per trial."""
    paired = (comparison.coincidences[window] for window in windows_ms)
    return *paired, *(np.count_nonzero(_train(comparison, side), axis=1) for side in _SIDES)


def _mean_f1(*sums: Sum) -> Sum:
    *paired, ours, theirs = sums
    return np.mean([2 * one / (ours + theirs) for one in paired], axis=0)


def _counts_and_time(comparison: Comparison) -> Parts:
    return *_counts(comparison, HIT_MS), comparison.spikes.shape[1] * comparison.dt_ms


def _gamma(paired: Sum, ours: Sum, theirs: Sum, time_ms: Sum) -> Sum:
    """Kistler et al. (1997): pairs beyond those of a Poisson train with the emitted rate."""
    by_chance = 2 * HIT_MS * ours / time_ms
    gamma = (paired - by_chance * theirs) / ((ours + theirs) / 2 * (1 - by_chance))
    return np.where(by_chance < 1, gamma, np.nan)


def _victor_purpura(comparison: Comparison, tau_ms: float) -> Parts:
    emitted, spikes = (_train(comparison, side) for side in _SIDES)
    distance = victor_purpura(emitted, spikes, comparison.dt_ms / tau_ms)
    return distance, np.count_nonzero(spikes, axis=1)


def _van_rossum(comparison: Comparison, tau_ms: float) -> Parts:
    emitted, spikes = (_train(comparison, side) for side in _SIDES)
    tau = tau_ms / comparison.dt_ms
    return tuple(van_rossum(ours, spikes, tau) for ours in (emitted, np.zeros_like(emitted)))


def _interval_sums(comparison: Comparison, side: str) -> Parts:
    """Number of intervals, their sum and the sum of their squares, per trial."""
    trial, bins = intervals(_train(comparison, side))
    length = bins * comparison.dt_ms
    return tuple(
        np.bincount(trial, weights, minlength=len(comparison.spikes))
        for weights in (None, length, length**2)
    )


def _cv(n: Sum, total: Sum, squares: Sum) -> Sum:
    mean = total / n
    return np.sqrt(np.maximum(squares / n - mean**2, 0)) / mean


def _interval_counts(comparison: Comparison) -> Parts | None:
    """How often each length occurs, per trial: first the surrogate's, then the neuron's."""
    both = [intervals(_train(comparison, side)) for side in _SIDES]
    lengths = np.unique(np.concatenate([bins for _, bins in both]))
    if not len(lengths):
        return None
    counts = np.zeros((2, len(lengths), len(comparison.spikes)), np.int64)
    for side, (trial, bins) in enumerate(both):
        np.add.at(counts[side], (np.searchsorted(lengths, bins), trial), 1)
    return tuple(counts.reshape(-1, len(comparison.spikes)))


def _kolmogorov_smirnov(*counts: Sum) -> Sum:
    reached = np.stack(counts).reshape(2, len(counts) // 2, *counts[0].shape).cumsum(axis=1)
    ours, theirs = reached / reached[:, -1:]
    return np.abs(ours - theirs).max(axis=0)


def _burst_counts(comparison: Comparison, side: str) -> Parts:
    trial, follows, leads = burst_spikes(
        _train(comparison, side), bins_within(BURST_MS, comparison.dt_ms)
    )
    return tuple(
        np.bincount(of, minlength=len(comparison.spikes)) for of in (trial[follows | leads], trial)
    )


def _outcome_counts(comparison: Comparison, outcome: str) -> Parts:
    assert comparison.anatomy is not None
    whole = _train(comparison, "surrogate" if outcome == "false" else "neuron")
    return comparison.anatomy.counts(outcome), np.count_nonzero(whole, axis=1)


SPIKE_SCORES: tuple[Score, ...] = (
    _of_spikes(
        "event_f1",
        "Spike F1 within {:g} ms",
        _counts,
        lambda paired, ours, theirs: 2 * paired / (ours + theirs),
        at=_EVENT_WINDOWS_MS,
    ),
    _of_spikes(
        "event_f1_mean",
        f"Spike F1, mean within {WINDOWS_MS[0]} to {WINDOWS_MS[-1]} ms",
        lambda comparison: _counts(comparison, *WINDOWS_MS),
        _mean_f1,
    ),
    _of_spikes(
        "event_precision",
        "Spike precision within {:g} ms",
        _counts,
        lambda paired, ours, _: paired / ours,
        at=_EVENT_WINDOWS_MS,
    ),
    _of_spikes(
        "event_recall",
        "Spike recall within {:g} ms",
        _counts,
        lambda paired, _, theirs: paired / theirs,
        at=_EVENT_WINDOWS_MS,
    ),
    _of_spikes("gamma_2ms", f"Coincidence factor, {HIT_MS} ms", _counts_and_time, _gamma),
    _of_spikes(
        "victor_purpura",
        "Victor-Purpura distance, {:g} ms",
        _victor_purpura,
        np.divide,
        digits=3,
        at=_TIME_CONSTANTS_MS,
    ),
    _of_spikes(
        "van_rossum",
        "van Rossum distance, {:g} ms",
        _van_rossum,
        lambda ours, silence: np.sqrt(np.maximum(ours, 0) / silence),
        digits=3,
        at=_TIME_CONSTANTS_MS,
    ),
    _of_spikes("rate_ratio", "Emitted over true rate", _counts, np.divide, digits=3),
    _of_spikes("isi_cv", "CV of intervals, {}", _interval_sums, _cv, digits=3, at=_SIDES),
    _of_spikes(
        "isi_distance",
        "Kolmogorov-Smirnov distance of intervals",
        _interval_counts,
        _kolmogorov_smirnov,
        digits=3,
    ),
    _of_spikes(
        "burst_share",
        "Share of spikes in bursts, {}",
        _burst_counts,
        np.divide,
        digits=3,
        at=_SIDES,
    ),
    _of_spikes(
        "spike_outcomes",
        "Share of spikes {}",
        _outcome_counts,
        np.divide,
        digits=3,
        at=OUTCOMES,
    ),
)
