"""The part of a data file that is read on opening: all but events, voltages and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from surrogate.channels import MAX_CHANNELS
from surrogate.datasets.header import Header
from surrogate.datasets.layout import (
    ARRAYS,
    FORMAT,
    MAX_PROVENANCE,
    MAX_STEPS,
    MAX_TRIAL_EVENTS,
    MAX_TRIALS,
    SPLITS,
    STREAMED,
    VERSION,
    array_for,
)
from surrogate.datasets.storage import Hdf5File, StoredArray
from surrogate.datasets.trial import times_problem
from surrogate.errors import DataError, UsageError
from surrogate.stored import parse_json
from surrogate.validated import short

__all__ = ["Content", "dataset_digest", "provenance_digest", "read_content"]

#: Of these, which training reads, this much stays decompressed in memory: the bundled sample whole.
CACHE_BYTES = 32 * 1024 * 1024
_MAX_DEPTH = 100  # of a provenance: printing it takes several calls per level
_CACHED = ("input/gap", "input/count", "voltage/soma")


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


def provenance_digest(provenance: str) -> str:
    """SHA-256, in hexadecimal, of a provenance as the file holds it."""
    return hashlib.sha256(provenance.encode()).hexdigest()


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
    streamed : dict of StoredArray
        The arrays that are read in parts.
    """

    header: Header
    n_trials: int
    digest: str
    provenance: dict[str, Any]
    tables: dict[str, np.ndarray]
    streamed: dict[str, StoredArray]


def read_content(file: Hdf5File) -> Content:
    """Read and check an open data file, except the arrays that are read in parts.

    Raises
    ------
    DataError
        If the file is damaged, of another format or another version.
    """
    digest, provenance = _check_format(file)
    n_trials = file.integer("n_trials", 1, MAX_TRIALS)
    n_steps = file.integer("n_steps", 1, MAX_STEPS)
    dt_ms = file.number("dt_ms")
    arrays = _arrays(file, {"trials": n_trials, "steps": n_steps})
    streamed = {
        name: array
        for name, array in arrays.items()
        if name in STREAMED or name.startswith("voltage/")
    }
    tables = file.read_whole({name: arrays[name] for name in arrays.keys() - streamed.keys()})
    if dataset_digest(n_steps, dt_ms, tables) != digest:
        raise DataError(
            f"{file.path}: its tables do not match its digest; the file is damaged, get or convert "
            "it again"
        )
    try:
        header = Header.from_arrays(tables, streamed, n_steps, dt_ms)
    except UsageError as error:
        raise DataError(f"{file.path}: {error}; convert the file again") from error
    if problem := _table_problem(header, tables, streamed["input/gap"].shape[0]):
        raise DataError(f"{file.path}: {problem}; get or convert the file again")
    return Content(header, n_trials, digest, provenance, tables, streamed)


def _check_format(file: Hdf5File) -> tuple[str, dict[str, Any]]:
    """The digest and the provenance of a finished file of this format and version."""
    found = file.attribute("format")
    if found != FORMAT:
        raise DataError(
            f"{file.path}: attribute format is {short(found)}, expected {FORMAT!r}; "
            f"convert it first: surrogate data convert {file.path.name} --out converted.h5"
        )
    version = file.integer("version", 1, 2**31)
    if version != VERSION:
        cure = "update surrogate-neuron" if version > VERSION else "convert its sources again"
        raise DataError(
            f"{file.path}: format version {version}, this program reads version {VERSION}; {cure}"
        )
    digest, provenance = file.attribute("digest"), file.attribute("provenance", MAX_PROVENANCE)
    if not isinstance(digest, str) or not isinstance(provenance, str):
        raise DataError(f"{file.path}: the conversion was never finished; convert it again")
    if provenance_digest(provenance) != file.attribute("provenance_digest"):
        raise DataError(
            f"{file.path}: its provenance does not match its digest; the file is damaged, get or "
            "convert it again"
        )
    try:
        origin = parse_json(provenance)
    except ValueError as error:
        raise DataError(f"{file.path}: provenance: {error}; convert the file again") from error
    if not isinstance(origin, dict) or _depth(origin) > _MAX_DEPTH:
        raise DataError(
            f"{file.path}: attribute provenance is no JSON object nested at most {_MAX_DEPTH} "
            "deep; convert it again"
        )
    return digest, origin


def _depth(value: Any) -> int:
    """How deep lists and objects lie in each other."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        level = [
            part for item in level for part in (item.values() if isinstance(item, dict) else item)
        ]
        depth += 1
    return depth


def _arrays(file: Hdf5File, sizes: dict[str, int]) -> dict[str, StoredArray]:
    """Every array of the file, checked to have the type and shape of the format."""
    (groups,) = file.read_whole(
        {"group/size": file.array("group/size", ARRAYS["group/size"], sizes)}
    ).values()
    if groups.size > MAX_CHANNELS:
        raise DataError(
            f"{file.path}: {groups.size} channel groups, expected at most {MAX_CHANNELS}; "
            "convert the file again"
        )
    sizes = {**sizes, "groups": groups.size, "inputs": int(groups.sum())}
    names = [name for name, array in ARRAYS.items() if array.required or file.has(name)]
    names += [f"voltage/{name}" for name in {"soma", *file.members("voltage")}]
    names += [f"segment/{name}" for name in file.members("segment")]
    return {
        name: file.array(
            name, array_for(name), sizes, cache_bytes=CACHE_BYTES if name in _CACHED else 1 << 20
        )
        for name in names
    }


def _table_problem(header: Header, tables: Mapping[str, np.ndarray], n_events: int) -> str | None:
    """What no digest can make right: pointers and times that lead nowhere."""
    times = [
        tables[name]
        for name in ("output/spike_time_ms", "output/rounded_spike_time_ms")
        if name in tables
    ]
    ends = [("input/trial_ptr", n_events), *(("output/trial_ptr", one.size) for one in times)]
    if "input/silenced" in tables or "input/silenced_ptr" in tables:
        ends.append(("input/silenced_ptr", tables.get("input/silenced", np.zeros(0)).size))
    for name, end in ends:
        pointers = tables.get(name, np.zeros(1))
        if pointers[0] != 0 or pointers[-1] != end or (np.diff(pointers) < 0).any():
            return f"{name} does not rise from 0 to {end}"
    if (most := np.diff(tables["input/trial_ptr"]).max()) > MAX_TRIAL_EVENTS:
        return f"a trial has {most} input events, expected at most {MAX_TRIAL_EVENTS}"
    for one in times:
        if problem := times_problem(one, header.latest_ms, tables["output/trial_ptr"]):
            return f"output spike times {problem}"
    if not np.isin(tables.get("trial/split", []), np.array(SPLITS, "S5")).all():
        return "trial/split names an unknown split"
    return None
