"""One trial: input spikes, output spikes and voltages."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from surrogate.datasets.header import Header
from surrogate.datasets.layout import MAX_TRIAL_EVENTS, MAX_VOLTAGE_MV
from surrogate.errors import UsageError

__all__ = ["Trial", "spike_bins", "times_problem"]

#: Share of a bin by which a time may fall short of the bin's start: floating-point noise.
_NOISE = 1e-6


def spike_bins(spike_time_ms: np.ndarray, dt_ms: float) -> np.ndarray:
    """The bin of each output spike, int64: ``int(s / dt - 0.5)``.

    Bin k is answered at its end, (k + 1) dt, and a spike belongs to the nearest answer. ``int``
    truncates towards zero, so a spike in the first half bin is in bin 0. With dt = 1 ms the rule
    is that of Beniaguev, Segev and London (2021), whose models were trained with it.
    """
    return np.trunc(np.asarray(spike_time_ms, np.float64) / dt_ms - 0.5).astype(np.int64)


def times_problem(times: np.ndarray, latest_ms: float, trial_ptr: ArrayLike = (0, 0)) -> str | None:
    """What is wrong with output spike times, in words; None if nothing is.

    Parameters
    ----------
    times : ndarray [S]
        In ms; of one trial or of several, one after the other.
    latest_ms : float
        No spike may be later.
    trial_ptr : array [trials + 1]
        Where trials begin in ``times``, in which these then may decrease.
    """
    if not (np.isfinite(times).all() and (times >= 0).all()):
        return "must be finite and not negative"
    decreases = np.diff(times) < 0
    starts = np.asarray(trial_ptr)
    decreases[starts[(starts > 0) & (starts < times.size)] - 1] = False
    if decreases.any():
        return "must not decrease"
    if times.size and times.max() > latest_ms:
        return f"lie past {latest_ms:g} ms, the last at {times.max():g} ms"
    return None


@dataclass(frozen=True, eq=False)
class Trial:
    """One stretch of one neuron, simulated or recorded; see :meth:`from_spikes` to make one.

    Attributes
    ----------
    channel : ndarray, uint16 [E]
        Input channels that spike, ascending and unique within a bin.
    row_ptr : ndarray, int64 [n_steps + 1]
        Bin t holds ``channel[row_ptr[t]:row_ptr[t + 1]]``; starts at 0.
    spike_time_ms : ndarray, float64 [S]
        Output spikes, ascending.
    voltage_mV : mapping of str to ndarray, float32 [n_steps]
        V(t) at the start of each bin, by the place of recording; "soma" is always there. Stored as
        float16, which at -70 mV is 1/16 mV.
    amplitude : ndarray, float32 [E], optional
        Size of each event, where events differ; 1 is that of an ordinary spike.
    weight : ndarray, float32 [n_inputs], optional
        Strength of each channel's synapse in this trial, a factor on its events.
    silenced : ndarray, uint16 [Z]
        Channels with an event at exactly t = 0, whose synapse the source simulation never activates
        in this trial.
    rounded_spike_time_ms : ndarray, float32 [S], optional
        The output spikes as the source lists them, rounded: the public L5PC files to float16, which
        is 2 ms beyond 2048 ms and 4 ms beyond 4096 ms.
    exact_times : bool
        False if the exact times could not be recovered and ``spike_time_ms`` holds rounded ones.
    source : tuple of int
        Seed of the simulation run and index of the trial in it; -1 where there is none.
    split : str or None
        "train", "valid", "test", or None if the file stores none.
    """

    channel: np.ndarray
    row_ptr: np.ndarray
    spike_time_ms: np.ndarray
    voltage_mV: Mapping[str, np.ndarray]
    amplitude: np.ndarray | None = None
    weight: np.ndarray | None = None
    silenced: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint16))
    rounded_spike_time_ms: np.ndarray | None = None
    exact_times: bool = True
    source: tuple[int, int] = (-1, -1)
    split: str | None = None

    @classmethod
    def from_spikes(
        cls,
        header: Header,
        channel: ArrayLike,
        time_ms: ArrayLike,
        *,
        spike_time_ms: ArrayLike,
        voltage_mV: Mapping[str, ArrayLike],
        amplitude: ArrayLike | None = None,
        weight: ArrayLike | None = None,
        source: tuple[int, int] = (-1, -1),
        split: str | None = None,
    ) -> Trial:
        """A trial from lists of input and output spikes.

        Parameters
        ----------
        header : Header
            Of the file that the trial is for.
        channel, time_ms : array [E]
            Channel and time of each input spike, in any order. A spike at t is in bin
            floor(t / dt). Of several spikes on one channel in one bin one is kept; amplitudes are
            added up.
        spike_time_ms : array [S]
            Output spikes.
        voltage_mV : mapping of str to array [n_steps]
            V(t) at the start of each bin, "soma" and whatever else ``header.voltages`` names.
        amplitude, weight, source, split
            As the attributes.

        Raises
        ------
        UsageError
            If channels and times differ in number, or a time or channel lies outside the trial.
        """
        channel, time_ms = np.asarray(channel), np.asarray(time_ms, np.float64)
        if channel.shape != time_ms.shape or channel.ndim != 1:
            raise UsageError(
                f"{channel.shape} channels and {time_ms.shape} times of input spikes: expected "
                "one time for each channel"
            )
        for what, values, end in (
            ("channels", channel, header.n_inputs),
            ("times in ms", time_ms, header.duration_ms),
        ):
            if values.size and not (values.min() >= 0 and values.max() < end):
                raise UsageError(
                    f"input spikes have {what} from {values.min():g} to {values.max():g}: expected "
                    f"0 to below {end:g}"
                )
        bins = np.floor(time_ms / header.dt_ms + _NOISE).astype(np.int64)
        key = np.minimum(bins, header.n_steps - 1) * header.n_inputs + channel.astype(np.int64)
        places, first = np.unique(key, return_inverse=True)
        rows, channels = np.divmod(places, header.n_inputs)
        sizes = None
        if amplitude is not None:
            total = np.bincount(first, np.asarray(amplitude, np.float64), minlength=places.size)
            sizes = total.astype(np.float32)
        return cls(
            channel=channels.astype(np.uint16),
            row_ptr=np.searchsorted(rows, np.arange(header.n_steps + 1)),
            spike_time_ms=np.sort(np.asarray(spike_time_ms, np.float64)),
            voltage_mV={name: np.asarray(v, np.float32) for name, v in voltage_mV.items()},
            amplitude=sizes,
            weight=None if weight is None else np.asarray(weight, np.float32),
            source=source,
            split=split,
        )

    def digest(self) -> bytes:
        """SHA-256 of the content; source, split and storage do not enter."""
        sha = hashlib.sha256()
        for name, part in self._content():
            sha.update(f"{name} {part.size}\n".encode())
            sha.update(part.tobytes())
        return sha.digest()

    def _content(self) -> Iterator[tuple[str, np.ndarray]]:
        yield "count", np.diff(self.row_ptr).astype("<u2")
        yield "channel", self.channel.astype("<u2")
        yield "spike_time_ms", self.spike_time_ms.astype("<f8")
        for name in sorted(self.voltage_mV):
            yield f"voltage/{name}", self.voltage_mV[name].astype("<f2")
        for name in ("amplitude", "weight", "rounded_spike_time_ms"):
            if (values := getattr(self, name)) is not None:
                yield name, values.astype("<f4")
        yield "silenced", self.silenced.astype("<u2")
        yield "exact_times", np.array([self.exact_times], "|u1")

    def reduced_to(self, header: Header) -> Trial:
        """The trial without the voltages and rounded times that ``header`` does not name."""
        voltages = {name: self.voltage_mV[name] for name in header.voltages}
        rounded = self.rounded_spike_time_ms if header.rounded_times else None
        return dataclasses.replace(self, voltage_mV=voltages, rounded_spike_time_ms=rounded)

    def problems(self, header: Header) -> list[str]:
        """What is wrong with the content, one phrase each; empty for a valid trial."""
        steps = header.n_steps
        counts = np.diff(self.row_ptr)
        if self.row_ptr.shape != (steps + 1,) or self.row_ptr[0] != 0 or (counts < 0).any():
            return [f"row_ptr must rise from 0 over {steps + 1} entries"]
        if self.row_ptr[-1] != self.channel.size:
            return [f"row_ptr ends at {self.row_ptr[-1]}, but there are {self.channel.size} events"]
        if self.channel.size > MAX_TRIAL_EVENTS:
            return [f"{self.channel.size} input events, expected at most {MAX_TRIAL_EVENTS}"]
        found = []
        if self.channel.size and int(self.channel.max()) >= header.n_inputs:
            found.append(f"channel {self.channel.max()} is outside 0..{header.n_inputs - 1}")
        first_of_row = np.zeros(self.channel.size + 1, bool)
        first_of_row[self.row_ptr] = True
        ascending = self.channel[1:] > self.channel[:-1]
        if not (ascending | first_of_row[1:-1]).all():
            found.append("channels are not ascending and unique within a bin")
        if not np.isin(self.silenced, self.channel[: self.row_ptr[1]]).all():
            found.append("a silenced channel has no event in the first bin")
        for name, values, promised, size in (
            ("amplitude", self.amplitude, header.amplitudes, self.channel.size),
            ("weight", self.weight, header.weights, header.n_inputs),
        ):
            if (values is not None) != promised:
                found.append(f"{name} is {'missing' if promised else 'not announced'}")
            elif values is not None and not (values.shape == (size,) and np.isfinite(values).all()):
                found.append(f"{name} must be {size} finite numbers")
        return [*found, *self._voltage_problems(header), *self._spike_problems(header)]

    def _voltage_problems(self, header: Header) -> Iterator[str]:
        if set(self.voltage_mV) != set(header.voltages):
            yield f"voltages are {', '.join(self.voltage_mV)}, not {', '.join(header.voltages)}"
        for name, voltage in self.voltage_mV.items():
            if voltage.shape != (header.n_steps,):
                yield f"{name} voltage has {voltage.size} samples, expected {header.n_steps}"
                continue
            bad = np.flatnonzero(~(np.abs(voltage) <= MAX_VOLTAGE_MV))
            if bad.size:
                finite = np.isfinite(voltage[bad]).all()
                what = f"beyond {MAX_VOLTAGE_MV:g} mV" if finite else "not finite"
                first = bad[0] * header.dt_ms
                yield f"{name} voltage is {what} at {bad.size} samples, first at {first:g} ms"

    def _spike_problems(self, header: Header) -> list[str]:
        rounded = self.rounded_spike_time_ms
        if (rounded is not None) != header.rounded_times:
            return [f"rounded spike times are {'missing' if rounded is None else 'not announced'}"]
        if rounded is not None and rounded.shape != self.spike_time_ms.shape:
            return ["exact and rounded spike times differ in number"]
        latest_ms = header.duration_ms if self.exact_times else header.latest_ms
        if problem := times_problem(self.spike_time_ms, latest_ms):
            return [f"output spike times {problem}"]
        if rounded is None:
            return []
        if problem := times_problem(rounded, header.latest_ms):
            return [f"rounded output spike times {problem}"]
        with np.errstate(over="ignore"):
            expected = self.spike_time_ms.astype(np.float16)
        if self.exact_times and not np.array_equal(expected, rounded):
            return ["exact output spike times do not round to the listed ones"]
        return []
