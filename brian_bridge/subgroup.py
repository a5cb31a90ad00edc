"""Some consecutive neurons of a group of surrogates."""

from __future__ import annotations

from typing import Any

import numpy as np
from brian2.groups.neurongroup import to_start_stop
from brian2.groups.subgroup import Subgroup
from numpy.typing import ArrayLike, NDArray

from surrogate.brian_bridge.addresses import Surrogates
from surrogate.errors import UsageError

__all__ = ["SurrogateSubgroup", "checked_state"]


class SurrogateSubgroup(Surrogates, Subgroup):
    """Some consecutive neurons of a SurrogateNeuron, with their ``inputs``."""

    def __init__(self, source: Any, start: int, stop: int, name: str | None = None) -> None:
        self.channels = source.channels
        size = self.channels.size
        self._inputs = source.inputs[start * size : stop * size]
        super().__init__(source, start, stop, name)

    @property
    def hidden_state(self) -> NDArray[np.floating]:
        """Hidden state of these neurons, a copy, as in :class:`surrogate.SurrogateNeuron`."""
        return self.source.hidden_state[self.start : self.stop]

    @hidden_state.setter
    def hidden_state(self, value: ArrayLike) -> None:
        state = self.source.hidden_state
        own = state[self.start : self.stop]
        own[:] = checked_state(self.name, value, own.shape)
        self.source.hidden_state = state

    @property
    def inputs(self) -> Subgroup:
        """The input channels of these neurons."""
        return self._inputs

    def __getitem__(self, item: slice) -> SurrogateSubgroup:
        start, stop = to_start_stop(item, self._N)
        return self.source[self.start + start : self.start + stop]


def checked_state(name: str, value: ArrayLike, shape: tuple[int, int]) -> NDArray[Any]:
    """Hidden states of this shape, given as one for all neurons or one for each."""
    given = np.asarray(value)
    if given.shape not in (shape, shape[1:]):
        raise UsageError(
            f"{name!r}: hidden state of shape {given.shape}, expected {shape} or {shape[1:]}"
        )
    return np.broadcast_to(given, shape)
