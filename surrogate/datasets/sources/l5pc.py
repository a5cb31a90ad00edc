"""The header of the public L5PC trials, for all their file formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from surrogate.channels import ChannelGroup, Channels
from surrogate.datasets.header import Header
from surrogate.errors import DataError, UsageError

__all__ = ["l5pc_header"]


def l5pc_header(
    path: Path, n_steps: int, segments: Mapping[str, np.ndarray], **recorded: Any
) -> Header:
    """Bins of 1 ms; segment i excites through channel i of one group and inhibits through channel i
    of the other.

    Raises
    ------
    DataError
        If the segments or what is recorded are not such as a data file can hold.
    """
    places = range(len(segments["type"]))
    section = np.asarray(segments["section"], np.float64)
    # The range comes first: a cast of what lies outside is undefined.
    if not ((section >= 0) & (section < 1e6)).all() or (section != section.astype(int)).any():
        raise DataError(
            f"{path}: the segments' sections are not whole numbers from 0 on; get the file again"
        )
    segments = {**segments, "section": section.astype(np.int64)}
    try:
        groups = [
            ChannelGroup(kind, len(places), segments=places)
            for kind in ("excitatory", "inhibitory")
        ]
        return Header(n_steps, Channels(groups), 1.0, segments, rounded_times=True, **recorded)
    except UsageError as error:
        raise DataError(f"{path}: {error}; get the file again") from error
