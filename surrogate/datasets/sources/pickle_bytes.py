"""The bytes of a pickle, read in pieces."""

from __future__ import annotations

from typing import BinaryIO, NoReturn

__all__ = ["PickleBytes", "UnsafePickleError"]

_CHUNK = 1 << 20


class UnsafePickleError(Exception):
    """The pickle is damaged, or wants something that no data file needs."""


class PickleBytes:
    """A window on ``stream`` that moves forward; errors name the byte."""

    def __init__(self, stream: BinaryIO, most_bytes: int) -> None:
        self._stream = stream
        self._most_bytes = most_bytes
        self._buffer = b""
        self._position = 0
        self._before = 0

    @property
    def offset(self) -> int:
        """Bytes of the pickle consumed so far."""
        return self._before + self._position

    def _refuse(self, what: str) -> NoReturn:
        raise UnsafePickleError(f"byte {self.offset} asks for {what}")

    def _fill(self, size: int) -> bool:
        """Have ``size`` bytes in the buffer, if the stream has them."""
        rest = [self._buffer[self._position :]]
        have = len(rest[0])
        self._before += self._position
        self._position = 0
        # Read in pieces: a damaged file may state a length that cannot be allocated.
        while have < size and (piece := self._stream.read(_CHUNK)):
            rest.append(piece)
            have += len(piece)
            if self._before + have > self._most_bytes + _CHUNK:
                self._refuse(f"more than {self._most_bytes} bytes")
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
        self._take(size)

    def _line(self) -> str:
        end = self._buffer.find(b"\n", self._position, self._position + 256)
        if end < 0:
            self._fill(256)
            end = self._buffer.find(b"\n", self._position, self._position + 256)
        if end < 0:
            self._refuse("a name that does not end")
        return self._take(end + 1 - self._position)[:-1].decode("utf-8")
