"""HDF5 files to test readers with."""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from surrogate.datasets.content import dataset_digest, provenance_digest
from surrogate.datasets.layout import STREAMED


def resealed(file: h5py.File) -> None:
    """Make the digests that the tables and the provenance of ``file`` have now."""
    tables = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and name not in STREAMED and "voltage/" not in name:
            tables[name] = item[:]

    file.visititems(add)
    digest = dataset_digest(int(file.attrs["n_steps"]), float(file.attrs["dt_ms"]), tables)
    file.attrs["digest"] = np.bytes_(digest)
    origin = file.attrs["provenance"].decode()
    file.attrs["provenance_digest"] = np.bytes_(provenance_digest(origin))


def zeros(
    file: h5py.File, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str
) -> h5py.Dataset:
    """Put zeros in place of the array ``name``, all its chunks from one that is packed once."""
    if name in file:
        del file[name]
    made = file.create_dataset(name, shape, dtype, chunks=chunks, compression="gzip", shuffle=True)
    packed = zlib.compress(bytes(int(np.prod(chunks)) * made.dtype.itemsize), 9)
    for place in np.ndindex(*(-(-size // step) for size, step in zip(shape, chunks, strict=True))):
        made.id.write_direct_chunk(tuple(np.multiply(place, chunks).tolist()), packed)
    return made


def write_l5pc(path: Path, **changes: Any) -> Path:
    """A file of the form ``l5pc-spikes``: 3 trials of 300 ms, 4 segments; ``changes`` by name.

    A name is an attribute's, or an array's with "__" for "/".
    """
    rng = np.random.default_rng(0)
    trials, steps, segments = 3, 300, 4
    active = rng.random((trials * steps, 2 * segments)) < 0.05
    voltage = rng.normal(-65, 3, (trials, steps)).astype(np.float16)
    times = np.sort(rng.integers(40, 2360, (trials, 4)), axis=1).ravel() / 8
    content = {
        "dt_ms": 1.0,
        "format": "l5pc-spikes",
        "n_excitatory": segments,
        "n_inputs": 2 * segments,
        "n_steps": steps,
        "n_trials": trials,
        "source": "Hay et al. 2011",
        "version": 1,
        "input/channel": np.nonzero(active)[1].astype(np.uint16),
        "input/row_ptr": np.concatenate([[0], active.sum(1).cumsum()]),
        "input/weight": rng.random((trials, 2 * segments), np.float32),
        "soma_voltage_mV": voltage,
        "nexus_voltage_mV": voltage,
        "output/spike_time_ms": times.astype(np.float32),
        "output/spike_time_ms_float16_rounded": times.astype(np.float16).astype(np.float32),
        "output/trial_ptr": np.arange(trials + 1) * 4,
        "trial/source": np.array([[7, index] for index in range(trials)]),
        "segment/allSegmentsType": np.array([b"basal"] * segments, "S8"),
        "segment/allSegmentsLength": np.linspace(10, 30, segments),
        "segment/allSegments_DistFromSoma": np.linspace(10, 300, segments),
        "segment/allSegments_SectionInd": np.arange(segments, dtype=float),
    }
    content |= {name.replace("__", "/"): value for name, value in changes.items()}
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            if isinstance(value, np.ndarray):
                packed = {"compression": "gzip", "shuffle": True} if value.size > 99 else {}
                file.create_dataset(name, data=value, **packed)
            else:
                file.attrs[name] = value
    return path


def die_while_writing(path: str) -> None:
    """Open the data file ``path`` for writing and end without closing it."""
    file = h5py.File(path, "r+", libver=("v110", "v110"))
    file.flush()
    os._exit(0)


if __name__ == "__main__":
    die_while_writing(sys.argv[1])
