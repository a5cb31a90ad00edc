"""What all trials of a data file share: bins, channels, segments, and what is recorded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from surrogate.channels import ChannelGroup, Channels
from surrogate.datasets.layout import (
    MAX_SEGMENTS,
    MAX_STEPS,
    MAX_TRIAL_SAMPLES,
    array_for,
    is_name,
)
from surrogate.errors import UsageError

__all__ = ["Header"]

#: Least and most of columns whose meaning is known, in um.
_RANGES = {"length_um": (1e-3, 1e6), "distance_um": (0.0, 1e6)}


@dataclass(frozen=True, eq=False)
class Header:
    """What all trials of a file share.

    Attributes
    ----------
    n_steps : int
        Bins per trial.
    channels : Channels
        The input channels.
    dt_ms : float
        Length of a bin, ms.
    segments : mapping of str to ndarray
        Columns of the segment table, one row per dendritic segment; empty if there is none. Numbers
        or ASCII text of up to 32 characters. ``distance_um`` is the distance from the soma.
    voltages : tuple of str
        Names of the voltages recorded in each trial, "soma" first.
    amplitudes, weights : bool
        Whether each event has an amplitude, and each channel a weight.
    rounded_times : bool
        Whether the output spike times are also stored as a source rounds them.

    Raises
    ------
    UsageError
        If a field is out of its range or two contradict each other.
    """

    n_steps: int
    channels: Channels
    dt_ms: float
    segments: Mapping[str, np.ndarray] = field(default_factory=dict)
    voltages: tuple[str, ...] = ("soma",)
    amplitudes: bool = False
    weights: bool = False
    rounded_times: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.n_steps, int | np.integer) or not 1 <= self.n_steps <= MAX_STEPS:
            raise UsageError(f"n_steps is {self.n_steps!r}: expected 1 to {MAX_STEPS} bins")
        if not (math.isfinite(self.dt_ms) and 1e-3 <= self.dt_ms <= 1e3):
            raise UsageError(f"dt_ms is {self.dt_ms!r}: expected bins of 0.001 to 1000 ms")
        if "soma" not in self.voltages:
            raise UsageError(f"voltages are {', '.join(self.voltages)}: soma is missing")
        if self.n_steps * len(self.voltages) > MAX_TRIAL_SAMPLES:
            raise UsageError(
                f"trials of {self.n_steps} bins with {len(self.voltages)} voltages: expected at "
                f"most {MAX_TRIAL_SAMPLES} samples together; cut them into shorter trials"
            )
        further = sorted(set(self.voltages) - {"soma"})
        for name in (*further, *self.segments):
            if not is_name(name):
                raise UsageError(
                    f"{name!r} is no name for a voltage or a column of segments: expected a letter "
                    "and up to 31 letters, digits, - or _"
                )
        columns = {name: _column(name, column) for name, column in self.segments.items()}
        rows = {column.size for column in columns.values()} or {0}
        if len(rows) > 1:
            raise UsageError(f"segment columns have {sorted(rows)} rows: expected equally many")
        last = self.channels.last_segment
        if last >= min(rows):
            raise UsageError(
                f"a channel lies on segment {last}, the segment table has {min(rows)} rows: "
                f"expected at least {last + 1}"
            )
        object.__setattr__(self, "voltages", ("soma", *further))
        object.__setattr__(self, "segments", columns)

    @property
    def n_inputs(self) -> int:
        """Number of input channels."""
        return self.channels.size

    @property
    def duration_ms(self) -> float:
        """Length of a trial, ms."""
        return self.n_steps * self.dt_ms

    @property
    def latest_ms(self) -> float:
        """Where a spike at the end of a trial comes to lie when its time is rounded to float16."""
        return self.duration_ms * (1 + 2**-10)

    def difference(self, other: Header) -> str | None:
        """The first difference of ``other``, in words; None if both describe one kind of trial."""
        for name in ("n_steps", "dt_ms", "n_inputs", "amplitudes", "weights"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} is {theirs}, not {mine}"
        if self.channels != other.channels:
            return "the channel groups differ"
        if self.segments.keys() != other.segments.keys():
            return f"the segments have columns {', '.join(other.segments) or 'none'}"
        for column, values in self.segments.items():
            if not np.array_equal(values, other.segments[column]):
                return f"the segments differ in {column}"
        return None

    def in_common(self, other: Header) -> Header:
        """This header, with only those optional parts that ``other`` has too."""
        return dataclasses.replace(
            self,
            voltages=tuple(name for name in self.voltages if name in other.voltages),
            rounded_times=self.rounded_times and other.rounded_times,
        )

    def tables(self) -> dict[str, np.ndarray]:
        """The channel groups and the segment table as the file holds them, by array name."""
        groups = self.channels.groups
        tables = {
            f"group/{column}": np.array([getattr(group, column) for group in groups])
            for column in ("name", "kind", "sign", "size")
        }
        if self.channels.last_segment >= 0:
            places = [group.segments or [-1] * group.size for group in groups]
            tables["channel/segment"] = np.concatenate(places)
        tables |= {f"segment/{name}": column for name, column in self.segments.items()}
        return {name: _as_stored(name, table) for name, table in tables.items()}

    @classmethod
    def from_arrays(
        cls,
        tables: Mapping[str, np.ndarray],
        streamed: Iterable[str],
        n_steps: int,
        dt_ms: float,
    ) -> Header:
        """The header from the arrays of a file.

        Parameters
        ----------
        tables : mapping of str to ndarray
            What is read as a whole.
        streamed : iterable of str
            Names of the arrays that are read in parts.
        n_steps, dt_ms
            As the attributes.

        Raises
        ------
        UsageError
            As for the class.
        """
        sizes = tables["group/size"].tolist()
        places = tables.get("channel/segment")
        groups, start = [], 0
        for index, size in enumerate(sizes):
            segments = None if places is None else tuple(places[start : start + size].tolist())
            groups.append(
                ChannelGroup(
                    tables["group/name"][index].decode("ascii"),
                    size,
                    tables["group/kind"][index].decode("ascii"),
                    int(tables["group/sign"][index]),
                    None if segments is None or set(segments) == {-1} else segments,
                )
            )
            start += size
        return cls(
            n_steps=n_steps,
            channels=Channels(groups),
            dt_ms=dt_ms,
            segments={
                name.removeprefix("segment/"): table
                for name, table in tables.items()
                if name.startswith("segment/")
            },
            voltages=tuple(
                name.removeprefix("voltage/") for name in streamed if name.startswith("voltage/")
            ),
            amplitudes="input/amplitude" in streamed,
            weights="input/weight" in streamed,
            rounded_times="output/rounded_spike_time_ms" in tables,
        )


def _as_stored(name: str, values: np.ndarray) -> np.ndarray:
    """``values`` in the stored type of the array ``name``."""
    return values.astype(array_for(name).type_for(values.dtype) or array_for(name).dtype)


def _column(name: str, values: np.ndarray) -> np.ndarray:
    """A column of the segment table: float64, int64 or text."""
    column = np.asarray(values)
    if column.ndim != 1 or array_for(f"segment/{name}").type_for(column.dtype) is None:
        raise UsageError(
            f"segment column {name} is of type {column.dtype} and shape {column.shape}: expected a "
            "number or a text for each segment"
        )
    if column.size > MAX_SEGMENTS:
        raise UsageError(f"{column.size} segments: expected at most {MAX_SEGMENTS}")
    if column.dtype.kind not in "SU":
        column = _as_stored(f"segment/{name}", column)
        low, high = _RANGES.get(name, (-1e30, 1e30))
        bad = np.flatnonzero(~((column >= low) & (column <= high)))
        if bad.size:
            raise UsageError(
                f"segment column {name} is {column[bad[0]]:g} in row {bad[0]}: expected "
                f"{low:g} to {high:g}"
            )
        return column
    if column.dtype.kind == "S":
        column = np.char.decode(column, "ascii", "replace")
    if not all(
        entry.isascii() and entry.isprintable() and len(entry) <= 32 for entry in column.tolist()
    ):
        raise UsageError(
            f"segment column {name} holds other than ASCII text of up to 32 printable characters"
        )
    return column
