"""A file that HDF5 can write to when the disk is full."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

__all__ = ["Sink"]


class Sink(io.RawIOBase):
    """A new file for ``h5py.File(sink, "w")`` whose writes never fail for HDF5.

    When a write fails, HDF5 1.14 prints a page for each of its objects and may crash on closing
    the file. This file keeps the first error for :meth:`check` instead, and from then on keeps
    what is written in memory, so that HDF5 reads back what it wrote and closes cleanly.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = io.FileIO(path, "w+")
        self._error: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the first error met in writing, if there was one."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close the file; what could not be written is lost."""
        self._file.close()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """As of any file; the first error is kept for :meth:`check`."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return self.tell() if size is None else size

    def write(self, data: Any) -> int:
        """Write all of ``data``, to the disk or, after an error, to the memory."""
        start, content = self.tell(), bytes(data)
        written = 0
        try:
            while written < len(content) and self._error is None:
                written += self._file.write(content[written:])
        except OSError as error:
            self._error = error
        if written < len(content):
            self._unwritten.append((start + written, content[written:]))
            self.seek(start + len(content))
        return len(content)

    def readinto(self, target: Any) -> int:
        """Fill ``target`` with what was last written here, on the disk or in memory."""
        start, size = self.tell(), len(target)
        found = self._file.readinto(target) or 0
        target[found:] = bytes(size - found)
        for offset, content in self._unwritten:
            low, high = max(offset, start), min(offset + len(content), start + size)
            if low < high:
                target[low - start : high - start] = content[low - offset : high - offset]
        return size
