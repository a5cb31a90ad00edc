"""Writing a data file trial by trial, in little memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from surrogate.datasets.layout import ARRAYS, CHUNK_EVENTS, FORMAT, SPLITS, VERSION
from surrogate.datasets.sink import Sink
from surrogate.datasets.trial import Header, Trial

__all__ = ["DatasetWriter", "dataset_digest", "gaps_of"]

_STREAMED = ("input/gap", "input/count", "soma_voltage_mV")


def gaps_of(channel: np.ndarray, row_ptr: np.ndarray) -> np.ndarray:
    """Channels as differences to the channel before within each millisecond, uint16.

    The first of a millisecond is the channel itself. Gaps are small where channels are spread
    evenly, so that deflate packs an event in 1.00 bytes instead of 1.18.
    """
    gap = np.diff(channel.astype(np.int32), prepend=0)
    first = row_ptr[:-1][np.diff(row_ptr) > 0]
    gap[first] = channel[first]
    return gap.astype(np.uint16)


def dataset_digest(trial_digests: np.ndarray) -> str:
    """SHA-256, in hexadecimal, over the trials' digests (uint8 [trials, 32]) in their order."""
    return hashlib.sha256(trial_digests.tobytes()).hexdigest()


class DatasetWriter:
    """Writes trials to ``path``, which must not be its final name (see ``files.atomic_path``).

    Parameters
    ----------
    path : Path
        File to create.
    header : Header
        What all trials share.
    compression : int
        Deflate level, 1 to 9.
    """

    def __init__(self, path: Path, header: Header, *, compression: int = 4) -> None:
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ARRAYS if name not in _STREAMED and not name.startswith("segment/")
        }
        # The newer layout indexes chunks in fewer bytes and lets an attribute pass 64 kB.
        self._sink = Sink(path)
        self._file = h5py.File(self._sink, "w", libver=("v110", "v110"))
        self._file.attrs.update(
            format=np.bytes_(FORMAT),
            version=VERSION,
            n_steps=header.n_steps,
            n_inputs=header.n_inputs,
            n_excitatory=header.n_excitatory,
            dt_ms=1.0,
        )
        for name, chunks in (
            ("input/gap", (CHUNK_EVENTS,)),
            ("input/count", (1, header.n_steps)),
            ("soma_voltage_mV", (1, header.n_steps)),
        ):
            self._file.create_dataset(
                name,
                shape=(0, *chunks[1:]),
                maxshape=(None, *chunks[1:]),
                chunks=chunks,
                dtype=ARRAYS[name].dtype,
                shuffle=True,
                compression="gzip",
                compression_opts=compression,
            )
        for name, column in header.segments.items():
            key = f"segment/{name}"
            self._file[key] = np.asarray(column).astype(ARRAYS[key].dtype)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        finally:
            self._sink.close()
        if error is None:
            self._sink.check()

    def append(self, trial: Trial) -> bytes:
        """Add one trial, whose events and voltage go to disk at once; its digest."""
        digest = trial.digest()
        self._extend("input/gap", gaps_of(trial.channel, trial.row_ptr))
        self._extend("input/count", np.diff(trial.row_ptr)[None])
        self._extend("soma_voltage_mV", trial.soma_voltage_mV[None])
        add = self._columns
        add["input/trial_ptr"].append(trial.channel.size)
        add["input/silenced"].append(trial.silenced)
        add["input/silenced_ptr"].append(trial.silenced.size)
        add["output/spike_time_ms"].append(trial.spike_time_ms)
        add["output/spike_time_ms_float16_rounded"].append(trial.spike_time_float16_ms)
        add["output/trial_ptr"].append(trial.spike_time_ms.size)
        add["trial/source"].append(trial.source)
        add["trial/digest"].append(np.frombuffer(digest, np.uint8))
        add["trial/exact_times"].append(trial.exact_times)
        add["trial/split"].append((trial.split or "").encode())
        self._sink.check()
        return digest

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """Write the tables, the digest and ``provenance``; without it the file does not open."""
        splits = self._columns.pop("trial/split")
        if any(splits):
            if not set(splits) <= {split.encode() for split in SPLITS}:
                raise ValueError("either every trial has a split or none has")
            self._file["trial/split"] = np.array(splits, ARRAYS["trial/split"].dtype)
        n_trials = len(splits)
        for name, values in self._columns.items():
            dtype = ARRAYS[name].dtype
            if name.endswith("_ptr"):
                column = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
            elif name.startswith("trial/"):
                column = np.array(values)
            else:
                column = np.concatenate([np.zeros(0, dtype), *values])
            self._file[name] = column.astype(dtype)
        self._file.attrs["n_trials"] = n_trials
        digest = dataset_digest(self._file["trial/digest"][:])
        self._file.attrs["digest"] = np.bytes_(digest)
        self._file.attrs["provenance"] = np.bytes_(json.dumps(provenance, sort_keys=True))

    def _extend(self, name: str, rows: np.ndarray) -> None:
        dataset = self._file[name]
        start = dataset.shape[0]
        dataset.resize(start + rows.shape[0], axis=0)
        dataset[start:] = rows
