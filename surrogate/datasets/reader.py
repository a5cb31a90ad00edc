"""Reads a data file lazily: windows for training, whole trials for everything else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from surrogate.datasets.layout import (
    ARRAYS,
    FORMAT,
    MAX_INPUTS,
    MAX_STEPS,
    MAX_TRIALS,
    SEGMENT_COLUMNS,
    SPLITS,
    VERSION,
)
from surrogate.datasets.storage import array_of, attribute, integer_attribute, open_hdf5, reading
from surrogate.datasets.trial import Header, Trial, spike_bins
from surrogate.errors import DataError, UsageError

if TYPE_CHECKING:
    from surrogate.kernels import SpikeEvents

__all__ = ["Dataset", "open", "sample_path"]

#: Decompressed chunks kept in memory per array. The bundled sample fits whole.
CACHE_BYTES = 32 * 1024 * 1024

_LABELS = ("exact", "legacy")


def sample_path() -> Path:
    """The path of the bundled sample."""
    return Path(__file__).resolve().parent / "sample" / "l5pc-sample.h5"


def open(path: str | os.PathLike[str] | None = None) -> Dataset:
    """Open a data file read-only; without ``path`` the bundled sample.

    Format, version, shapes and pointers are checked here; events and voltages when they are read.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another format or a newer version.
    """
    return Dataset(sample_path() if path is None else path)


class Dataset:
    """Trials of one neuron in one file. A context manager; data are read when they are needed.

    Attributes
    ----------
    path : Path
        The file.
    n_trials, n_steps, n_inputs, n_excitatory : int
        Trials, milliseconds per trial, input channels, and how many of them (the first) excite.
    dt_ms : float
        Width of a bin: 1 ms.
    digest : str
        SHA-256 over the trials' contents in order, whatever the file's name or compression.
    provenance : dict
        Where the trials come from.
    segments : dict of ndarray
        Columns type (str), length_um, distance_um (from the soma) and section, one row per
        dendritic segment: segment i excites through channel i and inhibits through
        ``n_excitatory + i``.
    trial_digests : ndarray, uint8 [n_trials, 32]
        SHA-256 of each trial's content as the file states it; ``validate`` checks it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = open_hdf5(self.path, cache_bytes=CACHE_BYTES)
        try:
            with reading(self.path):
                self._check_format()
                self._read_tables()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Dataset:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading from it afterwards is an error."""
        self._file.close()

    def __repr__(self) -> str:
        return f"<Dataset {self.path}: {self.n_trials} trials of {self.n_steps} ms>"

    def __len__(self) -> int:
        return self.n_trials

    def __iter__(self) -> Iterator[Trial]:
        return (self[trial] for trial in range(self.n_trials))

    def __getitem__(self, trial: int) -> Trial:
        """One whole trial.

        Raises
        ------
        IndexError
            If there is no such trial.
        DataError
            If its bytes are damaged.
        """
        if not 0 <= trial < self.n_trials:
            raise IndexError(f"{self.path}: no trial {trial}, expected 0..{self.n_trials - 1}")
        row_ptr = self._row_ptr(trial)
        first = int(self._trial_ptr[trial])
        with reading(self.path):
            gap = self._gap[first : first + int(row_ptr[-1])]
            voltage = self._voltage[trial].astype(np.float32)
        spikes = slice(*self._spike_ptr[trial : trial + 2])
        return Trial(
            channel=self._channels(gap, np.diff(row_ptr)).astype(np.uint16),
            row_ptr=row_ptr,
            spike_time_ms=self._spike_time["exact"][spikes],
            spike_time_float16_ms=self._spike_time["legacy"][spikes],
            soma_voltage_mV=voltage,
            silenced=self._silenced[slice(*self._silenced_ptr[trial : trial + 2])],
            exact_times=bool(self._exact_times[trial]),
            source=(int(self._source[trial, 0]), int(self._source[trial, 1])),
            split=None if self._split is None else self._split[trial].decode(),
        )

    @property
    def header(self) -> Header:
        """What all trials share."""
        return Header(self.n_steps, self.n_inputs, self.n_excitatory, self.segments)

    @property
    def description(self) -> dict[str, Any]:
        """The description of this file in the provenance of a conversion that merges it."""
        return {"kind": FORMAT, "provenance": self.provenance}

    @property
    def is_sample(self) -> bool:
        """Whether this is the bundled sample."""
        return self.path.resolve() == sample_path()

    @property
    def split_sizes(self) -> dict[str, int] | None:
        """Trials per split; None if the file stores no split."""
        if self._split is None:
            return None
        return {split: int((self._split == split.encode()).sum()) for split in SPLITS}

    @property
    def n_events(self) -> int:
        """Input events over all trials."""
        return int(self._trial_ptr[-1])

    @property
    def output_spike_counts(self) -> np.ndarray:
        """Output spikes of each trial, int64 [n_trials]."""
        return np.diff(self._spike_ptr)

    @property
    def silenced_counts(self) -> np.ndarray:
        """Synapses of each trial that an event at t = 0 silences, int64 [n_trials]."""
        return np.diff(self._silenced_ptr)

    @property
    def exact_times(self) -> np.ndarray:
        """For each trial, whether its output spike times are exact; bool [n_trials]."""
        return self._exact_times != 0

    def stored_splits(self) -> list[str | None]:
        """The split of each trial in order; None throughout if the file stores none."""
        if self._split is None:
            return [None] * self.n_trials
        return [split.decode() for split in self._split]

    def trial_indices(self, split: str) -> np.ndarray:
        """The trials of ``split`` ("train", "valid", "test" or "all"), ascending, int64.

        Raises
        ------
        UsageError
            If there is no such split, the file stores none, or it has no trial.
        """
        if split == "all":
            return np.arange(self.n_trials)
        if split not in SPLITS:
            raise UsageError(f"unknown split {split!r}; expected train, valid, test or all")
        if self._split is None:
            raise UsageError(
                f"{self.path}: stores no split, so {split!r} cannot be chosen; use 'all', or "
                "convert again with --split-fractions"
            )
        trials = np.flatnonzero(self._split == split.encode())
        if not trials.size:
            raise UsageError(f"{self.path}: no trial is in split {split!r}; {self.split_sizes}")
        return trials

    def events(self, trials: ArrayLike, starts: ArrayLike, steps: int) -> SpikeEvents:
        """Input spikes of windows: element b holds bins ``starts[b]..starts[b] + steps - 1``.

        Parameters
        ----------
        trials, starts : array_like, int [B]
            Trial and first millisecond of each window.
        steps : int
            Length of the windows in ms.
        """
        import torch

        from surrogate.kernels import SpikeEvents

        windows = self._windows(trials, starts, steps)
        gaps, counts = [], np.empty((len(windows), steps), np.int64)
        for b, (trial, start) in enumerate(windows):
            of_trial = self._row_ptr(trial)
            counts[b] = np.diff(of_trial[start : start + steps + 1])
            low, high = of_trial[[start, start + steps]] + self._trial_ptr[trial]
            with reading(self.path):
                gaps.append(self._gap[int(low) : int(high)])
        row_ptr = np.zeros(counts.size + 1, np.int32)
        np.cumsum(counts, out=row_ptr[1:])
        gap = np.concatenate([np.zeros(0, np.uint16), *gaps])
        channel = self._channels(gap, counts.ravel()).astype(np.int16)
        return SpikeEvents(
            torch.from_numpy(channel), torch.from_numpy(row_ptr), len(windows), steps
        )

    def voltage(self, trials: ArrayLike, starts: ArrayLike, steps: int) -> np.ndarray:
        """Soma voltage of windows in mV at the start of each millisecond, float32 [B, steps]."""
        windows = self._windows(trials, starts, steps)
        voltage = np.empty((len(windows), steps), np.float32)
        for b, (trial, start) in enumerate(windows):
            with reading(self.path):
                voltage[b] = self._voltage[trial, start : start + steps]
            if not np.isfinite(voltage[b]).all():
                raise DataError(
                    f"{self.path}: the soma voltage of trial {trial} is not finite; "
                    "run surrogate data validate on the file and convert it again"
                )
        return voltage

    def spikes(
        self, trials: ArrayLike, starts: ArrayLike, steps: int, labels: str = "exact"
    ) -> np.ndarray:
        """Output spikes of windows, 0 or 1, uint8 [B, steps]: a spike at s is in int(s - 0.5).

        ``labels="legacy"`` takes the times as the public files round them. A time rounded past
        the end of the trial is in no bin.
        """
        windows = self._windows(trials, starts, steps)
        spikes = np.zeros((len(windows), steps), np.uint8)
        for b, (trial, start) in enumerate(windows):
            bins = spike_bins(self.spike_times(trial, labels)) - start
            spikes[b, bins[(bins >= 0) & (bins < steps)]] = 1
        return spikes

    def spike_times(self, trial: int, labels: str = "exact") -> np.ndarray:
        """Output spike times of one trial in ms, float64, ascending."""
        if labels not in _LABELS:
            raise UsageError(f"unknown labels {labels!r}; expected exact or legacy")
        times = self._spike_time[labels]
        return times[self._spike_ptr[trial] : self._spike_ptr[trial + 1]].astype(np.float64)

    def _check_format(self) -> None:
        file, path = self._file, self.path
        found = attribute(file, "format")
        if found != FORMAT:
            raise DataError(
                f"{path}: attribute format is {found!r}, expected {FORMAT!r}; "
                f"convert it first: surrogate data convert {path.name} --out converted.h5"
            )
        version = integer_attribute(file, path, "version", 1, 2**31)
        if version != VERSION:
            raise DataError(
                f"{path}: format version {version}, this program reads version {VERSION}; "
                "update surrogate-neuron"
            )
        self.n_trials = integer_attribute(file, path, "n_trials", 1, MAX_TRIALS)
        self.n_steps = integer_attribute(file, path, "n_steps", 1, MAX_STEPS)
        self.n_inputs = integer_attribute(file, path, "n_inputs", 2, MAX_INPUTS)
        self.n_excitatory = integer_attribute(file, path, "n_excitatory", 1, self.n_inputs)
        self.dt_ms = 1.0
        if attribute(file, "dt_ms") != self.dt_ms:
            raise DataError(
                f"{path}: attribute dt_ms is {attribute(file, 'dt_ms')!r}, expected 1.0; "
                "convert it again"
            )
        digest, provenance = attribute(file, "digest"), attribute(file, "provenance")
        if not isinstance(digest, str) or not isinstance(provenance, str):
            raise DataError(f"{path}: the conversion was never finished; convert it again")
        self.digest: str = digest
        self.provenance: dict[str, Any] = json.loads(provenance)
        if not isinstance(self.provenance, dict):
            raise DataError(f"{path}: attribute provenance is no JSON object; convert it again")

    def _read_tables(self) -> None:
        sizes = {
            "trials": self.n_trials,
            "steps": self.n_steps,
            "segments": self.n_excitatory,
        }
        arrays: dict[str, h5py.Dataset] = {
            name: array_of(self._file, self.path, name, array, sizes)
            for name, array in ARRAYS.items()
            if array.required or name in self._file
        }
        self._gap = arrays["input/gap"]
        self._count = arrays["input/count"]
        self._voltage = arrays["soma_voltage_mV"]
        self._trial_ptr = self._pointers(arrays, "input/trial_ptr", self._gap.shape[0])
        self._silenced_ptr = self._pointers(
            arrays, "input/silenced_ptr", arrays["input/silenced"].shape[0]
        )
        self._spike_ptr = self._pointers(
            arrays, "output/trial_ptr", arrays["output/spike_time_ms"].shape[0]
        )
        self._silenced = arrays["input/silenced"][:]
        self._spike_time = {
            "exact": arrays["output/spike_time_ms"][:],
            "legacy": arrays["output/spike_time_ms_float16_rounded"][:],
        }
        if self._spike_time["exact"].shape != self._spike_time["legacy"].shape:
            raise DataError(
                f"{self.path}: exact and rounded output spikes differ in number; convert it again"
            )
        for times in self._spike_time.values():
            if not (np.isfinite(times).all() and (times >= 0).all()):
                raise DataError(
                    f"{self.path}: output spike times are not finite and positive; convert it again"
                )
        self._source = arrays["trial/source"][:]
        self.trial_digests = arrays["trial/digest"][:]
        self._exact_times = arrays["trial/exact_times"][:]
        self._split = arrays["trial/split"][:] if "trial/split" in arrays else None
        if self._split is not None and not np.isin(self._split, np.array(SPLITS, "S5")).all():
            raise DataError(f"{self.path}: trial/split names an unknown split; convert it again")
        self.segments = {name: arrays[f"segment/{name}"][:] for name in SEGMENT_COLUMNS}
        self.segments["type"] = np.char.decode(self.segments["type"], "ascii")

    def _pointers(self, arrays: dict[str, h5py.Dataset], name: str, end: int) -> np.ndarray:
        pointers = arrays[name][:].astype(np.int64)
        if pointers[0] != 0 or pointers[-1] != end or (np.diff(pointers) < 0).any():
            raise DataError(
                f"{self.path}: {name} does not rise from 0 to {end}; convert the file again"
            )
        return pointers

    def _row_ptr(self, trial: int) -> np.ndarray:
        """Row pointers of one trial, int64 [n_steps + 1], from 0."""
        row_ptr = np.zeros(self.n_steps + 1, np.int64)
        with reading(self.path):
            np.cumsum(self._count[trial], out=row_ptr[1:])
        stored = self._trial_ptr[trial + 1] - self._trial_ptr[trial]
        if row_ptr[-1] != stored:
            raise DataError(
                f"{self.path}: trial {trial} counts {row_ptr[-1]} input events but stores "
                f"{stored}; convert the file again"
            )
        return row_ptr

    def _channels(self, gap: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Undo ``writer.gaps_of``: int64 channels of consecutive rows with ``counts`` events."""
        channel = np.cumsum(gap, dtype=np.int64)
        ends = np.cumsum(counts)
        before = np.concatenate([[0], channel])[ends - counts]
        channel -= np.repeat(before, counts)
        if channel.size and channel.max() >= self.n_inputs:
            raise DataError(
                f"{self.path}: input channel {channel.max()} is outside 0..{self.n_inputs - 1}; "
                "convert the file again"
            )
        return channel

    def _windows(self, trials: ArrayLike, starts: ArrayLike, steps: int) -> list[tuple[int, int]]:
        """(trial, first millisecond) of each window, checked to lie in the file."""
        trial, start = np.atleast_1d(trials).astype(int), np.atleast_1d(starts).astype(int)
        if trial.shape != start.shape or trial.ndim != 1:
            raise UsageError(f"trials and starts differ in shape: {trial.shape} and {start.shape}")
        if trial.size and not (trial.min() >= 0 and trial.max() < self.n_trials):
            raise UsageError(
                f"{self.path}: trials {trial.min()}..{trial.max()} asked for, "
                f"expected 0..{self.n_trials - 1}"
            )
        if start.size and (start.min() < 0 or steps < 1 or start.max() + steps > self.n_steps):
            raise UsageError(
                f"{self.path}: windows of {steps} ms starting at {start.min()}..{start.max()} "
                f"leave the trial; it has {self.n_steps} ms"
            )
        return list(zip(trial.tolist(), start.tolist(), strict=True))
