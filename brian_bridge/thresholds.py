"""When a surrogate's spike logit becomes a spike.

A rule is a condition that Brian2 evaluates for every neuron in the time step in which a bin's
outputs appear. ``_logit`` is the logit of that bin, ``_logit_1`` and ``_logit_2`` those of the two
bins before.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from surrogate.brian_bridge.philox import whole_seed
from surrogate.errors import UsageError

__all__ = ["Expression", "Level", "LocalPeak", "RisingEdge", "Stochastic", "Threshold"]


class Threshold(ABC):
    """A rule that says in which bins a neuron spikes."""

    #: Number of earlier bins whose logits the condition reads.
    history: ClassVar[int] = 0

    @property
    @abstractmethod
    def condition(self) -> str:
        """The expression that Brian2 evaluates."""


@dataclass(frozen=True)
class Level(Threshold):
    """A spike in every bin whose logit reaches a level: the rule of the model card.

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
        if self.logit is not None and not math.isfinite(self.logit):
            raise UsageError(f"threshold's logit {self.logit}: expected a finite number")


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

    @property
    def condition(self) -> str:
        return "_logit_1 >= _level and _logit_1 > _logit_2 and _logit_1 >= _logit"


@dataclass(frozen=True)
class Stochastic(Threshold):
    """A spike with the probability that the network gives, drawn anew in each bin.

    The random numbers depend on seed, neuron and bin alone (:mod:`surrogate.brian_bridge.philox`):
    they are the same in every mode of Brian2, in several runs and after ``restore``, and do not use
    Brian2's own generator.

    Attributes
    ----------
    seed : int
        From 0 to 2**64 - 1. Groups with the same seed draw the same numbers.
    """

    seed: int = 0

    @property
    def condition(self) -> str:
        return "_uniform < p"

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole_seed(self.seed))


@dataclass(frozen=True)
class Expression(Threshold):
    """A boolean expression of Brian2 over ``p``, ``v`` and other variables of the group."""

    code: str

    @property
    def condition(self) -> str:
        return self.code
