"""Names, types and limits of the data file, which ``docs/data-format.md`` describes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "ARRAYS",
    "CHUNK_EVENTS",
    "CHUNK_STEPS",
    "FORMAT",
    "MAX_BATCH_EVENTS",
    "MAX_CHUNK_BYTES",
    "MAX_PROVENANCE",
    "MAX_SEGMENTS",
    "MAX_STEPS",
    "MAX_TRIALS",
    "MAX_TRIAL_EVENTS",
    "MAX_TRIAL_SAMPLES",
    "MAX_VOLTAGE_MV",
    "SPLITS",
    "STREAMED",
    "VERSION",
    "Array",
    "array_for",
    "expected_shape",
    "is_name",
]

FORMAT = "surrogate-spikes"
VERSION = 2
SPLITS = ("train", "valid", "test")

#: Events per chunk: a window of 1000 ms (about 14,000 events) decompresses two chunks of 32 kB.
#: Chunks of 65,536 would be 0.2 % smaller on disk and decompress four times as much.
CHUNK_EVENTS = 16_384
#: Bins per chunk of counts and voltages; shorter trials have one chunk each.
CHUNK_STEPS = 131_072

# A file with larger numbers is damaged or hostile, or would exhaust the memory.
MAX_STEPS = 10_000_000
MAX_TRIALS = 10_000_000
MAX_SEGMENTS = 100_000
#: Input events of a trial, and bins of all its voltages together.
MAX_TRIAL_EVENTS = MAX_TRIAL_SAMPLES = 1 << 25
#: Input events of a batch of windows, which take about 16 bytes each while they are read.
MAX_BATCH_EVENTS = 1 << 26
#: A deflated chunk of this size can unpack to 0.5 GB, whatever it declares.
MAX_CHUNK_BYTES = 1 << 19
#: Bytes of the attribute; 100,000 sources take less.
MAX_PROVENANCE = 1 << 24
#: No neuron's membrane comes near.
MAX_VOLTAGE_MV = 1000.0


@dataclass(frozen=True)
class Array:
    """One array of a file: its types, its shape in named dimensions, and if it must be there."""

    dtype: str
    shape: tuple[str | int, ...]
    required: bool = True

    def type_for(self, found: np.dtype) -> str | None:
        """The stored type of values of type ``found``; None if the array may not hold them."""
        kind = found.kind.replace("U", "S")
        return next((one for one in self.dtype.split() if np.dtype(one).kind == kind), None)

    def admits(self, found: np.dtype) -> bool:
        """Whether an array of type ``found`` may be read; a text may be shorter or longer."""
        types = self.dtype.split()
        if found.kind == "S":
            return found.itemsize <= 32 and any(np.dtype(one).kind == "S" for one in types)
        return found.str in types


ARRAYS: Mapping[str, Array] = {
    "group/name": Array("|S32", ("groups",)),
    "group/kind": Array("|S32", ("groups",)),
    "group/sign": Array("|i1", ("groups",)),
    "group/size": Array("<i8", ("groups",)),
    "channel/segment": Array("<i4", ("inputs",), required=False),
    "input/gap": Array("<u2", ("events",)),
    "input/count": Array("<u2", ("trials", "steps")),
    "input/trial_ptr": Array("<i8", ("trials+1",)),
    "input/amplitude": Array("<f4", ("events",), required=False),
    "input/weight": Array("<f4", ("trials", "inputs"), required=False),
    "input/silenced": Array("<u2", ("silenced",), required=False),
    "input/silenced_ptr": Array("<i8", ("trials+1",), required=False),
    "output/spike_time_ms": Array("<f8", ("spikes",)),
    "output/trial_ptr": Array("<i8", ("trials+1",)),
    "output/rounded_spike_time_ms": Array("<f4", ("spikes",), required=False),
    "trial/exact_times": Array("|u1", ("trials",), required=False),
    "trial/source": Array("<i8", ("trials", 2)),
    "trial/digest": Array("|u1", ("trials", 32)),
    "trial/split": Array("|S5", ("trials",), required=False),
}

#: Arrays that are written trial by trial and read in parts; besides them each ``voltage/<name>``.
STREAMED = ("input/gap", "input/count", "input/amplitude", "input/weight")

# Arrays whose names are the user's.
_VOLTAGE = Array("<f2", ("trials", "steps"))
_SEGMENT_COLUMN = Array("|S32 <f8 <i8", ("segments",))


def array_for(name: str) -> Array:
    """The format of the array ``name``: one of :data:`ARRAYS`, ``voltage/*`` or ``segment/*``."""
    if name.startswith("voltage/"):
        return _VOLTAGE
    return _SEGMENT_COLUMN if name.startswith("segment/") else ARRAYS[name]


def is_name(text: str) -> bool:
    """Whether a voltage or a column of the segment table may be called ``text``."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,31}", text) is not None


def expected_shape(array: Array, sizes: Mapping[str, int]) -> tuple[Any, ...]:
    """``array.shape`` in numbers; ``None`` stands where a dimension is free."""
    known = {**sizes, "trials+1": sizes["trials"] + 1}
    return tuple(n if isinstance(n, int) else known.get(n) for n in array.shape)
