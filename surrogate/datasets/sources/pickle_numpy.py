"""What a pickle may name and call: the few NumPy names that numeric arrays need.

Nothing of that name is imported or called: each name stands for a function of this module.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

__all__ = ["ADMITTED", "DType", "Name", "PickledArray", "Refused", "call", "set_state", "short"]

_LONGEST = 1 << 28


class Refused(Exception):
    """What no data file asks for; the text goes on after "asks for"."""


class Name:
    """One of the admitted names; a marker, not the object of that name."""

    def __init__(self, name: str) -> None:
        self.name = name


class DType:
    """A numeric NumPy type; a second instruction sets its byte order."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype


class PickledArray:
    """A numeric NumPy array; ``array`` is None until its contents have been read."""

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array


_RECONSTRUCT, SCALAR = Name("_reconstruct"), Name("scalar")
_NDARRAY, _DTYPE, _ENCODE = Name("ndarray"), Name("dtype"), Name("encode")
_BYTES, _FROM_BUFFER = Name("bytes"), Name("_frombuffer")
ADMITTED = {
    "numpy.core.multiarray _reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _RECONSTRUCT,
    "numpy.core.multiarray scalar": SCALAR,
    "numpy._core.multiarray scalar": SCALAR,
    "numpy.core.numeric _frombuffer": _FROM_BUFFER,  # protocol 5
    "numpy._core.numeric _frombuffer": _FROM_BUFFER,
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _DTYPE,
    "_codecs encode": _ENCODE,
    # How Python 3 writes an empty string of bytes in protocol 2.
    "__builtin__ bytes": _BYTES,
}


def call(function: Any, arguments: Any) -> Any:
    """What the named function would give; Refused, LookupError or ValueError if it may not."""
    if type(arguments) is not tuple or not isinstance(function, Name):
        raise Refused(f"a call of a {type(function).__name__}")
    if function is SCALAR:
        dtype, content = arguments
        if not isinstance(dtype, DType):
            raise Refused("a number without a type")
        (value,) = np.frombuffer(_raw(content), dtype.dtype)
        return value.item()
    if function is _DTYPE:
        name = arguments[0]
        if not isinstance(name, str) or not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", name):
            raise Refused(f"arrays of type {short(name)}; only numbers are data")
        return DType(np.dtype(name))
    if function is _RECONSTRUCT and arguments[0] is _NDARRAY:
        return PickledArray()
    if function is _FROM_BUFFER:
        content, dtype, shape, order = arguments
        return PickledArray(_array(1, shape, dtype, order == "F", content))
    if function is _ENCODE and len(arguments) == 2 and arguments[1] in ("latin1", "latin-1"):
        return _raw(arguments[0])
    if function is _BYTES and not arguments:
        return b""
    raise Refused(f"a call of {function.name} with unknown arguments")


def set_state(target: Any, state: Any) -> None:
    """Give a type its byte order, an array its contents; errors as of :func:`call`."""
    if type(state) is not tuple:
        raise Refused(f"a state of type {type(state).__name__}")
    if isinstance(target, DType):
        _, order, *fields = state
        if order not in ("<", ">", "|", "=") or any(field is not None for field in fields[:3]):
            raise Refused("a structured type; only numbers are data")
        target.dtype = target.dtype.newbyteorder(order)
    elif isinstance(target, PickledArray):
        target.array = _array(*state)
    else:
        raise Refused(f"setting the state of a {type(target).__name__}")


def _array(version: Any, shape: Any, dtype: Any, fortran: Any, content: Any) -> np.ndarray:
    if not isinstance(dtype, DType) or type(shape) is not tuple or len(shape) > 8:
        raise Refused("an array without type or shape")
    if not all(type(n) is int and 0 <= n <= _LONGEST for n in shape):
        raise Refused(f"an array of shape ({', '.join(map(short, shape))})")
    raw = _raw(content)
    size = dtype.dtype.itemsize
    for n in shape:
        size *= n
    if size != len(raw):
        raise Refused(f"an array of {size} bytes out of {len(raw)}")
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _raw(content: Any) -> bytes:
    """The bytes of a string as either Python writes them."""
    if not isinstance(content, bytes | str):
        raise Refused(f"the bytes of a {type(content).__name__}")
    return content if isinstance(content, bytes) else content.encode("latin-1")


def short(value: Any) -> str:
    """For messages. Of containers only the type, because one may contain itself."""
    simple = isinstance(value, str | int | float | bytes)
    return repr(value)[:40] if simple else f"a {type(value).__name__}"
