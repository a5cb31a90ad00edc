"""Checks a whole data file against the format."""

from __future__ import annotations

import os
from collections.abc import Callable

from surrogate.datasets.reader import Dataset
from surrogate.errors import DataError

__all__ = ["validate"]


def validate(
    path: str | os.PathLike[str], progress: Callable[[int], None] = lambda trials: None
) -> list[str]:
    """Read all of ``path`` and say, one line each, what is wrong; empty if nothing is.

    Checks what opening checks, the digest of all tables among it, and for each trial its pointers,
    channels, voltages, spike times, silenced synapses and digest, and that no trial comes twice.

    Parameters
    ----------
    path : path
        A data file.
    progress : callable
        Called with 1 after each trial.

    Raises
    ------
    DataError
        If the file cannot be opened at all, or its tables do not match its digest.
    """
    found: list[str] = []
    with Dataset(path) as data:
        digests = data.trial_digests
        seen: dict[bytes, int] = {}
        for index in range(len(data)):
            digest = digests[index].tobytes()
            first = seen.setdefault(digest, index)
            if first != index:
                found.append(f"trial {index}: the same as trial {first}")
            found += [f"trial {index}: {problem}" for problem in _trial_problems(data, index)]
            progress(1)
    return found


def _trial_problems(data: Dataset, index: int) -> list[str]:
    try:
        trial = data[index]
    except DataError as error:
        return [str(error).removeprefix(f"{data.path}: ").removeprefix(f"trial {index} ")]
    found = trial.problems(data.header)
    if trial.digest() != data.trial_digests[index].tobytes():
        found.append("its content does not match its digest")
    return found
