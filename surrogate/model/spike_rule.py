"""The rule that turns spike logits into spikes; chosen once and stored in the model card."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from surrogate.validated import validated

__all__ = ["REFRACTORY_MS", "SpikeRule", "match_output_rate"]

#: Longest refractory period that a rule is given, ms. It is that of the L5 pyramidal cell: the
#: shortest interval between the 870 spikes of 104 training trials was 6.125 ms.
REFRACTORY_MS = 6


@validated("spike rule")
@dataclass(frozen=True)
class SpikeRule:
    """A spike wherever the logit reaches a level and the neuron is not refractory.

    Attributes
    ----------
    kind : "level"
    logit : float
        The level, in float64: float32 sigmoids of distinct levels can be equal.
    refractory_bins : int
        After a spike in bin t, the bins t + 1 .. t + refractory_bins - 1 stay silent.
    chosen_by : str
        How the level was found, for readers of the model card.

    Raises
    ------
    UsageError
        If a field is out of its range.
    """

    kind: Literal["level"]
    logit: float
    refractory_bins: Annotated[int, Field(ge=1, lt=2**31)]
    chosen_by: str

    def emit(self, logits: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Spikes [N, T] that logits [N, T] cause, each row from a neuron that is not refractory."""
        # Against float32 logits the level would be rounded to float32 too.
        above = logits.astype(np.float64) >= self.logit
        silent_until = np.zeros(len(logits), dtype=np.int64)
        for t in np.flatnonzero(above.any(axis=0)):
            above[:, t] &= silent_until <= t
            silent_until[above[:, t]] = t + self.refractory_bins
        return above


def match_output_rate(
    logits: NDArray[np.floating],
    spikes: NDArray[np.integer],
    dt_ms: float,
    chosen_by: str,
    refractory_bins: int | None = None,
) -> SpikeRule:
    """The level at which the rule emits as many spikes as the neuron did, refractoriness included.

    Parameters
    ----------
    logits : array [N, T]
        Of the trials to choose on: validation trials, run statefully.
    spikes : array [N, T] of 0 and 1
        The neuron's own spikes in the same bins.
    dt_ms : float
        Length of a bin.
    chosen_by : str
        Recorded in the rule.
    refractory_bins : int, optional
        By default :data:`REFRACTORY_MS`, or less if the neuron itself spiked at a shorter interval.

    Returns
    -------
    SpikeRule
        With the spike count closest to the neuron's; its level is midway between the lowest logit
        that may spike and the next one below.

    Raises
    ------
    ValueError
        If the neuron never spiked, so that no level can be matched.
    """
    wanted = int(np.sum(spikes))
    if wanted == 0:
        raise ValueError("no output spike in these trials: a level cannot be matched to their rate")
    if refractory_bins is None:
        trial, bins = np.nonzero(spikes)
        intervals = np.diff(bins)[np.diff(trial) == 0]
        refractory_bins = int(intervals.min(initial=max(1, round(REFRACTORY_MS / dt_ms))))
    levels = np.unique(logits.astype(np.float64))

    def rule_at(level: float) -> SpikeRule:
        return SpikeRule("level", level, refractory_bins, chosen_by)

    def emitted(index: int) -> int:
        return int(rule_at(levels[index]).emit(logits).sum())

    # A lower level only adds bins that may spike, and a neuron that spikes as soon as it may has
    # the greatest number of spikes possible: the count never rises with the level.
    at = bisect.bisect_left(range(len(levels)), -wanted, key=lambda index: -emitted(index))
    nearest = min(
        (index for index in (at, at - 1) if 0 <= index < len(levels)),
        key=lambda index: abs(emitted(index) - wanted),
    )
    # Midway to the logit below: rounding, which differs between machines, changes no spike.
    return rule_at(float(levels[max(nearest - 1, 0) : nearest + 1].mean()))
