"""The part of a data file that is read on opening: all but events, voltages and weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from surrogate.datasets.header import Header
from surrogate.datasets.layout import (
    ARRAYS,
    FORMAT,
    MAX_STEPS,
    MAX_TRIALS,
    SPLITS,
    STREAMED,
    VERSION,
    array_for,
)
from surrogate.datasets.storage import (
    array_of,
    attribute,
    float_attribute,
    integer_attribute,
    members,
)
from surrogate.errors import DataError, UsageError

__all__ = ["Content", "dataset_digest", "read_content"]


def dataset_digest(n_steps: int, dt_ms: float, tables: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hexadecimal, of everything that results depend on.

    Parameters
    ----------
    n_steps : int
    dt_ms : float
    tables : mapping of str to ndarray
        Every array of the file but those read in parts, which ``trial/digest`` covers.
    """
    sha = hashlib.sha256(f"{n_steps} {float(dt_ms)!r}\n".encode())
    for name in sorted(tables):
        table = tables[name]
        sha.update(f"{name} {table.dtype.str} {table.shape}\n".encode())
        sha.update(table.tobytes())
    return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class Content:
    """The content of a checked data file, without the arrays that are read in parts.

    Attributes
    ----------
    header : Header
    n_trials : int
    digest : str
    provenance : dict
    tables : dict of ndarray
        By name, each in the type of :data:`surrogate.datasets.layout.ARRAYS`.
    streamed : dict of h5py.Dataset
        The arrays that are read in parts.
    """

    header: Header
    n_trials: int
    digest: str
    provenance: dict[str, Any]
    tables: dict[str, np.ndarray]
    streamed: dict[str, h5py.Dataset]


def read_content(file: h5py.File, path: Path) -> Content:
    """Read and check an open data file, except the arrays that are read in parts.

    Raises
    ------
    DataError
        If the file is damaged, of another format or another version.
    """
    digest, provenance = _check_format(file, path)
    n_trials = integer_attribute(file, path, "n_trials", 1, MAX_TRIALS)
    n_steps = integer_attribute(file, path, "n_steps", 1, MAX_STEPS)
    dt_ms = float_attribute(file, path, "dt_ms")
    arrays = _arrays(file, path, {"trials": n_trials, "steps": n_steps})
    streamed = {
        name: array
        for name, array in arrays.items()
        if name in STREAMED or name.startswith("voltage/")
    }
    tables = {
        name: array[:].astype(array_for(name).type_for(array.dtype))
        for name, array in arrays.items()
        if name not in streamed
    }
    if dataset_digest(n_steps, dt_ms, tables) != digest:
        raise DataError(
            f"{path}: its tables do not match its digest; the file is damaged, get or convert it "
            "again"
        )
    try:
        header = Header.from_arrays(tables, streamed, n_steps, dt_ms)
    except UsageError as error:
        raise DataError(f"{path}: {error}; convert the file again") from error
    _check_tables(tables, streamed["input/gap"].shape[0], path)
    return Content(header, n_trials, digest, provenance, tables, streamed)


def _check_format(file: h5py.File, path: Path) -> tuple[str, dict[str, Any]]:
    """The digest and the provenance of a finished file of this format and version."""
    found = attribute(file, "format")
    if found != FORMAT:
        raise DataError(
            f"{path}: attribute format is {found!r}, expected {FORMAT!r}; "
            f"convert it first: surrogate data convert {path.name} --out converted.h5"
        )
    version = integer_attribute(file, path, "version", 1, 2**31)
    if version != VERSION:
        cure = "update surrogate-neuron" if version > VERSION else "convert its sources again"
        raise DataError(
            f"{path}: format version {version}, this program reads version {VERSION}; {cure}"
        )
    digest, provenance = attribute(file, "digest"), attribute(file, "provenance")
    if not isinstance(digest, str) or not isinstance(provenance, str):
        raise DataError(f"{path}: the conversion was never finished; convert it again")
    origin = json.loads(provenance)
    if not isinstance(origin, dict):
        raise DataError(f"{path}: attribute provenance is no JSON object; convert it again")
    return digest, origin


def _arrays(file: h5py.File, path: Path, sizes: dict[str, int]) -> dict[str, h5py.Dataset]:
    """Every array of the file, checked to have the type and shape of the format."""
    groups = array_of(file, path, "group/size", ARRAYS["group/size"], sizes)[:]
    sizes = {**sizes, "groups": groups.size, "inputs": int(groups.sum())}
    names = [name for name, array in ARRAYS.items() if array.required or name in file]
    names += [f"voltage/{name}" for name in {"soma", *members(file, path, "voltage")}]
    names += [f"segment/{name}" for name in members(file, path, "segment")]
    return {name: array_of(file, path, name, array_for(name), sizes) for name in names}


def _check_tables(tables: Mapping[str, np.ndarray], n_events: int, path: Path) -> None:
    spikes = [
        tables[name]
        for name in ("output/spike_time_ms", "output/rounded_spike_time_ms")
        if name in tables
    ]
    ends = [("input/trial_ptr", n_events), *(("output/trial_ptr", one.size) for one in spikes)]
    if "input/silenced" in tables or "input/silenced_ptr" in tables:
        ends.append(("input/silenced_ptr", tables.get("input/silenced", np.zeros(0)).size))
    for name, end in ends:
        pointers = tables.get(name, np.zeros(1))
        if pointers[0] != 0 or pointers[-1] != end or (np.diff(pointers) < 0).any():
            raise DataError(f"{path}: {name} does not rise from 0 to {end}; convert the file again")
    for times in spikes:
        if not (np.isfinite(times).all() and (times >= 0).all()):
            raise DataError(
                f"{path}: output spike times are not finite and positive; convert it again"
            )
    if not np.isin(tables.get("trial/split", []), np.array(SPLITS, "S5")).all():
        raise DataError(f"{path}: trial/split names an unknown split; convert it again")
