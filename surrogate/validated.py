"""Values from files and from callers, validated by pydantic against the classes that hold them.

Types are strict: no text passes for a number, no number for a truth value, and nothing is NaN or
infinite unless a field says so. NumPy scalars are numbers.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import reprlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic.dataclasses import dataclass as validating
from typing_extensions import is_typeddict

from surrogate.errors import UsageError

__all__ = ["hint", "open_record", "record", "short", "validate", "validated"]

T = TypeVar("T")

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

#: Decorators of a TypedDict: an object of a JSON file with these keys, or with others too.
record = with_config(_STRICT)
open_record = with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=True))


def validated(what: str) -> Callable[[type[T]], type[T]]:
    """Make a dataclass raise UsageError, with a message that begins with ``what``, for a wrong
    value, however it is constructed."""

    def decorate(cls: type[T]) -> type[T]:
        frozen = cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
        made: Any = validating(frozen=frozen, config=_STRICT)(cls)
        made.__doc__ = cls.__doc__  # pydantic gives a subclass
        construct = made.__init__
        names = [field.name for field in dataclasses.fields(made)]

        @functools.wraps(construct)
        def init(self: T, *args: Any, **values: Any) -> None:
            if len(args) <= len(names):
                args, values = (), dict(zip(names, args, strict=False)) | values
            try:
                construct(self, *args, **{key: _plain(value) for key, value in values.items()})
            except ValidationError as error:
                raise _explained(error, made, what) from None

        made.__init__ = init
        return made

    return decorate


def validate(kind: type[T], values: Any, what: str) -> T:
    """``values``, as JSON or TOML gives them, as a ``kind``.

    Parameters
    ----------
    kind : type
        A dataclass of :func:`validated`, a :data:`record`, or a type such as ``dict[str, float]``.
    values : object
        Lists serve as tuples too, objects as dataclasses.
    what : str
        What the message begins with.

    Raises
    ------
    UsageError
        Naming the first key that is unknown, lacking or wrong, its value and what was expected.
    """
    try:
        return _adapter(kind).validate_json(  # type: ignore[arg-type]
            json.dumps(values, default=_as_json)
        )
    except ValidationError as error:
        raise _explained(error, kind, what) from None
    except RecursionError:
        raise UsageError(f"{what}: nested too deeply") from None
    except ValueError:
        raise UsageError(f"{what}: a number has more than 4,300 digits") from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    own = dataclasses.is_dataclass(kind) or is_typeddict(kind)
    return TypeAdapter(kind, config=None if own else _STRICT)


def _as_json(value: Any) -> Any:
    plain = _plain(value)
    return plain if plain is not value else str(value)  # a path, or one of TOML's dates


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays as Python's numbers and lists."""
    return value.tolist() if hasattr(value, "tolist") else value


#: What pydantic calls things, and what users of TOML files and of the command line do.
_WORDS = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid array": "a list",
    "a valid tuple": "a list",
    "an object": "a table",
}


def _explained(error: ValidationError, kind: type, what: str) -> UsageError:
    found = error.errors(include_url=False)[0]
    path, reason = found["loc"], found["msg"]
    key = ".".join(map(str, path))
    name = f"{what} {key}" if key else what
    if cause := found.get("ctx", {}).get("error"):  # of the class itself, or of the JSON
        named = isinstance(cause, UsageError) and not key
        return UsageError(str(cause) if named else f"{name}: {cause}")
    if found["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = get_type_hints(kind) if len(path) == 1 else ()
        return UsageError(f"unknown {what} key {short(key)}{hint(key, known)}")
    if found["type"] == "missing":
        return UsageError(f"{what} lacks {key}")
    expected = reason.removeprefix("Input should be ")
    for theirs, ours in _WORDS.items():
        expected = expected.replace(theirs, ours)
    return UsageError(f"{name} = {short(found['input'])}: expected {expected}")


def hint(wrong: str, known: Iterable[str]) -> str:
    """``": did you mean …?"``, or which there are; empty if there are none."""
    known = list(known)
    if close := difflib.get_close_matches(wrong[:99], known, n=1):
        return f": did you mean {close[0]!r}?"
    return f": known: {', '.join(known)}" if known else ""


def short(value: Any) -> str:
    """``repr(value)``, its middle left out where it is long."""
    try:
        return _REPR.repr(value)
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return "a huge number"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60
_REPR.maxlong = 20
