"""Rules that turn spike logits into spikes; one is chosen once and stored in the model card."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from surrogate.errors import UsageError
from surrogate.model.philox import logistic
from surrogate.validated import validated

__all__ = ["KINDS", "REFRACTORY_MS", "SpikeRule", "match_output_rate"]

Kind = Literal["level", "rising_edge", "local_peak", "hysteresis", "stochastic"]

KINDS: tuple[Kind, ...] = get_args(Kind)

#: Longest refractory period that a rule is given, ms. It is that of the L5 pyramidal cell: the
#: shortest interval between the 870 spikes of 104 training trials was 6.125 ms.
REFRACTORY_MS = 6


@validated("spike rule")
@dataclass(frozen=True)
class SpikeRule:
    """In which bins a neuron spikes, unless it is refractory.

    Attributes
    ----------
    kind : str
        ``level``: in each bin whose logit z reaches the level. ``rising_edge``: where that of the
        bin before did not. ``local_peak``: where z reaches the level, exceeds that of the bin
        before, and is not exceeded by that of the bin after. ``hysteresis``: where z reaches the
        level for the first time since it was below ``low_logit``. ``stochastic``: in each bin with
        the probability sigmoid(z - level), drawn anew.
    logit : float
        The level, in float64: float32 sigmoids of distinct levels can be equal.
    refractory_bins : int
        After a spike in bin t, the bins t + 1 .. t + refractory_bins - 1 stay silent.
    chosen_by : str
        How the rule was found, for readers of the model card.
    low_logit : float, optional
        Of hysteresis, and only of it: at most the level.
    seed : int, optional
        Of the draws of a stochastic rule, and only of it.

    Raises
    ------
    UsageError
        If a field is out of its range, lacks, or does not belong to the kind.
    """

    kind: Kind
    logit: float
    refractory_bins: Annotated[int, Field(ge=1, lt=2**31)]
    chosen_by: str
    low_logit: float | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None

    def __post_init__(self) -> None:
        for field, kind in (("low_logit", "hysteresis"), ("seed", "stochastic")):
            if (getattr(self, field) is not None) != (self.kind == kind):
                raise UsageError(
                    f"spike rule {self.kind} with {field} = {getattr(self, field)}: expected one "
                    f"for {kind} and for no other kind"
                )
        if self.low_logit is not None and self.low_logit > self.logit:
            raise UsageError(
                f"spike rule's low_logit = {self.low_logit}: expected at most its logit "
                f"{self.logit}"
            )

    @property
    def delay_bins(self) -> int:
        """How many bins after the bin that it belongs to a spike can be known: 1 for a peak."""
        return int(self.kind == "local_peak")

    def in_words(self, dt_ms: float) -> str:
        """The rule in one line, for bins of ``dt_ms``."""
        low = "" if self.low_logit is None else f" after one below {self.low_logit:.7g}"
        seed = "" if self.seed is None else f", seed {self.seed}"
        late = f", emitted {self.delay_bins * dt_ms:g} ms later" if self.delay_bins else ""
        return (
            f"{self.kind.replace('_', ' ')} at logit {self.logit:.7g}{low}{seed}, refractory "
            f"{self.refractory_bins * dt_ms:g} ms{late}"
        )

    def shifted(self, by: float) -> SpikeRule:
        """The rule with its levels higher by ``by``."""
        low = None if self.low_logit is None else self.low_logit + by
        return replace(self, logit=self.logit + by, low_logit=low)

    def emit(self, logits: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Spikes [N, T] that logits [N, T] cause, each row from a neuron that is not refractory.

        A spike is in the bin that it belongs to; it is known :attr:`delay_bins` later, and none is
        known of the last bins.
        """
        return self._emit(self._drives(logits))

    def _drives(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """What is compared with levels: the logits in float64, minus noise where spikes are drawn.

        Against float32 logits a level would be rounded to float32 too.
        """
        drives = logits.astype(np.float64)
        if self.seed is not None:
            neurons, steps = logits.shape
            # Step k + 1 is that of a group in a network that ends bin k.
            drives -= logistic(self.seed, np.arange(1, steps + 1), neurons)
        return drives

    def _emit(self, drives: NDArray[np.float64]) -> NDArray[np.bool_]:
        emitted = _CANDIDATES[self.kind](self, drives)
        silent_until = np.zeros(len(drives), dtype=np.int64)
        for t in np.flatnonzero(emitted.any(axis=0)):
            emitted[:, t] &= silent_until <= t
            silent_until[emitted[:, t]] = t + self.refractory_bins
        return emitted


def _before(drives: NDArray[np.float64]) -> NDArray[np.float64]:
    """The value of the bin before each, minus infinity before the first."""
    return np.pad(drives, ((0, 0), (1, 0)), constant_values=-np.inf)[:, :-1]


def _reaches(rule: SpikeRule, drives: NDArray[np.float64]) -> NDArray[np.bool_]:
    return drives >= rule.logit


def _rises(rule: SpikeRule, drives: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (drives >= rule.logit) & (_before(drives) < rule.logit)


def _peaks(rule: SpikeRule, drives: NDArray[np.float64]) -> NDArray[np.bool_]:
    peaks = (drives >= rule.logit) & (drives > _before(drives))
    peaks[:, :-1] &= drives[:, :-1] >= drives[:, 1:]
    peaks[:, -1:] = False
    return peaks


def _returns(rule: SpikeRule, drives: NDArray[np.float64]) -> NDArray[np.bool_]:
    assert rule.low_logit is not None
    high, low = drives >= rule.logit, drives < rule.low_logit
    # The last bin, up to each, that was high or low decides which the neuron is.
    decided = np.maximum.accumulate(np.where(high | low, np.arange(drives.shape[1]), -1), axis=1)
    is_high = np.take_along_axis(high, np.maximum(decided, 0), axis=1) & (decided >= 0)
    was_high = np.pad(is_high, ((0, 0), (1, 0)))[:, :-1]
    return is_high & ~was_high


_CANDIDATES: dict[Kind, Callable[[SpikeRule, NDArray[np.float64]], NDArray[np.bool_]]] = {
    "level": _reaches,
    "rising_edge": _rises,
    "local_peak": _peaks,
    "hysteresis": _returns,
    "stochastic": _reaches,
}


def match_output_rate(
    logits: NDArray[np.floating],
    spikes: NDArray[np.integer],
    dt_ms: float,
    chosen_by: str,
    refractory_bins: int | None = None,
    kind: Kind = "level",
    gap: float | None = None,
) -> SpikeRule:
    """The level at which a rule emits as many spikes as the neuron did, refractoriness included.

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
    kind : str
        One of :data:`KINDS`.
    gap : float, optional
        Of hysteresis: the level minus ``low_logit``.

    Returns
    -------
    SpikeRule
        With the spike count closest to the neuron's; its level is midway between the lowest logit
        that may spike and the next one below. Where several levels give that count, as edges
        do, one of the highest.

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
    at_zero = SpikeRule(
        kind,
        0.0,
        refractory_bins,
        chosen_by,
        low_logit=None if gap is None else -gap,
        seed=0 if kind == "stochastic" else None,
    )
    drives = at_zero._drives(logits)
    levels = np.unique(drives)

    def emitted(index: int) -> int:
        return int(at_zero.shifted(levels[index])._emit(drives).sum())

    lowest = 0
    if kind in ("rising_edge", "hysteresis"):
        # Edges grow rarer again below some level. From the highest levels down, to where they are
        # as many as wanted, or most.
        ranks = np.unique(np.geomspace(max(wanted / 4, 1), len(levels), 60).astype(int))
        counts = {}
        for lowest in len(levels) - ranks:
            counts[lowest] = emitted(lowest)
            if counts[lowest] >= wanted:
                break
        else:
            lowest = max(counts, key=counts.__getitem__)

    # A lower level only adds bins that may spike, and a neuron that spikes as soon as it may has
    # the greatest number of spikes possible: apart from edges the count never rises with the level.
    at = bisect.bisect_left(
        range(len(levels)), -wanted, lo=lowest, key=lambda index: -emitted(index)
    )
    nearest = min(
        (index for index in (at, at - 1) if lowest <= index < len(levels)),
        key=lambda index: abs(emitted(index) - wanted),
    )
    # Midway to the logit below: rounding, which differs between machines, changes no spike.
    return at_zero.shifted(float(levels[max(nearest - 1, 0) : nearest + 1].mean()))
