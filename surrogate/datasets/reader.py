"""Reads a data file lazily: windows for training, whole trials for everything else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from surrogate.channels import Channels
from surrogate.datasets.content import read_content
from surrogate.datasets.gaps import channels_of
from surrogate.datasets.layout import FORMAT, MAX_BATCH_EVENTS, MAX_VOLTAGE_MV, SPLITS
from surrogate.datasets.storage import Hdf5File, reading
from surrogate.datasets.trial import Trial, spike_bins
from surrogate.errors import DataError, UsageError

if TYPE_CHECKING:
    from surrogate.kernels import SpikeEvents

__all__ = ["Dataset", "open", "sample_path"]

_LABELS = ("exact", "legacy")


def sample_path() -> Path:
    """The path of the bundled sample."""
    return Path(__file__).resolve().parent / "sample" / "l5pc-sample.h5"


def open(path: str | os.PathLike[str] | None = None) -> Dataset:
    """Open a data file read-only; without ``path`` the bundled sample.

    Format, version, shapes, pointers and the digest of all tables are checked here; events and
    voltages when they are read.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another format or another version.
    """
    return Dataset(sample_path() if path is None else path)


class Dataset:
    """Trials of one neuron in one file. A context manager; data are read when they are needed.

    Attributes
    ----------
    path : Path
        The file.
    header : Header
        What all trials share: bins, channels, segments, and which voltages are recorded.
    n_trials : int
        Trials.
    digest : str
        SHA-256 of all that decides a result, whatever the file's name or compression: bins, channel
        groups, segments, the trials' contents and order, their splits and sources.
    provenance : dict
        Where the trials come from.
    trial_digests : ndarray, uint8 [n_trials, 32]
        SHA-256 of each trial's content as the file states it; ``validate`` checks it.
    exact_times : ndarray, bool [n_trials]
        For each trial, whether its output spike times are exact.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = Hdf5File(self.path)
        try:
            with reading(self.path):
                content = read_content(self._file)
        except BaseException:
            self._file.close()
            raise
        self.header, self.n_trials = content.header, content.n_trials
        self.digest, self.provenance = content.digest, content.provenance
        tables, streamed = content.tables, content.streamed
        self._gap, self._count = streamed["input/gap"], streamed["input/count"]
        self._amplitude = streamed.get("input/amplitude")
        self._weight = streamed.get("input/weight")
        self._voltages = {name: streamed[f"voltage/{name}"] for name in self.header.voltages}
        self._trial_ptr, self._spike_ptr = tables["input/trial_ptr"], tables["output/trial_ptr"]
        self._spike_time = {"exact": tables["output/spike_time_ms"]}
        if self.header.rounded_times:
            self._spike_time["legacy"] = tables["output/rounded_spike_time_ms"]
        self._silenced = tables.get("input/silenced", np.zeros(0, np.uint16))
        none = np.zeros(self.n_trials + 1, np.int64)
        self._silenced_ptr = tables.get("input/silenced_ptr", none)
        self._source, self.trial_digests = tables["trial/source"], tables["trial/digest"]
        self.exact_times = tables.get("trial/exact_times", np.ones(self.n_trials)) != 0
        self._split = tables.get("trial/split")

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
        return f"<Dataset {self.path}: {self.n_trials} trials of {self.header.duration_ms:g} ms>"

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
        events = slice(first, first + int(row_ptr[-1]))
        spikes = slice(*self._spike_ptr[trial : trial + 2])
        rounded = self._spike_time.get("legacy")
        return Trial(
            channel=self._channels(self._gap[events], np.diff(row_ptr)).astype(np.uint16),
            row_ptr=row_ptr,
            spike_time_ms=self._spike_time["exact"][spikes],
            voltage_mV={name: v[trial].astype(np.float32) for name, v in self._voltages.items()},
            amplitude=None if self._amplitude is None else self._amplitude[events],
            weight=None if self._weight is None else self._weight[trial],
            silenced=self._silenced[slice(*self._silenced_ptr[trial : trial + 2])],
            rounded_spike_time_ms=None if rounded is None else rounded[spikes],
            exact_times=bool(self.exact_times[trial]),
            source=(int(self._source[trial, 0]), int(self._source[trial, 1])),
            split=None if self._split is None else self._split[trial].decode(),
        )

    def verified(self, trial: int) -> Trial:
        """One whole trial, whose content matches its digest.

        Raises
        ------
        DataError
            If it does not: the trial is damaged.
        """
        read = self[trial]
        if read.digest() != self.trial_digests[trial].tobytes():
            raise DataError(
                f"{self.path}: trial {trial} is damaged, its content does not match its digest; "
                "get or convert the file again"
            )
        return read

    @property
    def n_steps(self) -> int:
        """Bins per trial."""
        return self.header.n_steps

    @property
    def n_inputs(self) -> int:
        """Input channels."""
        return self.header.n_inputs

    @property
    def channels(self) -> Channels:
        """The groups of input channels."""
        return self.header.channels

    @property
    def dt_ms(self) -> float:
        """Length of a bin, ms."""
        return self.header.dt_ms

    @property
    def segments(self) -> Mapping[str, np.ndarray]:
        """Columns of the segment table, one row per dendritic segment; empty if there is none."""
        return self.header.segments

    def bins(self, duration_ms: float) -> int:
        """``duration_ms`` in bins, to the nearest."""
        return round(duration_ms / self.dt_ms)

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
            Trial and first bin of each window.
        steps : int
            Length of the windows in bins.

        Raises
        ------
        UsageError
            If a window leaves its trial, or the events have amplitudes or weights, which the
            networks do not take.
        DataError
            If the bytes are damaged, or the windows hold more events than the memory should.
        """
        import torch

        from surrogate.kernels import SpikeEvents

        if self.header.amplitudes or self.header.weights:
            raise UsageError(
                f"{self.path}: its input spikes differ in size (amplitudes or weights), and the "
                "networks take spikes of one size; give data without them"
            )
        windows = self._windows(trials, starts, steps)
        bounds, counts = [], np.empty((len(windows), steps), np.int64)
        for b, (trial, start) in enumerate(windows):
            of_trial = self._row_ptr(trial)
            counts[b] = np.diff(of_trial[start : start + steps + 1])
            bounds.append((of_trial[[start, start + steps]] + self._trial_ptr[trial]).tolist())
        self._check_counts(counts)
        gaps = [self._gap[low:high] for low, high in bounds]
        row_ptr = np.zeros(counts.size + 1, np.int32)
        np.cumsum(counts, out=row_ptr[1:])
        gap = np.concatenate([np.zeros(0, np.uint16), *gaps])
        channel = self._channels(gap, counts.ravel()).astype(np.int16)
        return SpikeEvents(
            torch.from_numpy(channel), torch.from_numpy(row_ptr), len(windows), steps
        )

    def voltage(
        self, trials: ArrayLike, starts: ArrayLike, steps: int, name: str = "soma"
    ) -> np.ndarray:
        """Voltage ``name`` of windows in mV at the start of each bin, float32 [B, steps].

        Raises
        ------
        UsageError
            If a window leaves its trial or there is no such voltage.
        """
        if name not in self._voltages:
            raise UsageError(
                f"{self.path}: no voltage {name!r}; expected {' or '.join(self.header.voltages)}"
            )
        windows = self._windows(trials, starts, steps)
        voltage = np.empty((len(windows), steps), np.float32)
        for b, (trial, start) in enumerate(windows):
            voltage[b] = self._voltages[name][trial, start : start + steps]
        sound = (np.abs(voltage) <= MAX_VOLTAGE_MV).all(axis=1)
        if not sound.all():
            raise DataError(
                f"{self.path}: the {name} voltage of trial {windows[sound.argmin()][0]} is not "
                f"finite and within {MAX_VOLTAGE_MV:g} mV; run surrogate data validate on the "
                "file and convert it again"
            )
        return voltage

    def spikes(
        self, trials: ArrayLike, starts: ArrayLike, steps: int, labels: str = "exact"
    ) -> np.ndarray:
        """Output spikes of windows, 0 or 1, uint8 [B, steps]: a spike at s is in int(s / dt - 0.5).

        ``labels="legacy"`` takes the times as the source rounds them. A time rounded past the end
        of the trial is in no bin.
        """
        windows = self._windows(trials, starts, steps)
        spikes = np.zeros((len(windows), steps), np.uint8)
        for b, (trial, start) in enumerate(windows):
            bins = spike_bins(self.spike_times(trial, labels), self.dt_ms) - start
            spikes[b, bins[(bins >= 0) & (bins < steps)]] = 1
        return spikes

    def spike_times(self, trial: int, labels: str = "exact") -> np.ndarray:
        """Output spike times of one trial in ms, float64, ascending.

        Raises
        ------
        UsageError
            If there are no such labels, or the file has no rounded times.
        """
        if labels not in _LABELS:
            raise UsageError(f"unknown labels {labels!r}; expected exact or legacy")
        if labels not in self._spike_time:
            raise UsageError(f"{self.path}: has no rounded spike times; use --labels exact")
        times = self._spike_time[labels]
        return times[self._spike_ptr[trial] : self._spike_ptr[trial + 1]].astype(np.float64)

    def _row_ptr(self, trial: int) -> np.ndarray:
        """Row pointers of one trial, int64 [n_steps + 1], from 0."""
        row_ptr = np.zeros(self.n_steps + 1, np.int64)
        np.cumsum(self._count[trial], out=row_ptr[1:])
        stored = self._trial_ptr[trial + 1] - self._trial_ptr[trial]
        if row_ptr[-1] != stored:
            raise DataError(
                f"{self.path}: trial {trial} counts {row_ptr[-1]} input events but stores "
                f"{stored}; convert the file again"
            )
        return row_ptr

    def _check_counts(self, counts: np.ndarray) -> None:
        """Refuse windows whose events would exhaust the memory."""
        most, total = counts.max(initial=0), counts.sum()
        if most > self.n_inputs:
            raise DataError(
                f"{self.path}: a bin counts {most} input events, more than the {self.n_inputs} "
                "channels; run surrogate data validate on the file and convert it again"
            )
        if total > MAX_BATCH_EVENTS:
            raise DataError(
                f"{self.path}: {len(counts)} windows of {counts.shape[1]} bins hold {total} input "
                f"events, expected at most {MAX_BATCH_EVENTS}; take fewer or shorter ones"
            )

    def _channels(self, gap: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Channels of consecutive rows with ``counts`` events, checked to be the file's."""
        channel = channels_of(gap, counts)
        if channel.size and channel.max() >= self.n_inputs:
            raise DataError(
                f"{self.path}: input channel {channel.max()} is outside 0..{self.n_inputs - 1}; "
                "convert the file again"
            )
        return channel

    def _windows(self, trials: ArrayLike, starts: ArrayLike, steps: int) -> list[tuple[int, int]]:
        """(trial, first bin) of each window, checked to lie in the file."""
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
                f"{self.path}: windows of {steps} bins starting at {start.min()}..{start.max()} "
                f"leave the trial; it has {self.n_steps} bins"
            )
        return list(zip(trial.tolist(), start.tolist(), strict=True))
