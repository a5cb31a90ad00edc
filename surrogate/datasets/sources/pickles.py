"""Reading a pickle without running it.

A pickle is a program. This module interprets only the instructions that dictionaries, lists,
numbers, strings and numeric NumPy arrays need; it imports and calls nothing that the file names.
"""

from __future__ import annotations

import re
import struct
import sys
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from surrogate.datasets.sources.pickle_bytes import PickleBytes, UnsafePickleError
from surrogate.datasets.sources.pickle_numpy import (
    ADMITTED,
    SCALAR,
    DType,
    PickledArray,
    Refused,
    call,
    set_state,
)

__all__ = ["load_pickle"]

#: Strings up to this length become str; longer ones are the contents of arrays.
_SHORT = 4096


# 8-byte NumPy numbers as Python 2 writes them: two memo look-ups (`scalar` and its type), the
# bytes, and three memo entries. They are 95 % of a public file.
_NUMBER = re.compile(rb"(?s)(h.|j.{4})(h.|j.{4})U\x08.{8}r.{4}\x86r.{4}Rr.{4}")
_RUN = 128
#: Runs shorter than this take longer than their numbers one by one.
_WORTHWHILE = 8
#: What a place on the stack and then in a list takes, and an entry of a dictionary, while it grows.
_PLACE, _ENTRY = 32, 100
#: Instructions of protocols 0 and 1 only.
_TEXT = b"IFLSVpgld0"


def load_pickle(stream: BinaryIO, file_bytes: int) -> Any:
    """The object in ``stream``, of plain Python values and
    :class:`~surrogate.datasets.sources.pickle_numpy.PickledArray`.

    NumPy scalars become Python numbers; strings of Python 2 are decoded as Latin-1.

    Parameters
    ----------
    stream : binary file
        Decompressed.
    file_bytes : int
        Size of the file that it comes from, which limits its own and that of its values.

    Raises
    ------
    UnsafePickleError
        If the pickle is damaged, names anything but the few NumPy names that numeric arrays need,
        or is larger than a data file, as it lies or in memory.
    """
    machine = _Machine(stream, file_bytes)
    try:
        return machine.run()
    except Refused as error:
        raise UnsafePickleError(f"byte {machine.offset} asks for {error}") from None
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        MemoryError,
        struct.error,
    ) as error:
        what = f"{type(error).__name__} {error}"[:120]
        raise UnsafePickleError(f"damaged at byte {machine.offset}: {what}") from error
    except RecursionError as error:
        raise UnsafePickleError(f"nested too deeply at byte {machine.offset}") from error


