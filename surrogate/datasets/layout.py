"""Names, types and limits of the data file, which ``docs/data-format.md`` describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ARRAYS",
    "CHUNK_EVENTS",
    "FORMAT",
    "MAX_CHUNK_BYTES",
    "MAX_INPUTS",
    "MAX_STEPS",
    "MAX_TRIALS",
    "SEGMENT_COLUMNS",
    "SPLITS",
    "VERSION",
    "Array",
    "expected_shape",
]

FORMAT = "surrogate-spikes"
VERSION = 1
SPLITS = ("train", "valid", "test")

#: Events per chunk: a window of 1000 ms (about 14,000 events) decompresses two chunks of 32 kB.
#: Chunks of 65,536 would be 0.2 % smaller on disk and decompress four times as much.
CHUNK_EVENTS = 16_384

# Beyond these a file is damaged or hostile, and reading its tables would exhaust the memory.
MAX_INPUTS = 32_767  # channels are int16 in a batch
MAX_STEPS = 10_000_000
MAX_TRIALS = 10_000_000
MAX_CHUNK_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Array:
    """One array of the file: its type, its shape in named dimensions, and if it must be there."""

    dtype: str
    shape: tuple[str | int, ...]
    required: bool = True


ARRAYS: Mapping[str, Array] = {
    "input/gap": Array("<u2", ("events",)),
    "input/count": Array("<u2", ("trials", "steps")),
    "input/trial_ptr": Array("<i8", ("trials+1",)),
    "input/silenced": Array("<u2", ("silenced",)),
    "input/silenced_ptr": Array("<i8", ("trials+1",)),
    "output/spike_time_ms": Array("<f4", ("spikes",)),
    "output/spike_time_ms_float16_rounded": Array("<f4", ("spikes",)),
    "output/trial_ptr": Array("<i8", ("trials+1",)),
    "soma_voltage_mV": Array("<f2", ("trials", "steps")),
    "trial/source": Array("<i8", ("trials", 2)),
    "trial/digest": Array("|u1", ("trials", 32)),
    "trial/exact_times": Array("|u1", ("trials",)),
    "trial/split": Array("|S5", ("trials",), required=False),
    "segment/type": Array("|S16", ("segments",)),
    "segment/length_um": Array("<f8", ("segments",)),
    "segment/distance_um": Array("<f8", ("segments",)),
    "segment/section": Array("<i8", ("segments",)),
}

SEGMENT_COLUMNS = ("type", "length_um", "distance_um", "section")


def expected_shape(array: Array, sizes: Mapping[str, int]) -> tuple[Any, ...]:
    """``array.shape`` in numbers; ``None`` stands where a dimension is free."""
    known = {**sizes, "trials+1": sizes["trials"] + 1}
    return tuple(n if isinstance(n, int) else known.get(n) for n in array.shape)
