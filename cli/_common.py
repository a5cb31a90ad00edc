"""Options of several commands, and printing of results."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from surrogate.errors import printable

__all__ = [
    "emit",
    "json_option",
    "json_text",
    "parse_settings",
    "say",
    "threads_option",
]

Function = TypeVar("Function", bound=Callable[..., Any])


def json_option(function: Function) -> Function:
    """Add ``--json`` to a command, passed to it as ``as_json: bool``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout."
    )(function)


def threads_option(function: Function) -> Function:
    """Add ``--threads`` to a command, passed to it as ``threads: int``."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="CPU threads. More pay only for wide layers, and only on an idle machine.",
    )(function)


def parse_settings(given: Iterable[str]) -> dict[str, Any]:
    """Recipe values by key, from what ``--set KEY=VALUE`` was given.

    Raises
    ------
    UsageError
        For anything else, and for a key that comes twice.
    """
    from surrogate.errors import UsageError

    settings: dict[str, Any] = {}
    for setting in given:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not (key and equals and value):
            raise UsageError(f"--set {setting!r}: expected KEY=VALUE, such as weight_decay=0.1")
        if key in settings:
            raise UsageError(f"--set {key} is given twice; leave one out")
        settings[key] = value
    return settings


def emit(as_json: bool, obj: Mapping[str, Any], text: str) -> None:
    """Print a command's result on stdout: ``obj`` as one line of JSON, or ``text`` for people."""
    click.echo(json_text(obj) if as_json else printable(text))


def say(line: str) -> None:
    """Print what happens on stderr, which leaves stdout to results."""
    click.echo(printable(line), err=True)


def json_text(obj: Mapping[str, Any]) -> str:
    """``obj`` as one line of valid JSON, keys in their given order.

    NumPy scalars, arrays and tensors become numbers and lists; NaN and infinities, which JSON
    does not have, become null; other objects, such as paths, become their string. All of it is
    ASCII, whatever the encoding of the terminal.
    """
    return json.dumps(_plain(obj), allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)
