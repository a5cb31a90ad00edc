"""Reading the HDF5 form of the public trials (``format = "l5pc-spikes"``, version 1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from surrogate.channels import MAX_CHANNELS
from surrogate.datasets.layout import MAX_STEPS, MAX_TRIAL_EVENTS, MAX_TRIALS, Array
from surrogate.datasets.sources.l5pc import l5pc_header
from surrogate.datasets.storage import Hdf5File, reading
from surrogate.datasets.trial import Trial
from surrogate.errors import DataError

__all__ = ["L5PC_FORMAT", "L5pcFile"]

L5PC_FORMAT = "l5pc-spikes"

_FLOAT, _WHOLE = "<f8 <f4 <f2", "<i8 <i4"
_ARRAYS = {
    "input/channel": Array("<u2", ("events",)),
    "input/row_ptr": Array(_WHOLE, ("rows+1",)),
    "output/spike_time_ms": Array(_FLOAT, ("spikes",)),
    "output/spike_time_ms_float16_rounded": Array(_FLOAT, ("spikes",)),
    "output/trial_ptr": Array(_WHOLE, ("trials+1",)),
    "soma_voltage_mV": Array(_FLOAT, ("trials", "steps")),
    "nexus_voltage_mV": Array(_FLOAT, ("trials", "steps"), required=False),
    "input/weight": Array(_FLOAT, ("trials", "inputs"), required=False),
    "trial/source": Array(_WHOLE, ("trials", 2)),
    "segment/allSegmentsType": Array("|S32", ("segments",)),
    "segment/allSegmentsLength": Array(_FLOAT, ("segments",)),
    "segment/allSegments_DistFromSoma": Array(_FLOAT, ("segments",)),
    "segment/allSegments_SectionInd": Array(f"{_FLOAT} {_WHOLE}", ("segments",)),
}
_STREAMED = (
    "input/channel",
    "input/row_ptr",
    "input/weight",
    "soma_voltage_mV",
    "nexus_voltage_mV",
)


class L5pcFile:
    """Trials of one such file, read one after another.

    Raises
    ------
    DataError
        If the file is damaged, or holds what no such file can.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = Hdf5File(path)
        try:
            with reading(path):
                self._check()
        except BaseException:
            self._file.close()
            raise

    @staticmethod
    def recognises(file: Hdf5File) -> bool:
        """Whether ``file`` has this form. Its own word for it is not read, see
        :meth:`Hdf5File.attribute`."""
        return file.attribute("format") in (None, L5PC_FORMAT) and all(
            file.has(name) for name in ("input/row_ptr", "soma_voltage_mV")
        )

    def close(self) -> None:
        self._file.close()

    @property
    def description(self) -> dict[str, Any]:
        """The origin of the trials."""
        return {"kind": L5PC_FORMAT}

    def __len__(self) -> int:
        return self._n_trials

    def __iter__(self) -> Iterator[Trial]:
        return map(self._read, range(self._n_trials))

    def _check(self) -> None:
        file = self._file
        file.integer("version", 1, 1)
        self._n_trials = file.integer("n_trials", 1, MAX_TRIALS)
        steps = file.integer("n_steps", 1, MAX_STEPS)
        # Each segment has one synapse of each kind.
        segments = file.integer("n_excitatory", 1, MAX_CHANNELS // 2)
        sizes = {
            "trials": self._n_trials,
            "steps": steps,
            "segments": segments,
            "inputs": file.integer("n_inputs", 2 * segments, 2 * segments),
            "rows+1": self._n_trials * steps + 1,
        }
        arrays = {
            name: file.array(name, form, sizes)
            for name, form in _ARRAYS.items()
            if form.required or file.has(name)
        }
        self._streamed = {name: arrays.pop(name) for name in _STREAMED if name in arrays}
        self._tables = file.read_whole(arrays)
        spike_ptr = self._tables["output/trial_ptr"]
        n_spikes = self._tables["output/spike_time_ms"].size
        if spike_ptr[0] != 0 or spike_ptr[-1] != n_spikes or (np.diff(spike_ptr) < 0).any():
            self._fail(f"output/trial_ptr does not rise from 0 to {n_spikes}")
        self._voltages = {"soma": self._streamed["soma_voltage_mV"]}
        if "nexus_voltage_mV" in self._streamed:
            self._voltages["nexus"] = self._streamed["nexus_voltage_mV"]
        table = {
            column: self._tables[f"segment/{name}"]
            for column, name in (
                ("type", "allSegmentsType"),
                ("length_um", "allSegmentsLength"),
                ("distance_um", "allSegments_DistFromSoma"),
                ("section", "allSegments_SectionInd"),
            )
        }
        self.header = l5pc_header(
            self.path,
            steps,
            table,
            voltages=tuple(self._voltages),
            weights="input/weight" in self._streamed,
        )

    def _fail(self, what: str) -> NoReturn:
        raise DataError(f"{self.path}: {what}; get the file again")

    def _read(self, trial: int) -> Trial:
        streamed, tables, steps = self._streamed, self._tables, self.header.n_steps
        row_ptr = streamed["input/row_ptr"][trial * steps : (trial + 1) * steps + 1]
        first, last = int(row_ptr[0]), int(row_ptr[-1])
        n_events = streamed["input/channel"].shape[0]
        starts, ends = trial > 0 or first == 0, trial < len(self) - 1 or last == n_events
        if (np.diff(row_ptr) < 0).any() or not (starts and ends and 0 <= first <= n_events):
            self._fail(f"input/row_ptr does not rise from 0 to {n_events} (trial {trial})")
        if last - first > MAX_TRIAL_EVENTS:
            self._fail(
                f"trial {trial} has {last - first} input events, expected at most "
                f"{MAX_TRIAL_EVENTS}"
            )
        channel = streamed["input/channel"][first:last]
        row_ptr = row_ptr - first
        spikes = slice(*tables["output/trial_ptr"][trial : trial + 2])
        source = tables["trial/source"][trial]
        rounded = tables["output/spike_time_ms_float16_rounded"][spikes]
        weight = streamed["input/weight"][trial].astype(np.float32) if self.header.weights else None
        return Trial(
            channel=channel,
            row_ptr=row_ptr,
            spike_time_ms=tables["output/spike_time_ms"][spikes].astype(np.float64),
            rounded_spike_time_ms=rounded.astype(np.float32),
            voltage_mV={name: v[trial].astype(np.float32) for name, v in self._voltages.items()},
            weight=weight,
            # Source times are whole milliseconds: an event in the first bin is one at t = 0.
            silenced=channel[: row_ptr[1]],
            source=(int(source[0]), int(source[1])),
        )
