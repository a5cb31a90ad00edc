"""One trial: what went into the cell, and what came out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Header", "Trial", "spike_bins"]


@dataclass(frozen=True, eq=False)
class Header:
    """What all trials of a file share.

    Attributes
    ----------
    n_steps, n_inputs, n_excitatory : int
        Milliseconds per trial, input channels, and how many of them (the first) excite.
    segments : mapping of str to ndarray
        Columns type, length_um, distance_um and section, one row per dendritic segment.
    """

    n_steps: int
    n_inputs: int
    n_excitatory: int
    segments: Mapping[str, np.ndarray]

    def difference(self, other: Header) -> str | None:
        """Where ``other`` describes another neuron or trial length; None if it does not."""
        for name in ("n_steps", "n_inputs", "n_excitatory"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} is {theirs}, not {mine}"
        for column, values in self.segments.items():
            if not np.array_equal(values, other.segments[column]):
                return f"the segments differ in {column}"
        return None


def spike_bins(spike_time_ms: np.ndarray) -> np.ndarray:
    """The 1 ms bin of each output spike, int64: ``int(s - 0.5)``.

    ``int`` truncates towards zero, so a spike in the first half millisecond is in bin 0. The rule
    is that of Beniaguev, Segev and London (2021), whose models were trained with it.
    """
    return np.trunc(np.asarray(spike_time_ms, np.float64) - 0.5).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Trial:
    """One simulated stretch of one neuron.

    Attributes
    ----------
    channel : ndarray, uint16 [E]
        Input channels that spike, ascending and unique within a millisecond.
    row_ptr : ndarray, int64 [n_steps + 1]
        Millisecond t holds ``channel[row_ptr[t]:row_ptr[t + 1]]``; starts at 0.
    spike_time_ms : ndarray, float32 [S]
        Output spikes, exact to the source's sampling (1/8 ms), ascending.
    spike_time_float16_ms : ndarray, float32 [S]
        The same spikes as the public files list them: rounded to float16, which is 2 ms beyond
        2048 ms and 4 ms beyond 4096 ms.
    soma_voltage_mV : ndarray, float32 [n_steps]
        V(t) at the start of each millisecond; every value is a float16.
    silenced : ndarray, uint16 [Z]
        Channels with an event at exactly t = 0: the source simulation never activates their
        synapse in this trial.
    exact_times : bool
        False if the exact times could not be recovered and ``spike_time_ms`` holds rounded ones.
    source : tuple of int
        Seed of the simulation run and index of the trial in it; (-1, index) if there is no seed.
    split : str or None
        "train", "valid", "test", or None if the file stores none.
    """

    channel: np.ndarray
    row_ptr: np.ndarray
    spike_time_ms: np.ndarray
    spike_time_float16_ms: np.ndarray
    soma_voltage_mV: np.ndarray
    silenced: np.ndarray
    exact_times: bool
    source: tuple[int, int]
    split: str | None = None

    @property
    def n_steps(self) -> int:
        """Length of the trial in milliseconds."""
        return self.soma_voltage_mV.size

    def digest(self) -> bytes:
        """SHA-256 of the content; source, split and storage do not enter."""
        parts = (
            np.diff(self.row_ptr).astype("<u2"),
            self.channel.astype("<u2"),
            self.spike_time_ms.astype("<f4"),
            self.spike_time_float16_ms.astype("<f4"),
            self.soma_voltage_mV.astype("<f2"),
            self.silenced.astype("<u2"),
            np.array([self.exact_times], "|u1"),
        )
        sha = hashlib.sha256()
        for part in parts:
            sha.update(part.size.to_bytes(8, "little"))
            sha.update(part.tobytes())
        return sha.digest()

    def problems(self, n_inputs: int) -> list[str]:
        """Every broken promise about the content, in words; empty for a sound trial."""
        found = []
        steps = self.n_steps
        counts = np.diff(self.row_ptr)
        if self.row_ptr.shape != (steps + 1,) or self.row_ptr[0] != 0 or (counts < 0).any():
            return [f"row_ptr must rise from 0 over {steps + 1} entries"]
        if self.row_ptr[-1] != self.channel.size:
            return [f"row_ptr ends at {self.row_ptr[-1]}, but there are {self.channel.size} events"]
        if self.channel.size and int(self.channel.max()) >= n_inputs:
            found.append(f"channel {self.channel.max()} is outside 0..{n_inputs - 1}")
        first_of_row = np.zeros(self.channel.size + 1, bool)
        first_of_row[self.row_ptr] = True
        ascending = np.diff(self.channel.astype(np.int64)) > 0
        if not (ascending | first_of_row[1:-1]).all():
            found.append("channels are not ascending and unique within a millisecond")
        if not np.isfinite(self.soma_voltage_mV).all():
            bad = np.flatnonzero(~np.isfinite(self.soma_voltage_mV))
            found.append(f"soma voltage is not finite at {bad.size} samples, first at {bad[0]} ms")
        if self.spike_time_ms.shape != self.spike_time_float16_ms.shape:
            found.append("exact and rounded spike times differ in number")
        for name, times in (
            ("output spike times", self.spike_time_ms),
            ("rounded output spike times", self.spike_time_float16_ms),
        ):
            # A rounded time may lie past the end: float16 rounds by up to 2 ms here.
            if not (np.isfinite(times).all() and (times >= 0).all()):
                found.append(f"{name} must be finite and not negative")
            elif (np.diff(times) < 0).any():
                found.append(f"{name} must not decrease")
        if not found and (self.spike_time_ms > steps).any() and self.exact_times:
            found.append(f"an output spike at {self.spike_time_ms.max()} ms lies past {steps} ms")
        first_bin = self.channel[: self.row_ptr[1]] if steps else self.channel[:0]
        if not np.isin(self.silenced, first_bin).all():
            found.append("a silenced channel has no event in the first millisecond")
        return found
