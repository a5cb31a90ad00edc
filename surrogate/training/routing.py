"""Which channels feed which branch of the input stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surrogate.channels import Channels
from surrogate.errors import UsageError

__all__ = ["route"]

#: Columns of the segment table by which segments lie side by side, those that there are.
_PLACE = ("type", "section", "distance_um")


def route(
    routing: str,
    channels: Channels,
    segments: Mapping[str, NDArray[Any]],
    branches: int,
    synapses: int,
) -> list[list[int]]:
    """The channels of each branch.

    Parameters
    ----------
    routing : "overlapping" | "place"
        ``overlapping``: the channel groups are interleaved, and branch b takes ``synapses``
        neighbours from the b-th of ``branches`` equally spaced starts on, so that a channel feeds
        several branches. With 45 branches of 100 synapses on two groups of 639 channels this is the
        "neuronio" routing of Spieler et al. (2024). ``place``: each branch is a stretch of
        neighbouring segments, in the order of type, section and distance from the soma; a channel
        feeds one branch.
    channels : Channels
    segments : mapping of str to ndarray
        Columns of the segment table.
    branches, synapses : int

    Raises
    ------
    UsageError
        If there are more branches than channels or segments, or a channel has no place.
    """
    if routing == "overlapping":
        keys = [
            ((rank + 0.5) / group.size, index)
            for index, group in enumerate(channels.groups)
            for rank in range(group.size)
        ]
        order = sorted(range(channels.size), key=keys.__getitem__)
        _check(branches, channels.size, "channels")
        stride = -(-channels.size // branches)
        return [order[at * stride : at * stride + synapses] for at in range(branches)]
    placed: dict[int, list[int]] = {}
    for group, of in zip(channels.groups, channels.slices.values(), strict=True):
        if group.segments is None:
            raise UsageError(
                f"channel group {group.name!r} has no place on the dendrite, which recipe "
                "branch_routing = 'place' needs; set it to 'overlapping'"
            )
        for segment, channel in zip(group.segments, range(channels.size)[of], strict=True):
            placed.setdefault(segment, []).append(channel)
    columns = [segments[name] for name in _PLACE if name in segments]
    order = sorted(placed, key=lambda row: (*(column[row] for column in columns), row))
    _check(branches, len(order), "segments with channels")
    parts = np.array_split(np.array(order), branches)
    return [[channel for row in part.tolist() for channel in placed[row]] for part in parts]


def _check(branches: int, most: int, what: str) -> None:
    if branches > most:
        raise UsageError(f"recipe branches = {branches}: expected at most the {most} {what}")
