"""Reading a pickle without running it.

A pickle is a program. This module interprets only the instructions that dictionaries, lists,
numbers, strings and numeric NumPy arrays need; it imports and calls nothing that the file names.
The names below are mapped to objects of this module; any other name is refused.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from surrogate.datasets.sources.pickle_bytes import PickleBytes, UnsafePickleError

__all__ = ["PickledArray", "load_pickle"]

_MAX_STRING = 1 << 28
#: Containers, strings and memo entries: a public file of 128 trials has some 300,000.
_MAX_OBJECTS = 4_000_000
#: Strings up to this length become str; longer ones are the contents of arrays.
_SHORT = 4096


class _Name:
    """One of the admitted names; a marker, not the object of that name."""

    def __init__(self, name: str) -> None:
        self.name = name


class _DType:
    """A numeric NumPy type; a second instruction sets its byte order."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype


class PickledArray:
    """A numeric NumPy array; ``array`` is None until its contents have been read."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None


_RECONSTRUCT, _SCALAR = _Name("_reconstruct"), _Name("scalar")
_NDARRAY, _DTYPE, _ENCODE = _Name("ndarray"), _Name("dtype"), _Name("encode")
_BYTES = _Name("bytes")
_ADMITTED = {
    "numpy.core.multiarray _reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _RECONSTRUCT,
    "numpy.core.multiarray scalar": _SCALAR,
    "numpy._core.multiarray scalar": _SCALAR,
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _DTYPE,
    "_codecs encode": _ENCODE,
    # How Python 3 writes an empty string of bytes in protocol 2.
    "__builtin__ bytes": _BYTES,
}

# 8-byte NumPy numbers as Python 2 writes them: two memo look-ups (`scalar` and its type), the
# bytes, and three memo entries. They are 95 % of a public file.
_NUMBER = re.compile(rb"(?s)(h.|j.{4})(h.|j.{4})U\x08.{8}r.{4}\x86r.{4}Rr.{4}")
_RUN = 128


def load_pickle(stream: BinaryIO, most_bytes: int) -> Any:
    """The object in ``stream``, made of plain Python values and :class:`PickledArray`.

    NumPy scalars become Python numbers; strings of Python 2 are decoded as Latin-1.

    Parameters
    ----------
    stream : binary file
        Decompressed.
    most_bytes : int
        A longer pickle is refused.

    Raises
    ------
    UnsafePickleError
        If the pickle is damaged, names anything but the few NumPy names that numeric arrays need,
        or is larger or more deeply nested than a data file.
    """
    machine = _Machine(stream, most_bytes)
    try:
        return machine.run()
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

    def __init__(self, stream: BinaryIO, most_bytes: int) -> None:
        super().__init__(stream, most_bytes)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._run_starts: list[int] = []
        self._run_values: list[np.ndarray] = []
        self._objects = 0
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
                self._refuse(f"instruction {bytes([code])!r}, which no data file needs")
            instruction(self)

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self._take(layout.size))[0]

    def _count(self) -> None:
        self._objects += 1
        if self._objects > _MAX_OBJECTS:
            self._refuse(f"more than {_MAX_OBJECTS} objects")

    def _push_new(self, value: Any) -> None:
        self._count()
        self._stack.append(value)

    def _mark(self) -> None:
        self._count()
        self._marks.append(len(self._stack))

    def _pop_mark(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _push_string(self, size: int, encoding: str) -> None:
        if not 0 <= size <= _MAX_STRING:
            self._refuse(f"a string of {size} bytes")
        raw = self._take(size)
        keep = encoding == "bytes" or (encoding == "latin-1" and size > _SHORT)
        self._push_new(raw if keep else raw.decode(encoding))

    def _put(self, index: int) -> None:
        if not self._stack:
            self._refuse("a memo of nothing")
        self._count()
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index in self._memo:
            self._stack.append(self._memo[index])
            return
        at = bisect_right(self._run_starts, index) - 1
        offset = index - self._run_starts[at] if at >= 0 else -1
        if at < 0 or offset >= 3 * self._run_values[at].size:
            self._refuse(f"memo {index}, which was never written")
        if offset % 3 != 2:
            self._refuse("the bytes of a number")
        self._stack.append(self._run_values[at][offset // 3].item())

    def _read_get(self, layout: struct.Struct) -> None:
        if self._read_numbers():
            return
        self._get(self._number(layout))

    def _read_numbers(self) -> bool:
        """Read a run of 8-byte numbers at once; False if the next instructions are not one.

        The instruction's first byte has been consumed already.
        """
        start = self._position - 1
        match = _NUMBER.match(self._buffer, start)
        if match is None:
            return False
        names = [self._memo.get(int.from_bytes(match[i][1:], "little")) for i in (1, 2)]
        if names[0] is not _SCALAR or not isinstance(names[1], _DType):
            return False
        dtype = names[1].dtype
        length = match.end() - start
        if dtype.kind not in "iuf" or dtype.itemsize != 8:
            return False
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
        target.update(zip(keys, items[1::2], strict=True))

    def _global(self, module: Any, name: Any) -> None:
        found = _ADMITTED.get(f"{module} {name}")
        if found is None:
            self._refuse(f"{str(module)[:80]}.{str(name)[:80]}, which no data file needs")
        self._stack.append(found)

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            self._refuse("a name that is no string")
        self._global(module, name)

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(arguments) is not tuple or not isinstance(function, _Name):
            self._refuse(f"a call of a {type(function).__name__}")
        if function is _SCALAR:
            dtype, content = arguments
            self._push_new(self._scalar(dtype, content))
        elif function is _DTYPE:
            self._push_new(_DType(self._numeric(arguments[0])))
        elif function is _RECONSTRUCT and arguments[0] is _NDARRAY:
            self._push_new(PickledArray())
        elif function is _ENCODE and len(arguments) == 2 and arguments[1] in ("latin1", "latin-1"):
            self._push_new(self._raw(arguments[0]))
        elif function is _BYTES and not arguments:
            self._push_new(b"")
        else:
            self._refuse(f"a call of {function.name} with unknown arguments")

    def _numeric(self, name: Any) -> np.dtype:
        if not isinstance(name, str) or not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", name):
            self._refuse(f"arrays of type {_short(name)}; only numbers are data")
        return np.dtype(name)

    def _scalar(self, dtype: Any, content: Any) -> Any:
        if not isinstance(dtype, _DType):
            self._refuse("a number without a type")
        (value,) = np.frombuffer(self._raw(content), dtype.dtype)
        return value.item()

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if type(state) is not tuple:
            self._refuse(f"a state of type {type(state).__name__}")
        if isinstance(target, _DType):
            _, order, *fields = state
            if order not in ("<", ">", "|", "=") or any(field is not None for field in fields[:3]):
                self._refuse("a structured type; only numbers are data")
            target.dtype = target.dtype.newbyteorder(order)
        elif isinstance(target, PickledArray):
            target.array = self._array(*state)
        else:
            self._refuse(f"setting the state of a {type(target).__name__}")

    def _array(
        self, version: Any, shape: Any, dtype: Any, fortran: Any, content: Any
    ) -> np.ndarray:
        if not isinstance(dtype, _DType) or type(shape) is not tuple or len(shape) > 8:
            self._refuse("an array without type or shape")
        if not all(type(n) is int and 0 <= n <= _MAX_STRING for n in shape):
            self._refuse(f"an array of shape ({', '.join(map(_short, shape))})")
        raw = self._raw(content)
        size = dtype.dtype.itemsize
        for n in shape:
            size *= n
        if size != len(raw):
            self._refuse(f"an array of {size} bytes out of {len(raw)}")
        return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if fortran else "C")

    def _raw(self, content: Any) -> bytes:
        """The bytes of a string as either Python writes them."""
        if not isinstance(content, bytes | str):
            self._refuse(f"the bytes of a {type(content).__name__}")
        return content if isinstance(content, bytes) else content.encode("latin-1")


def _short(value: Any) -> str:
    """For messages. Of containers only the type, because one may contain itself."""
    simple = isinstance(value, str | int | float | bytes)
    return repr(value)[:40] if simple else f"a {type(value).__name__}"


_U1, _U2, _U4, _U8 = (struct.Struct(f"<{code}") for code in "BHIQ")
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def build(machine: _Machine) -> None:
        if len(machine._stack) < count:
            machine._refuse(f"a tuple of {count} out of {len(machine._stack)}")
        items = tuple(machine._stack[len(machine._stack) - count :])
        del machine._stack[len(machine._stack) - count :]
        machine._push_new(items)

    return build


def _long1(machine: _Machine) -> None:
    size = machine._number(_U1)
    machine._stack.append(int.from_bytes(machine._take(size), "little", signed=True))


def _set_item(machine: _Machine) -> None:
    value, key = machine._stack.pop(), machine._stack.pop()
    machine._set_items([key, value])


_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    ord("("): lambda m: m._mark(),
    ord("}"): lambda m: m._push_new({}),
    ord("]"): lambda m: m._push_new([]),
    ord(")"): lambda m: m._push_new(()),
    ord("t"): lambda m: m._push_new(tuple(m._pop_mark())),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("a"): lambda m: m._append(),
    ord("e"): lambda m: m._appends(),
    ord("s"): _set_item,
    ord("u"): lambda m: m._set_items(m._pop_mark()),
    ord("N"): lambda m: m._stack.append(None),
    0x88: lambda m: m._stack.append(True),
    0x89: lambda m: m._stack.append(False),
    ord("J"): lambda m: m._stack.append(m._number(_I4)),
    ord("K"): lambda m: m._stack.append(m._number(_U1)),
    ord("M"): lambda m: m._stack.append(m._number(_U2)),
    0x8A: _long1,
    ord("G"): lambda m: m._stack.append(m._number(_F8)),
    ord("U"): lambda m: m._push_string(m._number(_U1), "latin-1"),
    ord("T"): lambda m: m._push_string(m._number(_I4), "latin-1"),
    ord("X"): lambda m: m._push_string(m._number(_U4), "utf-8"),
    0x8C: lambda m: m._push_string(m._number(_U1), "utf-8"),
    ord("C"): lambda m: m._push_string(m._number(_U1), "bytes"),
    ord("B"): lambda m: m._push_string(m._number(_U4), "bytes"),
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
