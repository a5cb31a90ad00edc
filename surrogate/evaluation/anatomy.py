"""What became of each spike of a neuron and its surrogate: hit, shifted, missed or false."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surrogate.evaluation.spike_trains import pairs

__all__ = ["HIT_MS", "OUTCOMES", "SHIFT_MS", "Anatomy", "bins_within", "dissect", "near"]

#: Greatest distance of an emitted spike from the neuron's that it hits, ms.
HIT_MS = 2
#: Greatest distance at which it still stands for that spike, ms.
SHIFT_MS = 20

OUTCOMES = ("hit", "shifted", "missed", "false")


@dataclass(frozen=True)
class Anatomy:
    """What became of each spike; every spike is in one outcome.

    Attributes
    ----------
    trains : dict of str to bool [N, T]
        The neuron's spikes that were ``hit``, ``shifted`` or ``missed``, and the emitted spikes
        that were ``false``.
    delays : int64 [P]
        Emitted minus true spike, bins, of the hits and shifted ones.
    """

    trains: dict[str, NDArray[np.bool_]]
    delays: NDArray[np.int64]

    def counts(self, outcome: str) -> NDArray[np.int64]:
        """Spikes with this outcome, per trial [N]."""
        return np.count_nonzero(self.trains[outcome], axis=1)


def dissect(emitted: NDArray[np.bool_], spikes: NDArray[np.integer], dt_ms: float) -> Anatomy:
    """Pair spikes within :data:`HIT_MS`, then what is left within :data:`SHIFT_MS`."""
    false, missed = emitted.astype(bool), spikes.astype(bool)
    trains, delays = {}, []
    for outcome, limit_ms in (("hit", HIT_MS), ("shifted", SHIFT_MS)):
        trial, ours, theirs = pairs(false, missed, bins_within(limit_ms, dt_ms))
        false[trial, ours] = missed[trial, theirs] = False
        trains[outcome] = np.zeros_like(missed)
        trains[outcome][trial, theirs] = True
        delays.append(ours - theirs)
    return Anatomy(trains | {"missed": missed, "false": false}, np.concatenate(delays))


def bins_within(limit_ms: float, dt_ms: float) -> int:
    """Greatest number of bins that are no longer than ``limit_ms``."""
    return math.floor(limit_ms / dt_ms + 1e-9)  # 0.3 / 0.1 is below 3


def near(spikes: NDArray[np.integer], reach: int) -> NDArray[np.bool_]:
    """Bins at most ``reach`` bins from a spike, [N, T]."""
    steps = spikes.shape[1]
    so_far = np.zeros((len(spikes), steps + 1), np.int64)
    np.cumsum(spikes, axis=1, out=so_far[:, 1:])
    at = np.arange(steps)
    return so_far[:, np.minimum(at + reach + 1, steps)] > so_far[:, np.maximum(at - reach, 0)]
