"""What a score sees: a surrogate's outputs beside the neuron's, trial by trial."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from surrogate.evaluation.anatomy import Anatomy, bins_within, dissect
from surrogate.evaluation.roc import Roc, roc_of, sigmoid
from surrogate.evaluation.spike_trains import coincidences

__all__ = ["WINDOWS_MS", "Comparison"]

#: How far apart an emitted and a true spike may be to count as the same, ms.
WINDOWS_MS = (0, 1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Comparison:
    """A surrogate's outputs and the neuron's in the bins that count.

    Attributes
    ----------
    logits, voltage : float32 [N, T]
        The surrogate's; voltage in mV.
    spikes : uint8 [N, T]
        The neuron's, 0 or 1.
    target : float32 [N, T]
        The neuron's soma voltage, mV.
    emitted : bool [N, T] or None
        Spikes that the model's rule makes of the logits; None if it has no rule.
    dt_ms : float
        Width of a bin.
    rescale_voltage : bool
        Whether scores give the predicted voltage the mean and deviation of the true one first, as
        the ELM evaluation does (Spieler et al. 2024).
    """

    logits: NDArray[np.floating]
    voltage: NDArray[np.floating]
    spikes: NDArray[np.integer]
    target: NDArray[np.floating]
    emitted: NDArray[np.bool_] | None = None
    dt_ms: float = 1.0
    rescale_voltage: bool = False

    @cached_property
    def rankable(self) -> bool:
        """Whether the bins include both spikes and silence."""
        return 0 < int(self.spikes.sum()) < self.spikes.size

    @cached_property
    def roc(self) -> Roc:
        """The ROC curve, if the bins are :attr:`rankable`."""
        return roc_of(self.logits, self.spikes)

    @cached_property
    def probability(self) -> NDArray[np.float64]:
        """Spike probability that the surrogate gives each bin [N, T]."""
        return sigmoid(self.logits.astype(np.float64))

    @cached_property
    def coincidences(self) -> dict[int, NDArray[np.int64]]:
        """Pairs of an emitted and a true spike per trial [N], by each of :data:`WINDOWS_MS`."""
        assert self.emitted is not None
        return {
            window: coincidences(self.emitted, self.spikes, bins_within(window, self.dt_ms))
            for window in WINDOWS_MS
        }

    @cached_property
    def anatomy(self) -> Anatomy | None:
        """What became of each spike; None without emitted spikes."""
        if self.emitted is None:
            return None
        return dissect(self.emitted, self.spikes, self.dt_ms)

    def pick(self, trials: NDArray[np.integer]) -> Comparison:
        """The trials at these rows, which may repeat."""
        return Comparison(
            self.logits[trials],
            self.voltage[trials],
            self.spikes[trials],
            self.target[trials],
            None if self.emitted is None else self.emitted[trials],
            self.dt_ms,
            self.rescale_voltage,
        )
