"""Reads HDF5 that may be damaged or hostile: every failure is one line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from surrogate.datasets.layout import MAX_CHUNK_BYTES, Array, expected_shape
from surrogate.errors import DataError
from surrogate.files import check_is_file, explain_os_error

__all__ = [
    "array_of",
    "attribute",
    "float_attribute",
    "integer_attribute",
    "members",
    "open_hdf5",
    "reading",
]

#: A group with more arrays is not one of this format.
_MAX_MEMBERS = 256

# The type of h5py's error depends on which bytes are damaged.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what h5py raises on damaged bytes of ``path`` into a :class:`DataError`."""
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EISDIR, errno.EIO):
            raise explain_os_error(error, path) from error
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: damaged HDF5 ({reason}); get or convert the file again"
        ) from error


def open_hdf5(path: Path, *, cache_bytes: int = 1024 * 1024) -> h5py.File:
    """Open ``path`` read-only, with ``cache_bytes`` of decompressed chunks kept per array.

    Raises
    ------
    DataError
        If there is no such file, it may not be read, or it is not HDF5.
    """
    check_is_file(path)
    try:
        with path.open("rb") as handle:
            empty = not handle.read(1)
    except OSError as error:
        raise explain_os_error(error, path) from error
    if empty:
        raise DataError(f"{path}: the file is empty; convert it again")
    if not h5py.is_hdf5(path):
        raise DataError(
            f"{path}: not an HDF5 file; convert it first: "
            f"surrogate data convert {path.name} --out {path.stem}.h5"
        )
    # Without locking=False a file on a read-only or network share cannot be opened.
    with reading(path):
        return h5py.File(
            path, "r", locking=False, rdcc_nbytes=cache_bytes, rdcc_nslots=10_007, rdcc_w0=0.75
        )


def attribute(file: h5py.File, name: str, *, any_length: bool = False) -> Any:
    """The attribute ``name`` as str or number; None if it is absent or of another kind.

    Strings of variable length lie in the one part of HDF5 that has no checksum, and a damaged one
    can keep the library busy for ever. Our files have none; ``any_length`` is for those of others.
    """
    if name not in file.attrs:
        return None
    stored = file.attrs.get_id(name)
    kinds = "iufSO" if any_length else "iufS"
    if stored.dtype.kind not in kinds or stored.shape != ():
        return None
    value = file.attrs[name]
    return value.decode("utf-8") if isinstance(value, bytes) else value


def integer_attribute(file: h5py.File, path: Path, name: str, low: int, high: int) -> int:
    """The attribute ``name``, checked to be a whole number in ``low..high``."""
    value = attribute(file, name)
    if not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise DataError(
            f"{path}: attribute {name} is {value!r}, expected a whole number in {low}..{high}; "
            "get or convert the file again"
        )
    return int(value)


def float_attribute(file: h5py.File, path: Path, name: str) -> float:
    """The attribute ``name``, checked to be a number."""
    value = attribute(file, name)
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise DataError(
            f"{path}: attribute {name} is {value!r}, expected a number; "
            "get or convert the file again"
        )
    return float(value)


def members(file: h5py.File, path: Path, name: str) -> list[str]:
    """Names of what the group ``name`` of this file holds; none if there is no such group."""
    link: Any = file.get(name, getlink=True)
    group = file.get(name) if isinstance(link, h5py.HardLink) else None
    if not isinstance(group, h5py.Group):
        return []
    if len(group) > _MAX_MEMBERS:
        raise DataError(f"{path}: {name} holds {len(group)} arrays; convert the file again")
    return sorted(group)


def array_of(
    file: h5py.File, path: Path, name: str, array: Array, sizes: Mapping[str, int]
) -> h5py.Dataset:
    """The array ``name``, checked to be stored in this file with the type and shape promised.

    Raises
    ------
    DataError
        If it is absent, a link elsewhere, of another type or shape, or in absurdly large chunks.
    """
    link: Any = file.get(name, getlink=True)
    dataset = file.get(name) if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise DataError(f"{path}: {name} is missing or not stored in the file; convert it again")
    wanted = expected_shape(array, sizes)
    if len(dataset.shape) != len(wanted) or any(
        want not in (None, have) for want, have in zip(wanted, dataset.shape, strict=True)
    ):
        raise DataError(
            f"{path}: {name} has shape {dataset.shape}, expected "
            f"({', '.join(str(n) for n in array.shape)}) = {wanted}; convert it again"
        )
    if array.type_for(dataset.dtype) is None or dataset.dtype.itemsize > 64:
        raise DataError(
            f"{path}: {name} is of type {dataset.dtype}, expected {array.dtype}; convert it again"
        )
    # Deflate packs at most 1032 to 1: an array that claims more cannot be real.
    if dataset.size * dataset.dtype.itemsize > 1100 * dataset.id.get_storage_size() + 65_536:
        raise DataError(f"{path}: {name} of shape {dataset.shape} is not filled; convert it again")
    if dataset.chunks and np.prod(dataset.chunks) * dataset.dtype.itemsize > MAX_CHUNK_BYTES:
        raise DataError(
            f"{path}: {name} is stored in chunks of {dataset.chunks}, larger than "
            f"{MAX_CHUNK_BYTES} bytes; convert it again"
        )
    return dataset
