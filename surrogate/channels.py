"""The input channels of a neuron: named groups of synapses of one kind."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surrogate.errors import UsageError

__all__ = ["MAX_CHANNELS", "ChannelGroup", "Channels"]

MAX_CHANNELS = 32_767  # channel numbers are int16 in a batch of events
_MAX_NAME = 32

#: Sign of a kind of synapse, unless it is given.
_SIGNS = {"excitatory": 1, "inhibitory": -1}


@dataclass(frozen=True)
class ChannelGroup:
    """Synapses of one kind: consecutive input channels.

    Attributes
    ----------
    name : str
        By which the group is addressed; unique among the groups of a neuron.
    size : int
        Number of channels.
    kind : str
        What the synapses are: "excitatory", "inhibitory", or any other word.
    sign : int
        1 if a spike raises the soma voltage, -1 if it lowers it, 0 if that is not known. By default
        that of the kind.
    segments : sequence of int, optional
        The row of the segment table on which each channel lies. Neighbouring channels are taken to
        lie side by side, so list them along the dendrite.

    Raises
    ------
    UsageError
        If a field is out of its range.
    """

    name: str
    size: int
    kind: str = ""
    sign: int = None  # type: ignore[assignment]  # __post_init__ fills it in
    segments: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not self.kind:
            object.__setattr__(self, "kind", self.name)
        if self.sign is None:
            object.__setattr__(self, "sign", _SIGNS.get(self.kind, 0))
        for field in ("name", "kind"):
            text = getattr(self, field)
            if not (isinstance(text, str) and text.isascii() and text.isprintable()):
                raise UsageError(f"channel group {field} {text!r}: expected printable ASCII text")
            if not 1 <= len(text) <= _MAX_NAME:
                raise UsageError(
                    f"channel group {field} {text!r}: expected 1 to {_MAX_NAME} characters"
                )
        if type(self.size) is not int or not 1 <= self.size <= MAX_CHANNELS:
            raise UsageError(
                f"channel group {self.name!r} has size {self.size!r}: expected a whole number "
                f"from 1 to {MAX_CHANNELS}"
            )
        if self.sign not in (-1, 0, 1):
            raise UsageError(
                f"channel group {self.name!r} has sign {self.sign!r}: expected 1, -1 or 0"
            )
        if self.segments is not None:
            segments = tuple(int(segment) for segment in self.segments)
            object.__setattr__(self, "segments", segments)
            if len(segments) != self.size or min(segments) < 0:
                raise UsageError(
                    f"channel group {self.name!r} has {self.size} channels, its segments are "
                    f"{len(segments)} numbers from {min(segments, default=0)} on: expected one row "
                    "of the segment table for each channel"
                )


@dataclass(frozen=True)
class Channels:
    """All input channels of a neuron: its groups, one after the other.

    Attributes
    ----------
    groups : sequence of ChannelGroup
        The first holds channels 0 to ``groups[0].size - 1``, and so on.

    Raises
    ------
    UsageError
        If there is no group, a name comes twice, or there are too many channels.

    Examples
    --------
    >>> channels = Channels.of(excitatory=16, inhibitory=4)
    >>> channels.slices["inhibitory"]
    slice(16, 20, None)
    """

    groups: Sequence[ChannelGroup]

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))
        names = [group.name for group in self.groups]
        if not names:
            raise UsageError("no channel group: expected at least one")
        if len(set(names)) < len(names):
            raise UsageError(f"channel groups {', '.join(names)}: a name comes twice")
        if self.size > MAX_CHANNELS:
            raise UsageError(f"{self.size} input channels: expected at most {MAX_CHANNELS}")

    @classmethod
    def of(cls, **sizes: int) -> Channels:
        """Groups that are named after their kind: ``Channels.of(excitatory=16, inhibitory=4)``."""
        return cls([ChannelGroup(name, size) for name, size in sizes.items()])

    @property
    def size(self) -> int:
        """Number of channels."""
        return sum(group.size for group in self.groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups in order."""
        return tuple(group.name for group in self.groups)

    @property
    def bounds(self) -> NDArray[np.int64]:
        """First channel of each group, and the number of channels, int64 [groups + 1]."""
        return np.cumsum([0, *(group.size for group in self.groups)], dtype=np.int64)

    @property
    def slices(self) -> dict[str, slice]:
        """Channels of each group, by its name."""
        pairs = itertools.pairwise(self.bounds.tolist())
        return {name: slice(*pair) for name, pair in zip(self.names, pairs, strict=True)}

    @property
    def last_segment(self) -> int:
        """Highest row of the segment table on which a channel lies; -1 if none has a place."""
        return max((max(group.segments) for group in self.groups if group.segments), default=-1)

    def slice_of(self, name: str) -> slice:
        """The channels of group ``name``.

        Raises
        ------
        UsageError
            If there is no such group.
        """
        found = self.slices
        if name not in found:
            raise UsageError(f"no channel group {name!r}: expected {' or '.join(self.names)}")
        return found[name]

    def per_channel(self, values: Mapping[str, float]) -> NDArray[np.float64]:
        """A value for each channel, float64 [channels], from one for each group by name.

        Raises
        ------
        UsageError
            If a group has no value, or there is no such group.
        """
        for name in values:
            self.slice_of(name)
        filled = np.empty(self.size)
        for name, of in self.slices.items():
            if name not in values:
                raise UsageError(f"no value for channel group {name!r}: expected one for each")
            filled[of] = values[name]
        return filled

    def count(self, channel: NDArray[np.integer]) -> NDArray[np.int64]:
        """How many of ``channel`` belong to each group, int64 [groups]."""
        inner = self.bounds[1:-1].tolist()
        below = [int(np.count_nonzero(channel < bound)) for bound in inner]
        return np.diff([0, *below, channel.size])

    def __str__(self) -> str:
        return ", ".join(f"{group.size} {group.name}" for group in self.groups)
