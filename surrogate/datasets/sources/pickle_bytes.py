"""The bytes of a pickle, read in pieces."""

from __future__ import annotations

from typing import BinaryIO, NoReturn

__all__ = ["PickleBytes", "UnsafePickleError", "most_unpacked"]

_CHUNK = 1 << 18
# A public pickle unpacks to 9 times its size, and each of these bytes becomes 2 bytes of values;
# written by Python 3, it is up to 13 and 22.
_LEAST_BYTES, _MOST_RATIO = 1 << 26, 40
_LEAST_MEMORY, _RATIO, _MEMORY_RATIO = 1 << 28, 13, 24


class UnsafePickleError(Exception):
    """The pickle is damaged, or wants something that no data file needs."""


def most_unpacked(file_bytes: int) -> int:
    """Bytes that a public file of this size unpacks to at most."""
    return max(_LEAST_BYTES, _MOST_RATIO * file_bytes)


class PickleBytes:
    """A window on ``stream`` that moves forward; errors name the byte.

    ``file_bytes`` is the size of the file, compressed or not: it limits what may come of it.
    """

    def __init__(self, stream: BinaryIO, file_bytes: int) -> None:
        self._stream = stream
        self._file_bytes = file_bytes
        self._most_bytes = most_unpacked(file_bytes)
        self._buffer = b""
        self._position = 0
        self._before = 0
        self._memory = 0

    @property
    def offset(self) -> int:
        """Bytes of the pickle consumed so far."""
        return self._before + self._position

    def _refuse(self, what: str) -> NoReturn:
        raise UnsafePickleError(f"byte {self.offset} asks for {what}")

    def _require_memory(self, more: int = 0) -> None:
        """Refuse a pickle whose values and ``more`` bytes take more than those of a data file.

        Called for each piece of the stream; the values of one piece take 25 MB at most.
        """
        most = _LEAST_MEMORY + _MEMORY_RATIO * min(self.offset, _RATIO * self._file_bytes)
        if self._memory + more > most:
            self._refuse(f"more than {most >> 20} MiB of memory")

    def _fill(self, size: int) -> bool:
        """Have ``size`` bytes in the buffer, if the stream has them."""
        self._require_memory()
        rest = [self._buffer[self._position :]]
        have = len(rest[0])
        self._before += self._position
        self._position = 0
        # Read in pieces: a damaged file may state a length that cannot be allocated.
        while have < size and (piece := self._stream.read(_CHUNK)):
            rest.append(piece)
            have += len(piece)
            if self._before + have > self._most_bytes + _CHUNK:
                self._refuse(f"more than {self._most_bytes >> 20} MiB unpacked")
        self._buffer = b"".join(rest)
        return have >= size

    def _take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._buffer):
            if not self._fill(size):
                raise UnsafePickleError(f"is cut off at byte {self.offset + len(self._buffer)}")
            end = size
        taken = self._buffer[self._position : end]
        self._position = end
        return taken

    def _skip(self, size: int) -> None:
        self._memory += 32  # none, but a file of nothing else has to end
        self._take(size)

    def _line(self) -> str:
        end = self._buffer.find(b"\n", self._position, self._position + 256)
        if end < 0:
            self._fill(256)
            end = self._buffer.find(b"\n", self._position, self._position + 256)
        if end < 0:
            self._refuse("a name that does not end")
        return self._take(end + 1 - self._position)[:-1].decode("utf-8")
