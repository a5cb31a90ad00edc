"""Recognises the files that a conversion can read, by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import h5py

from surrogate.datasets.header import Header
from surrogate.datasets.layout import FORMAT
from surrogate.datasets.reader import Dataset
from surrogate.datasets.sources.l5pc_hdf5 import L5PC_FORMAT, L5pcFile
from surrogate.datasets.sources.l5pc_pickle import (
    DAMAGED,
    PickleFile,
    looks_like_pickle,
    open_compressed,
)
from surrogate.datasets.storage import Hdf5File
from surrogate.datasets.trial import Trial
from surrogate.errors import DataError
from surrogate.files import check_is_file, explain_os_error
from surrogate.validated import short

__all__ = ["Source", "file_digest", "is_converted", "open_source"]


class Source(Protocol):
    """A file of trials of one neuron."""

    path: Path

    @property
    def header(self) -> Header: ...

    @property
    def description(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Trial]: ...

    def close(self) -> None: ...


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    check_is_file(path)
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise explain_os_error(error, path) from error


def is_converted(path: Path) -> bool:
    """Whether ``path`` is a data file of this program."""
    return _hdf5_format(path) == FORMAT


def open_source(path: Path) -> Source:
    """Open a public pickle (plain, xz, gzip or bzip2), its HDF5 form, or a data file of ours.

    Raises
    ------
    DataError
        If the file is none of these, or is damaged.
    """
    found = _hdf5_format(path)
    if found == FORMAT:
        return Dataset(path)
    if found == L5PC_FORMAT:
        return L5pcFile(path)
    return PickleFile(path)


def _hdf5_format(path: Path) -> str | None:
    """The format an HDF5 file names; None if the file is a pickle."""
    try:
        with open_compressed(path) as stream:
            start = stream.read(8)
    except (OSError, *DAMAGED) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise explain_os_error(error, path) from error
        raise DataError(f"{path}: damaged compression ({error}); get the file again") from error
    if not start:
        raise DataError(f"{path}: the file is empty; get it again")
    if looks_like_pickle(start):
        return None
    if not h5py.is_hdf5(path):
        raise DataError(
            f"{path}: starts with {start!r}, neither a pickle nor HDF5; give a public pickle file "
            "(plain, .xz, .gz or .bz2) or an HDF5 file of trials"
        )
    with Hdf5File(path) as file:
        found = file.attribute("format")
        if found == FORMAT:
            return FORMAT
        if L5pcFile.recognises(file):
            return L5PC_FORMAT
    raise DataError(
        f"{path}: HDF5 of format {short(found)}, expected {FORMAT!r} or {L5PC_FORMAT!r}; "
        "give a file that this program or the public data set wrote"
    )
