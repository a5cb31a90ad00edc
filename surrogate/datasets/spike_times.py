"""Exact output spike times from the finely sampled soma voltage."""

from __future__ import annotations

import numpy as np

__all__ = ["THRESHOLD_MV", "local_maxima", "recover_spike_times"]

#: An output spike is a local maximum of the soma voltage above this (Beniaguev et al. 2021).
THRESHOLD_MV = -25.0


def local_maxima(voltage: np.ndarray, threshold: float = THRESHOLD_MV) -> list[np.ndarray]:
    """Samples of each local maximum above ``threshold``: one index, or all of a plateau.

    The voltage is stored as float16, so that two neighbouring samples of one peak can be equal:
    near 30 mV the steps are 1/64 mV.

    Parameters
    ----------
    voltage : ndarray [N]
        Soma voltage in mV.
    threshold : float
        In mV.
    """
    voltage = np.asarray(voltage, np.float32)
    if not voltage.size:
        return []
    starts = np.flatnonzero(np.concatenate([[True], np.diff(voltage) != 0]))
    level = voltage[starts]
    ends = np.append(starts[1:], voltage.size)
    rises = np.concatenate([[False], level[1:] > level[:-1]])
    falls = np.concatenate([level[:-1] > level[1:], [False]])
    peaks = np.flatnonzero(rises & falls & (level > threshold))
    return [np.arange(starts[peak], ends[peak]) for peak in peaks]


def recover_spike_times(
    voltage: np.ndarray, samples_per_ms: int, listed_ms: np.ndarray
) -> np.ndarray | None:
    """Output spike times to the sample, float64 [S], or None if they contradict the listed ones.

    Parameters
    ----------
    voltage : ndarray [n_steps * samples_per_ms]
        Soma voltage in mV.
    samples_per_ms : int
        8 in the public files.
    listed_ms : ndarray, float16 or float32 [S]
        The spike times as the public files list them, rounded to float16.

    Notes
    -----
    A time is accepted if it rounds to the listed one. On a plateau the first sample that does is
    taken: rounding has removed which of the samples was higher. The error is at most the length
    of the plateau, 1/8 ms for two samples.
    """
    listed = np.asarray(listed_ms).astype(np.float16)
    maxima = local_maxima(voltage)
    if len(maxima) != listed.size:
        return None
    times = np.empty(listed.size)
    for spike, samples in enumerate(maxima):
        candidates = samples / samples_per_ms
        agree = candidates[candidates.astype(np.float16) == listed[spike]]
        if not agree.size:
            return None
        times[spike] = agree[0]
    return times
