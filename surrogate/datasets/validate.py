"""Checking every promise a data file makes."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from surrogate.datasets.reader import Dataset
from surrogate.datasets.trial import Trial
from surrogate.datasets.writer import dataset_digest
from surrogate.errors import DataError

__all__ = ["validate"]


def validate(
    path: str | os.PathLike[str], progress: Callable[[int], None] = lambda trials: None
) -> list[str]:
    """Read all of ``path`` and say, one line each, what is wrong; empty if nothing is.

    Checks what opening checks, and for each trial its pointers, channels, voltage, spike times,
    silenced synapses and digest, that no trial comes twice, and the digest of the whole.

    Parameters
    ----------
    path : path
        A data file.
    progress : callable
        Called with 1 after each trial.

    Raises
    ------
    DataError
        If the file cannot be opened at all.
    """
    found: list[str] = []
    with Dataset(path) as data:
        n_segments = len(data.segments["type"])
        if data.n_inputs != 2 * n_segments:
            found.append(f"{data.n_inputs} inputs, expected two for each of {n_segments} segments")
        digests = data.trial_digests
        if dataset_digest(digests) != data.digest:
            found.append("the digest of the file does not match those of its trials")
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
    found = trial.problems(data.n_inputs)
    if trial.digest() != data.trial_digests[index].tobytes():
        found.append("its content does not match its digest")
    if trial.exact_times and not _rounds_to_listed(trial):
        found.append("exact output spike times do not round to the listed ones")
    return found


def _rounds_to_listed(trial: Trial) -> bool:
    rounded = trial.spike_time_ms.astype(np.float16).astype(np.float32)
    return np.array_equal(rounded, trial.spike_time_float16_ms)
