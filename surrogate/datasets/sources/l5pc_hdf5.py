"""Reading the HDF5 form of the public trials (``format = "l5pc-spikes"``, version 1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from surrogate.channels import MAX_CHANNELS
from surrogate.datasets.header import Header
from surrogate.datasets.layout import MAX_STEPS, MAX_TRIALS, Array
from surrogate.datasets.sources.l5pc import l5pc_header
from surrogate.datasets.storage import array_of, attribute, integer_attribute, open_hdf5, reading
from surrogate.datasets.trial import Trial
from surrogate.errors import DataError

__all__ = ["L5PC_FORMAT", "L5pcFile"]

L5PC_FORMAT = "l5pc-spikes"

_ARRAYS = {
    "input/channel": Array("<u2", ("events",)),
    "input/row_ptr": Array("<i8", ("rows+1",)),
    "output/spike_time_ms": Array("<f4", ("spikes",)),
    "output/spike_time_ms_float16_rounded": Array("<f4", ("spikes",)),
    "output/trial_ptr": Array("<i8", ("trials+1",)),
    "soma_voltage_mV": Array("<f2", ("trials", "steps")),
    "nexus_voltage_mV": Array("<f2", ("trials", "steps"), required=False),
    "input/weight": Array("<f4", ("trials", "inputs"), required=False),
    "trial/source": Array("<i8", ("trials", 2)),
    "segment/allSegmentsType": Array("|S8", ("segments",)),
    "segment/allSegmentsLength": Array("<f8", ("segments",)),
    "segment/allSegments_DistFromSoma": Array("<f8", ("segments",)),
    "segment/allSegments_SectionInd": Array("<f8", ("segments",)),
}


class L5pcFile:
    """Trials of one such file, read one after another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_hdf5(path)
        with reading(path):
            self._check()

    def close(self) -> None:
        self._file.close()

    @property
    def description(self) -> dict[str, Any]:
        """What the file says about its origin."""
        simulation = attribute(self._file, "source", any_length=True)
        return {"kind": L5PC_FORMAT, "simulation": str(simulation or "")}

    def __len__(self) -> int:
        return self._n_trials

    def __iter__(self) -> Iterator[Trial]:
        for trial in range(self._n_trials):
            with reading(self.path):
                read = self._read(trial)
            yield read

    def _check(self) -> None:
        file, path = self._file, self.path
        integer_attribute(file, path, "version", 1, 1)
        self._n_trials = integer_attribute(file, path, "n_trials", 1, MAX_TRIALS)
        steps = integer_attribute(file, path, "n_steps", 1, MAX_STEPS)
        # Each segment has one synapse of each kind.
        segments = integer_attribute(file, path, "n_excitatory", 1, MAX_CHANNELS // 2)
        inputs = integer_attribute(file, path, "n_inputs", 2 * segments, 2 * segments)
        sizes = {
            "trials": self._n_trials,
            "steps": steps,
            "segments": segments,
            "inputs": inputs,
            "rows+1": self._n_trials * steps + 1,
        }
        self._arrays = {
            name: array_of(file, path, name, array, sizes)
            for name, array in _ARRAYS.items()
            if array.required or name in file
        }
        self._spike_ptr = self._arrays["output/trial_ptr"][:]
        ends = self._spike_ptr[[0, -1]].tolist()
        n_spikes = self._arrays["output/spike_time_ms"].shape[0]
        if ends != [0, n_spikes] or (np.diff(self._spike_ptr) < 0).any():
            raise DataError(f"{path}: output/trial_ptr does not rise from 0 to {n_spikes}")
        self._voltages = {"soma": self._arrays["soma_voltage_mV"]}
        if "nexus_voltage_mV" in self._arrays:
            self._voltages["nexus"] = self._arrays["nexus_voltage_mV"]
        self.header: Header = l5pc_header(
            path,
            steps,
            {
                "type": np.char.decode(self._arrays["segment/allSegmentsType"][:], "ascii"),
                "length_um": self._arrays["segment/allSegmentsLength"][:],
                "distance_um": self._arrays["segment/allSegments_DistFromSoma"][:],
                "section": self._arrays["segment/allSegments_SectionInd"][:].astype(np.int64),
            },
            voltages=tuple(self._voltages),
            weights="input/weight" in self._arrays,
        )

    def _read(self, trial: int) -> Trial:
        arrays, steps = self._arrays, self.header.n_steps
        row_ptr = arrays["input/row_ptr"][trial * steps : (trial + 1) * steps + 1]
        if (np.diff(row_ptr) < 0).any() or row_ptr[0] < 0:
            raise DataError(f"{self.path}: input/row_ptr decreases within trial {trial}")
        channel = arrays["input/channel"][int(row_ptr[0]) : int(row_ptr[-1])]
        row_ptr = row_ptr - row_ptr[0]
        spikes = slice(*self._spike_ptr[trial : trial + 2])
        source = arrays["trial/source"][trial]
        return Trial(
            channel=channel,
            row_ptr=row_ptr,
            spike_time_ms=arrays["output/spike_time_ms"][spikes].astype(np.float64),
            rounded_spike_time_ms=arrays["output/spike_time_ms_float16_rounded"][spikes],
            voltage_mV={name: v[trial].astype(np.float32) for name, v in self._voltages.items()},
            weight=arrays["input/weight"][trial] if self.header.weights else None,
            # Source times are whole milliseconds: an event in the first bin is one at t = 0.
            silenced=channel[: row_ptr[1]],
            source=(int(source[0]), int(source[1])),
        )
