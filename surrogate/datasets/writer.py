"""Writing data files, trial by trial."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from surrogate.datasets.content import dataset_digest, provenance_digest
from surrogate.datasets.gaps import gaps_of
from surrogate.datasets.header import Header
from surrogate.datasets.layout import (
    ARRAYS,
    CHUNK_EVENTS,
    CHUNK_STEPS,
    FORMAT,
    MAX_PROVENANCE,
    SPLITS,
    STREAMED,
    VERSION,
    array_for,
    expected_shape,
)
from surrogate.datasets.sink import Sink
from surrogate.datasets.trial import Trial
from surrogate.errors import DataError, UsageError
from surrogate.files import atomic_path

__all__ = ["DatasetWriter", "write"]

#: Tables of up to this many bytes are stored as they are.
_SMALL_TABLE = 2048


def write(
    path: str | os.PathLike[str],
    header: Header,
    trials: Iterable[Trial],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a data file of any neuron, all or nothing.

    Parameters
    ----------
    path : path
        The file; one that is there is replaced when the new one is complete.
    header : Header
    trials : iterable of Trial
        See :meth:`Trial.from_spikes`; one at a time is held in memory.
    provenance : mapping, optional
        Where the trials come from, for the reader; anything that JSON can hold.

    Raises
    ------
    DataError
        If a trial breaks a promise of the format or the file cannot be written.
    UsageError
        If there is no trial, or some have a split and some have none.
    """
    with atomic_path(path) as aside, DatasetWriter(aside, header) as writer:
        for trial in trials:
            writer.append(trial)
        writer.finish(provenance or {})


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
        self.header = header
        self._packed = {"shuffle": True, "compression": "gzip", "compression_opts": compression}
        self._splits: list[str | None] = []
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ARRAYS if name.startswith(("input/", "output/", "trial/"))
        }
        for name in (*STREAMED, "trial/split"):
            del self._columns[name]
        # The newer layout indexes chunks in fewer bytes and lets an attribute pass 64 kB.
        self._sink = Sink(path)
        self._file = h5py.File(self._sink, "w", libver=("v110", "v110"))
        self._file.attrs.update(
            format=np.bytes_(FORMAT), version=VERSION, n_steps=header.n_steps, dt_ms=header.dt_ms
        )
        names = [*STREAMED[:2], *(f"voltage/{name}" for name in header.voltages)]
        names += ["input/amplitude"] * header.amplitudes + ["input/weight"] * header.weights
        sizes = {"trials": 0, "events": 0, "steps": header.n_steps, "inputs": header.n_inputs}
        for name in names:
            shape = expected_shape(array_for(name), sizes)
            width = min(shape[-1], CHUNK_STEPS)
            self._file.create_dataset(
                name,
                shape=shape,
                maxshape=(None, *shape[1:]),
                chunks=(1, width) if width else (CHUNK_EVENTS,),
                dtype=array_for(name).dtype,
                **self._packed,
            )

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

    def append(self, trial: Trial, name: str | None = None) -> bytes:
        """Add one trial, whose events and voltages go to disk at once; its digest.

        Parameters
        ----------
        trial : Trial
        name : str, optional
            What errors call it; by default ``trial`` and its number.

        Raises
        ------
        DataError
            If the trial breaks a promise of the format or does not fit the header.
        """
        if problems := trial.problems(self.header):
            name = name or f"trial {len(self._splits)}"
            raise DataError(f"{name}: {problems[0]}; get or make the data again")
        digest = trial.digest()
        self._extend("input/gap", gaps_of(trial.channel, trial.row_ptr))
        self._extend("input/count", np.diff(trial.row_ptr)[None])
        for voltage in self.header.voltages:
            self._extend(f"voltage/{voltage}", trial.voltage_mV[voltage][None])
        if trial.amplitude is not None:
            self._extend("input/amplitude", trial.amplitude)
        if trial.weight is not None:
            self._extend("input/weight", trial.weight[None])
        add = self._columns
        add["input/trial_ptr"].append(trial.channel.size)
        add["input/silenced"].append(trial.silenced)
        add["input/silenced_ptr"].append(trial.silenced.size)
        add["output/spike_time_ms"].append(trial.spike_time_ms)
        if trial.rounded_spike_time_ms is not None:
            add["output/rounded_spike_time_ms"].append(trial.rounded_spike_time_ms)
        add["output/trial_ptr"].append(trial.spike_time_ms.size)
        add["trial/source"].append(trial.source)
        add["trial/digest"].append(np.frombuffer(digest, np.uint8))
        add["trial/exact_times"].append(trial.exact_times)
        self._splits.append(trial.split)
        self._sink.check()
        return digest

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """Write the tables, the digest and ``provenance``; without it the file does not open.

        Raises
        ------
        UsageError
            If there is no trial, some have a split and some have none, or the provenance is longer
            than 16 MB.
        """
        if not self._splits:
            raise UsageError("no trial to write: expected at least one")
        origin = json.dumps(provenance, sort_keys=True)
        if len(origin) > MAX_PROVENANCE:
            raise UsageError(
                f"the provenance takes {len(origin):,} bytes: expected at most {MAX_PROVENANCE:,}"
            )
        tables = self._tables()
        for name, table in tables.items():
            # Chunks of their own would make a small table larger.
            options = self._packed if table.nbytes > _SMALL_TABLE else {}
            self._file.create_dataset(name, data=table, **options)
        self._file.attrs["n_trials"] = len(self._splits)
        digest = dataset_digest(self.header.n_steps, self.header.dt_ms, tables)
        self._file.attrs["digest"] = np.bytes_(digest)
        self._file.attrs["provenance"] = np.bytes_(origin)
        self._file.attrs["provenance_digest"] = np.bytes_(provenance_digest(origin))

    def _tables(self) -> dict[str, np.ndarray]:
        """Every array that is not streamed, in its type."""
        columns = dict(self._columns)
        if any(self._splits):
            if not set(self._splits) <= set(SPLITS):
                raise UsageError("either every trial has a split, train, valid or test, or none")
            columns["trial/split"] = [str(split).encode() for split in self._splits]
        if not any(columns["input/silenced_ptr"]):
            del columns["input/silenced"], columns["input/silenced_ptr"]
        if not self.header.rounded_times:
            del columns["output/rounded_spike_time_ms"]
        if all(columns["trial/exact_times"]):
            del columns["trial/exact_times"]
        tables = self.header.tables()
        for name, values in columns.items():
            if name.endswith("_ptr"):
                column = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
            elif name.startswith("trial/"):
                column = np.array(values)
            else:
                column = np.concatenate(values)
            tables[name] = column.astype(ARRAYS[name].dtype)
        return tables

    def _extend(self, name: str, rows: np.ndarray) -> None:
        dataset = self._file[name]
        start = dataset.shape[0]
        dataset.resize(start + rows.shape[0], axis=0)
        dataset[start:] = rows
