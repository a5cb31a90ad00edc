"""When a surrogate's spike logit becomes a spike: the kinds of spike rules in Brian2's words.

A rule is a condition that Brian2 evaluates for every neuron in the time step in which a bin's
outputs appear. ``_logit`` is the logit of that bin, ``_logit_1`` and ``_logit_2`` those of the two
bins before; ``_level`` and ``_low_level`` are the rule's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from surrogate.errors import UsageError
from surrogate.model.philox import whole_seed
from surrogate.model.spike_rule import SpikeRule

__all__ = [
    "Expression",
    "Hysteresis",
    "Level",
    "LocalPeak",
    "RisingEdge",
    "Stochastic",
    "Threshold",
    "threshold_of",
]


class Threshold(ABC):
    """A rule that says in which bins a neuron spikes."""

    #: Number of earlier bins whose logits the condition reads.
    history: ClassVar[int] = 0
    #: How many bins after the bin that it belongs to a spike is known and emitted.
    delay_bins: ClassVar[int] = 0

    @property
    @abstractmethod
    def condition(self) -> str:
        """The expression that Brian2 evaluates."""


@dataclass(frozen=True)
class Level(Threshold):
    """A spike in every bin whose logit reaches a level.

    Attributes
    ----------
    logit : float, optional
        The level, as the log odds of a spike, log(p / (1 - p)). By default the card's.
    """

    logit: float | None = None

    @property
    def condition(self) -> str:
        return "_logit >= _level"

    def __post_init__(self) -> None:
        _check_level(self.logit)


@dataclass(frozen=True)
class RisingEdge(Level):
    """A spike in a bin whose logit reaches the level while that of the bin before did not."""

    history: ClassVar[int] = 1

    @property
    def condition(self) -> str:
        return "_logit >= _level and _logit_1 < _level"


@dataclass(frozen=True)
class LocalPeak(Level):
    """A spike where the logit has a local maximum that reaches the level.

    A maximum is known only one bin later, so the spike is a bin later than with the other rules.
    """

    history: ClassVar[int] = 2
    delay_bins: ClassVar[int] = 1

    @property
    def condition(self) -> str:
        return "_logit_1 >= _level and _logit_1 > _logit_2 and _logit_1 >= _logit"


@dataclass(frozen=True)
class Hysteresis(Level):
    """A spike where the logit reaches the level for the first time since it was below another.

    Attributes
    ----------
    low_logit : float, optional
        The lower level. Both are given, or both are the card's.
    """

    low_logit: float | None = None

    @property
    def condition(self) -> str:
        return "_rose"

    def __post_init__(self) -> None:
        _check_level(self.logit)
        _check_level(self.low_logit)
        if self.logit is None and self.low_logit is None:
            return
        if self.logit is None or self.low_logit is None or self.low_logit > self.logit:
            raise UsageError(
                f"{self}: expected two levels, low_logit at most logit, or none for the card's"
            )


@dataclass(frozen=True)
class Stochastic(Threshold):
    """A spike with the probability that the network gives, drawn anew in each bin.

    The random numbers depend on seed, neuron and bin alone (:mod:`surrogate.model.philox`): they
    are the same in every mode of Brian2, in several runs and after ``restore``, and do not use
    Brian2's own generator.

    Attributes
    ----------
    seed : int
        From 0 to 2**64 - 1. Groups with the same seed draw the same numbers.
    logit : float, optional
        The probability is sigmoid(z - logit), z being the network's logit; None for the card's.
    """

    seed: int = 0
    logit: float | None = 0.0

    @property
    def condition(self) -> str:
        return "_logit - _noise >= _level"

    def __post_init__(self) -> None:
        _check_level(self.logit)
        object.__setattr__(self, "seed", whole_seed(self.seed))


@dataclass(frozen=True)
class Expression(Threshold):
    """A boolean expression of Brian2 over ``p``, ``v`` and other variables of the group."""

    code: str

    @property
    def condition(self) -> str:
        return self.code


def _check_level(logit: float | None) -> None:
    if logit is not None and not math.isfinite(logit):
        raise UsageError(f"threshold's logit {logit}: expected a finite number")


def threshold_of(rule: SpikeRule) -> Threshold:
    """The threshold that is a card's rule, its levels taken from the card."""
    if rule.kind == "stochastic":
        return Stochastic(rule.seed or 0, None)
    return {
        "level": Level,
        "rising_edge": RisingEdge,
        "local_peak": LocalPeak,
        "hysteresis": Hysteresis,
    }[rule.kind]()
