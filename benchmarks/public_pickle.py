"""A pickle of the public form and of any size, to measure conversion with."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

__all__ = ["write_public_pickle"]

_SEGMENTS, _STEPS, _SAMPLES_PER_MS = 639, 6000, 8
_EVENTS_PER_SYNAPSE = {"exInputSpikeTimes": 73, "inhInputSpikeTimes": 57}


class _Python2Pickler(pickle._Pickler):
    """Writes strings and bytes in the instructions of Python 2, which has one type for both."""

    write: Callable[[bytes], Any]
    memoize: Callable[[Any], None]
    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def _save_string(self, value: bytes | str) -> None:
        raw = value if isinstance(value, bytes) else value.encode("latin-1")
        if len(raw) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[bytes] = _save_string
    dispatch[str] = _save_string


def write_public_pickle(path: Path, n_trials: int, seed: int = 0) -> None:
    """Write ``n_trials`` trials with the sizes of the public files and random content to ``path``.

    Parameters
    ----------
    path : Path
        File to write, 3.4 MB per trial.
    n_trials : int
        The public files have 128.
    seed : int
        Seed of the content.
    """
    rng = np.random.default_rng(seed)
    content = {
        "Params": {
            "randomSeed": seed,
            "allSegmentsType": ["basal"] * _SEGMENTS,
            "allSegmentsLength": [20.0] * _SEGMENTS,
            "allSegments_DistFromSoma": [100.0] * _SEGMENTS,
            "allSegments_SectionInd": list(range(_SEGMENTS)),
        },
        "Results": {"listOfSingleSimulationDicts": [_trial(rng) for _ in range(n_trials)]},
    }
    with path.open("wb") as stream:
        _Python2Pickler(stream, protocol=2).dump(content)


def _trial(rng: np.random.Generator) -> dict[str, Any]:
    fine = (-67 + rng.standard_normal(_STEPS * _SAMPLES_PER_MS)).astype(np.float16)
    peaks = np.sort(rng.choice(_STEPS // 4, 8, replace=False)) * 4 * _SAMPLES_PER_MS + 1
    fine[peaks] = 30
    trial: dict[str, Any] = {
        name: {
            np.int64(segment): list(np.sort(rng.integers(1, _STEPS, events)))
            for segment in range(_SEGMENTS)
        }
        for name, events in _EVENTS_PER_SYNAPSE.items()
    }
    return trial | {
        "recordingTimeHighRes": np.arange(fine.size, dtype=np.float32) / _SAMPLES_PER_MS,
        "somaVoltageHighRes": fine,
        "nexusVoltageHighRes": fine.copy(),
        "somaVoltageLowRes": fine[::_SAMPLES_PER_MS].copy(),
        "outputSpikeTimes": (peaks / _SAMPLES_PER_MS).astype(np.float16),
    }
