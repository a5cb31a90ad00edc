"""What the step of a surrogate, at run time or in C++ standalone, asks of its group."""

from __future__ import annotations

from typing import Any, Protocol

from brian2 import NeuronGroup
from brian2.core.variables import Variables

from surrogate.brian_bridge.background import Drive
from surrogate.brian_bridge.models import Population
from surrogate.brian_bridge.recorded import Recording
from surrogate.brian_bridge.thresholds import Threshold

__all__ = ["SteppedGroup"]


class SteppedGroup(Protocol):
    """The part of :class:`surrogate.SurrogateNeuron` that its step works on."""

    name: str
    clock: Any
    variables: Variables
    population: Population
    threshold: Threshold
    device: str
    threads: int
    #: Background on channel groups.
    drives: list[Drive]
    #: Recorded spikes.
    recorded: Recording | None
    #: Names of the logits of the bins before, newest first.
    history: list[str]

    def __len__(self) -> int: ...

    @property
    def inputs(self) -> NeuronGroup: ...

    @property
    def driven(self) -> bool:
        """Whether there are spikes of a background or a recording."""
        ...

    @property
    def step_variables(self) -> list[str]:
        """Names of the variables that the step works on."""
        ...

    def warn_about_rates(self) -> None: ...