class _Machine(PickleBytes):
    """The stack machine of the pickle format, reduced to the instructions for data."""

    def __init__(self, stream: BinaryIO, file_bytes: int) -> None:
        super().__init__(stream, file_bytes)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._run_starts: list[int] = []
        self._run_values: list[np.ndarray] = []
        self._run_attempts = self._run_numbers = 0
        # One object per small number instead of one per occurrence.
        self._numbers = list(range(1 << 14))

    def run(self) -> Any:
        instructions = _INSTRUCTIONS
        while True:
            code = self._take(1)[0]
            if code == 0x2E:  # STOP
                (result,) = self._stack
                return result
            instruction = instructions.get(code)
            if instruction is None:
                cure = "; save it with protocol 2 or later" if code in _TEXT else ""
                self._refuse(f"instruction {bytes([code])!r}, which no data file needs{cure}")
            instruction(self)

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self._take(layout.size))[0]

    def _push(self, value: Any) -> None:
        """Push a new object."""
        self._memory += sys.getsizeof(value) + _PLACE
        self._stack.append(value)

    def _push_known(self, value: Any) -> None:
        """Push an object that exists already."""
        self._memory += _PLACE
        self._stack.append(value)

    def _mark(self) -> None:
        self._memory += 2 * _PLACE
        self._marks.append(len(self._stack))

    def _pop_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _push_string(self, size: int, encoding: str) -> None:
        # Read in pieces, joined, cut out, and decoded to up to four bytes a character.
        self._require_memory(4 * size if size >= 0 else sys.maxsize)
        raw = self._take(size)
        keep = encoding == "bytes" or (encoding == "latin-1" and size > _SHORT)
        self._push(raw if keep else raw.decode(encoding))

    def _put(self, index: int) -> None:
        if not self._stack:
            self._refuse("a memo of nothing")
        self._memory += _ENTRY
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index in self._memo:
            self._push_known(self._memo[index])
            return
        at = bisect_right(self._run_starts, index) - 1
        offset = index - self._run_starts[at] if at >= 0 else -1
        if at < 0 or offset >= 3 * self._run_values[at].size:
            self._refuse(f"memo {index}, which was never written")
        if offset % 3 != 2:
            self._refuse("the bytes of a number")
        self._push(self._run_values[at][offset // 3].item())

    def _read_get(self, layout: struct.Struct) -> None:
        if self._read_numbers():
            return
        self._get(self._number(layout))

    def _read_numbers(self) -> bool:
        """Read a run of 8-byte numbers at once; False if the next instructions are not one.

        The instruction's first byte has been consumed already.
        """
        if self._run_attempts * _WORTHWHILE > self._run_numbers + 10_000:
            return False
        start = self._position - 1
        match = _NUMBER.match(self._buffer, start)
        if match is None:
            return False
        names = [self._memo.get(int.from_bytes(match[i][1:], "little")) for i in (1, 2)]
        if names[0] is not SCALAR or not isinstance(names[1], DType):
            return False
        dtype = names[1].dtype
        length = match.end() - start
        if dtype.kind not in "iuf" or dtype.itemsize != 8:
            return False
        self._run_attempts += 1
        fits = min(_RUN, (len(self._buffer) - start) // length)
        records = np.frombuffer(self._buffer, np.uint8, fits * length, start).reshape(fits, length)
        first, count = self._leading_run(records)
        if not count or (self._run_starts and first < self._run_end()):
            return False
        # A copy: a view would keep the whole buffer alive.
        values = self._column(records[:count], length - 25, dtype).copy()
        self._run_starts.append(first)
        self._run_values.append(values)
        self._position = start + count * length
        self._run_numbers += count
        self._memory += 2 * _ENTRY + 2 * _PLACE * count
        self._stack.extend(self._shared(values))
        return True

    def _run_end(self) -> int:
        return self._run_starts[-1] + 3 * self._run_values[-1].size

    def _leading_run(self, records: np.ndarray) -> tuple[int, int]:
        """First memo entry of ``records``, and how many of them follow each other as one run.

        A record ends in 8 bytes of number and in three memo indices that follow each other, with
        instructions between them; whatever else it holds is the same in each.
        """
        count, length = records.shape
        memo_at = (length - 16, length - 10, length - 4)
        fixed = np.ones(length, bool)
        for at, size in ((length - 25, 8), *((at, 4) for at in memo_at)):
            fixed[at : at + size] = False
        same = (records[:, fixed] == records[0, fixed]).all(1)
        memo = np.stack([self._column(records, at, "<u4") for at in memo_at], 1).astype(np.int64)
        first = int(memo[0, 0])
        same &= (memo == first + np.arange(3 * count).reshape(count, 3)).all(1)
        return first, count if same.all() else int(np.argmin(same))

    @staticmethod
    def _column(records: np.ndarray, at: int, dtype: Any) -> np.ndarray:
        dtype = np.dtype(dtype)
        return np.ascontiguousarray(records[:, at : at + dtype.itemsize]).view(dtype)[:, 0]

    def _shared(self, values: np.ndarray) -> list[Any]:
        numbers = self._numbers
        if values.dtype.kind == "f" or values.min() < 0 or values.max() >= len(numbers):
            return values.tolist()
        return [numbers[value] for value in values.tolist()]

    def _append(self) -> None:
        item = self._stack.pop()
        self._list().append(item)

    def _appends(self) -> None:
        items = self._pop_mark()
        self._list().extend(items)

    def _list(self) -> list[Any]:
        target = self._stack[-1]
        if type(target) is not list:
            self._refuse(f"appending to a {type(target).__name__}")
        return target

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            self._refuse(f"setting items of a {type(target).__name__}")
        keys = items[::2]
        # Hashing a deeply nested tuple would overflow the interpreter's stack, and large numbers
        # can be chosen so that all their hashes collide.
        if not all(type(key) is str or (type(key) is int and abs(key) < 2**31) for key in keys):
            self._refuse("a dictionary key that is neither a string nor a small whole number")
        self._memory += _ENTRY * len(keys)
        target.update(zip(keys, items[1::2], strict=True))

    def _global(self, module: str, name: str) -> None:
        found = ADMITTED.get(f"{module} {name}")
        if found is None:
            self._refuse(f"{module[:80]}.{name[:80]}, which no data file needs")
        self._push_known(found)

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            self._refuse("a name that is no string")
        self._global(module, name)

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._push(call(function, arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        set_state(target, state)
        if isinstance(target, PickledArray) and type(state[-1]) is str:  # copied to bytes
            self._memory += len(state[-1])


_U1, _U2, _U4, _U8 = (struct.Struct(f"<{code}") for code in "BHIQ")
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def build(machine: _Machine) -> None:
        if len(machine._stack) < count:
            machine._refuse(f"a tuple of {count} out of {len(machine._stack)}")
        items = tuple(machine._stack[len(machine._stack) - count :])
        del machine._stack[len(machine._stack) - count :]
        machine._push(items)

    return build


def _long1(machine: _Machine) -> None:
    size = machine._number(_U1)
    machine._push(int.from_bytes(machine._take(size), "little", signed=True))


def _set_item(machine: _Machine) -> None:
    value, key = machine._stack.pop(), machine._stack.pop()
    machine._set_items([key, value])


_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    ord("("): lambda m: m._mark(),
    ord("}"): lambda m: m._push({}),
    ord("]"): lambda m: m._push([]),
    ord(")"): lambda m: m._push(()),
    ord("t"): lambda m: m._push(tuple(m._pop_mark())),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("a"): lambda m: m._append(),
    ord("e"): lambda m: m._appends(),
    ord("s"): _set_item,
    ord("u"): lambda m: m._set_items(m._pop_mark()),
    ord("N"): lambda m: m._push_known(None),
    0x88: lambda m: m._push_known(True),
    0x89: lambda m: m._push_known(False),
    ord("J"): lambda m: m._push(m._number(_I4)),
    ord("K"): lambda m: m._push(m._number(_U1)),
    ord("M"): lambda m: m._push(m._number(_U2)),
    0x8A: _long1,
    ord("G"): lambda m: m._push(m._number(_F8)),
    ord("U"): lambda m: m._push_string(m._number(_U1), "latin-1"),
    ord("T"): lambda m: m._push_string(m._number(_I4), "latin-1"),
    ord("X"): lambda m: m._push_string(m._number(_U4), "utf-8"),
    0x8C: lambda m: m._push_string(m._number(_U1), "utf-8"),
    ord("C"): lambda m: m._push_string(m._number(_U1), "bytes"),
    ord("B"): lambda m: m._push_string(m._number(_U4), "bytes"),
    0x8D: lambda m: m._push_string(m._number(_U8), "utf-8"),
    0x8E: lambda m: m._push_string(m._number(_U8), "bytes"),
    0x96: lambda m: m._push_string(m._number(_U8), "bytes"),  # a bytearray
    ord("q"): lambda m: m._put(m._number(_U1)),
    ord("r"): lambda m: m._put(m._number(_U4)),
    0x94: lambda m: m._put(len(m._memo)),
    ord("h"): lambda m: m._read_get(_U1),
    ord("j"): lambda m: m._read_get(_U4),
    ord("c"): lambda m: m._global(m._line(), m._line()),
    0x93: lambda m: m._stack_global(),
    ord("R"): lambda m: m._reduce(),
    ord("b"): lambda m: m._build(),
    0x80: lambda m: m._skip(1),
    0x95: lambda m: m._skip(8),
}
