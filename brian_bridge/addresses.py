"""What a group of surrogates and its subgroups share: channels and levels."""

from __future__ import annotations

from typing import Any

import numpy as np
from brian2.core.variables import Variables, VariableView
from numpy.typing import ArrayLike, NDArray

from surrogate.channels import Channels
from surrogate.errors import UsageError

__all__ = ["Surrogates"]


class Surrogates:
    """A group of surrogates or a subgroup."""

    #: Input channels of each neuron.
    channels: Channels
    #: Neurons, as Brian2's groups keep it.
    _N: int
    name: str
    variables: Variables

    @property
    def level(self) -> VariableView:
        """Level of each neuron's logit for a spike; set it between runs, or in ``run_args``.

        Raises
        ------
        UsageError
            If the threshold has none.
        """
        if "_level" not in self.variables:
            raise UsageError(
                f"{self.name!r}: its threshold has no level; expected one that is no expression, "
                "such as Level()"
            )
        return self.variables["_level"].get_addressable_value_with_unit("_level", self)

    @level.setter
    def level(self, value: ArrayLike) -> None:
        self.level.set_item(slice(None), value)

    def channel(
        self, neuron: ArrayLike, number: ArrayLike, group: str | None = None, **unknown: Any
    ) -> NDArray[np.int64]:
        """Index of a synapse in ``inputs``, for ``Synapses.connect(j=...)``.

        Parameters
        ----------
        neuron : int or array of int
            In this group.
        number : int or array of int
            Of the channel within its group. Of an L5PC model that is the dendritic segment, in the
            order of the model card's ``segments``. Broadcast against ``neuron``.
        group : str, optional
            A channel group of the model card, such as "excitatory"; without it ``number`` counts
            through all channels.

        Returns
        -------
        array of int64
            Indices into ``inputs``, of the broadcast shape.

        Raises
        ------
        UsageError
            If a neuron, channel, group or argument does not exist.
        """
        for name, value in unknown.items():
            raise UsageError(
                f"channel({name}={value!r}): expected the name of a channel group, as in "
                f"channel(0, 17, group={self.channels.names[0]!r})"
            )
        size = self.channels.size
        of = slice(0, size) if group is None else self.channels.slice_of(group)
        neuron = _indices(neuron, self._N, "neuron")
        number = _indices(number, of.stop - of.start, f"{group} channel" if group else "channel")
        return neuron * size + of.start + number


def _indices(values: ArrayLike, size: int, what: str) -> NDArray[np.int64]:
    indices = np.asarray(values)
    # An empty list makes an array of float.
    if indices.size and not np.issubdtype(indices.dtype, np.integer):
        raise UsageError(f"{what} {values!r}: expected whole numbers from 0 to {size - 1}")
    outside = indices[(indices < 0) | (indices >= size)]
    if outside.size:
        raise UsageError(f"{what} {outside.flat[0]} does not exist: expected 0 to {size - 1}")
    return indices.astype(np.int64)
