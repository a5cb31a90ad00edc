"""Opens HDF5 that may be damaged or hostile: whatever is wrong with it is one line.

HDF5 follows links into other files, runs plug-ins as filters and unpacks kilobytes to gigabytes.
So each array is checked before a byte of it is read: it must be plain, lie in this file, be packed
by known filters in small chunks, and have the type and shape that the format promises.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from surrogate.datasets.layout import MAX_CHUNK_BYTES, Array, expected_shape, is_name
from surrogate.errors import DataError
from surrogate.files import check_is_file, explain_os_error
from surrogate.validated import short

__all__ = ["Hdf5File", "StoredArray", "reading"]

#: A group with more arrays is not one of these formats.
_MAX_MEMBERS = 64
#: What arrays that are read as a whole may take in memory, or a multiple of the file's size.
_LEAST_TABLES, _TABLES_RATIO = 128 << 20, 4
_MAX_TEXT = 64

_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
_LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)

# The type of h5py's error depends on which bytes are damaged.
_DAMAGE = (
    OSError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    ValueError,
    TypeError,
    AttributeError,
    MemoryError,
)


@contextlib.contextmanager
def reading(path: Path, name: str = "") -> Iterator[None]:
    """Turn what h5py raises in reading ``name`` of ``path`` into a :class:`DataError`."""
    try:
        yield
    except _DAMAGE as error:
        raise _explained(error, path, name) from error


def _explained(error: BaseException, path: Path, name: str) -> DataError:
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EISDIR, errno.EIO):
        return explain_os_error(error, path)
    reason = " ".join(str(error).split())[:150] or type(error).__name__
    what = f"{path}: {name}" if name else str(path)
    if isinstance(error, MemoryError):
        return DataError(f"{what}: not enough memory to read it ({reason}); free some")
    if "already open for" in reason:  # HDF5's mark in the file itself
        return DataError(
            f"{path}: is open for writing elsewhere, or the program that wrote it ended without "
            "closing it; close it there, or get or convert the file again"
        )
    return DataError(f"{what}: damaged HDF5 ({reason}); get or convert the file again")


class StoredArray:
    """An array of a file, checked when it was opened, that is read in parts."""

    def __init__(self, dataset: h5py.Dataset, path: Path, name: str) -> None:
        self.shape, self.nbytes = dataset.shape, dataset.size * dataset.dtype.itemsize
        self._dataset, self._path, self._name = dataset, path, name

    def __getitem__(self, part: Any) -> np.ndarray:
        """These elements; DataError if their bytes are damaged."""
        try:
            return self._dataset[part]
        except _DAMAGE as error:
            raise _explained(error, self._path, self._name) from error


class Hdf5File:
    """An HDF5 file, open for reading. A context manager.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DataError
        If there is no such file, it may not be read, somebody is writing to it, or it is not HDF5.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._n_bytes = _size_unless_written(path)
        if not self._n_bytes:
            raise DataError(f"{path}: the file is empty; convert it again")
        if not h5py.is_hdf5(path):
            raise DataError(
                f"{path}: not an HDF5 file; convert it first: "
                f"surrogate data convert {path.name} --out {path.stem}.h5"
            )
        # With locks a file on a read-only or network share cannot be opened.
        with reading(path):
            try:
                self._file = h5py.File(path, "r", locking=False)
            except OSError as error:
                if "locking flag" not in str(error):  # this process has it open with locks
                    raise
                self._file = h5py.File(path, "r")

    def __enter__(self) -> Hdf5File:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading from it or its arrays afterwards is an error."""
        self._file.close()

    def attribute(self, name: str, most_bytes: int = _MAX_TEXT) -> str | int | float | None:
        """The attribute ``name``; None if it is absent, longer than ``most_bytes`` or no such kind.

        Strings of variable length are of no such kind: they lie in the one part of HDF5 that has
        no checksum, and damaged ones have crashed the library and kept it busy for ever.
        """
        with reading(self.path, f"attribute {name}"):
            if not h5py.h5a.exists(self._file.id, name.encode()):
                return None
            stored = h5py.h5a.open(self._file.id, name.encode())
            if stored.shape != () or not _is_plain(stored.get_type(), most_bytes):
                return None
            value = self._file.attrs[name]
            return value.decode("utf-8") if isinstance(value, bytes) else value.item()

    def integer(self, name: str, low: int, high: int) -> int:
        """The attribute ``name``; DataError unless it is a whole number in ``low..high``."""
        value = self.attribute(name)
        if not isinstance(value, int) or not low <= value <= high:
            raise DataError(
                f"{self.path}: attribute {name} is {short(value)}, expected a whole number in "
                f"{low}..{high}; get or convert the file again"
            )
        return value

    def number(self, name: str) -> float:
        """The attribute ``name``; DataError unless it is a finite number."""
        value = self.attribute(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(
                f"{self.path}: attribute {name} is {short(value)}, expected a number; "
                "get or convert the file again"
            )
        return float(value)

    def members(self, name: str) -> list[str]:
        """Names of what the group ``name`` of this file holds; none if there is no such group."""
        with reading(self.path, name):
            group = self._find(name)
            if not isinstance(group, h5py.h5g.GroupID):
                return []
            found = group.get_num_objs()
            names = [] if found > _MAX_MEMBERS else sorted(h5py.Group(group))
        if found > _MAX_MEMBERS:
            raise DataError(f"{self.path}: {name} holds {found} arrays; convert the file again")
        for member in names:
            if not is_name(member):
                raise DataError(
                    f"{self.path}: {name} holds {short(member)}, which is no name of an array; "
                    "convert the file again"
                )
        return names

    def has(self, name: str) -> bool:
        """Whether there is anything of this name, were it a link elsewhere."""
        group, _, last = name.rpartition("/")
        with reading(self.path, name):
            holder = self._find(group) if group else self._file.id
            return isinstance(holder, h5py.h5g.GroupID) and holder.links.exists(last.encode())

    def array(
        self, name: str, form: Array, sizes: Mapping[str, int], *, cache_bytes: int = 1 << 20
    ) -> StoredArray:
        """The array ``name``, of which ``cache_bytes`` of decompressed chunks stay in memory.

        Raises
        ------
        DataError
            If it is absent, has not the type and shape of ``form``, or is stored in a way that
            could reach another file, run other code or unpack to more than it declares.
        """
        with reading(self.path, name):
            # Opened once: of a dataset that is open already HDF5 gives the cache that it has.
            access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
            access.set_chunk_cache(10_007, cache_bytes, 0.75)
            found = self._find(name, access)
            if not isinstance(found, h5py.h5d.DatasetID):
                problem: str | None = "is missing or not stored in the file"
            else:
                dataset = h5py.Dataset(found, readonly=True)
                problem = (
                    _foreign_storage(dataset)
                    or _wrong_form(dataset, form, sizes)
                    or _false_size(dataset, self._n_bytes)
                )
            if problem is None:
                return StoredArray(dataset, self.path, name)
        raise DataError(f"{self.path}: {name} {problem}; get or convert the file again")

    def read_whole(self, arrays: Mapping[str, StoredArray]) -> dict[str, np.ndarray]:
        """What ``arrays`` hold.

        Raises
        ------
        DataError
            If they would take much more memory than those of a genuine file of this size.
        """
        total = sum(array.nbytes for array in arrays.values())
        most = max(_LEAST_TABLES, _TABLES_RATIO * self._n_bytes)
        if total > most:
            raise DataError(
                f"{self.path}: its tables take {total / 1e6:,.0f} MB, more than the "
                f"{most / 1e6:,.0f} MB that a file of {self._n_bytes / 1e6:,.1f} MB can need; "
                "get or convert the file again"
            )
        return {name: array[:] for name, array in arrays.items()}

    def _find(self, name: str, access: Any = None) -> Any:
        """The object ``name``, reached over hard links alone; None if there is none."""
        found: Any = self._file.id
        for part in name.encode().split(b"/"):
            if (
                not isinstance(found, h5py.h5g.GroupID)
                or not found.links.exists(part)
                or found.links.get_info(part).type != h5py.h5l.TYPE_HARD
            ):
                return None
            is_array = h5py.h5o.get_info(found, part).type == h5py.h5o.TYPE_DATASET
            found = h5py.h5d.open(found, part, access) if is_array else h5py.h5o.open(found, part)
        return found


def _size_unless_written(path: Path) -> int:
    """Size of the file in bytes; DataError if it cannot be read or is being written."""
    check_is_file(path)
    try:
        with path.open("rb") as handle:
            handle.read(1)
            # Who writes HDF5 holds an exclusive lock. Some file systems have no locks.
            with contextlib.suppress(OSError):
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise DataError(
                        f"{path}: is open for writing elsewhere; close it there, or wait"
                    ) from None
            return os.fstat(handle.fileno()).st_size
    except OSError as error:
        raise explain_os_error(error, path) from error


def _is_plain(stored: h5py.h5t.TypeID, most_bytes: int) -> bool:
    """Whether a type is a plain number or a text of fixed length."""
    if stored.committed():
        return False
    if stored.get_class() == h5py.h5t.STRING:
        return not stored.is_variable_str() and stored.get_size() <= most_bytes
    return stored.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) and stored.get_size() <= 8


def _foreign_storage(dataset: h5py.Dataset) -> str | None:
    """Says in what way a dataset is not stored in this file by known filters; None if it is."""
    made = dataset.id.get_create_plist()
    if made.get_layout() not in _LAYOUTS or made.get_external_count():
        return "is not stored in the file but refers to others"
    for index in range(made.get_nfilters()):
        if (code := made.get_filter(index)[0]) not in _FILTERS:
            return f"is packed by HDF5's filter {code}, expected deflate, shuffle or fletcher32"
    return None


def _wrong_form(dataset: h5py.Dataset, form: Array, sizes: Mapping[str, int]) -> str | None:
    if not _is_plain(dataset.id.get_type(), _MAX_TEXT) or not form.admits(dataset.dtype):
        kind = dataset.dtype if _is_plain(dataset.id.get_type(), 1 << 30) else "another kind"
        return f"is of type {kind}, expected {form.dtype.replace(' ', ' or ')}"
    wanted, shape = expected_shape(form, sizes), dataset.shape or ()
    if len(shape) != len(wanted) or any(
        want not in (None, have) for want, have in zip(wanted, shape, strict=True)
    ):
        promised = ", ".join(str(n) for n in form.shape)
        return f"has shape {short(shape)}, expected ({promised}) = {wanted}"
    return None


def _false_size(dataset: h5py.Dataset, n_bytes: int) -> str | None:
    """Says how the file cannot hold what a dataset declares; None if it can.

    Deflate packs at most 1032 to 1. A chunk may unpack to more than its size, and HDF5 makes room
    for all of it; a small one cannot unpack to much.
    """
    declared, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if stored > n_bytes or declared > 1100 * stored + 65_536:
        return f"of shape {dataset.shape} is not filled"
    if dataset.chunks is None:
        return None
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if size > MAX_CHUNK_BYTES:
        return f"is stored in chunks of {size:,} bytes, expected at most {MAX_CHUNK_BYTES:,}"

    def beyond(chunk: Any) -> bool | None:
        # What does not shrink takes hardly more than it is long.
        most = size + size // 64 + 64
        sound = chunk.size <= most and chunk.byte_offset + chunk.size <= n_bytes
        return None if sound else True

    if dataset.id.chunk_iter(beyond):
        return "has a chunk that is larger than it should be or ends past the file"
    return None
