"""Reading what was stored: JSON and TOML that may be damaged, and seals that show damage.

A seal is the SHA-256 of all that it covers. It tells accidents; who wants to can make another.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "parse_json",
    "parse_toml",
    "read_bytes",
    "read_json",
    "read_text",
    "read_toml",
    "seal",
    "seal_json",
    "unseal",
    "unseal_json",
]

#: Parsed, JSON takes up to 25 times as much memory; TOML is written by hand.
_MOST_JSON, _MOST_TOML = 1 << 24, 1 << 20
# Each part of a dotted key costs as much as all before it.
_LONG_KEY = re.compile(
    r"""(?<![\w."'\\-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){100}"""
)
_MAGIC = b"surrogate sealed 1\n"


def parse_json(text: str) -> Any:
    """The value of a JSON text; ValueError where there is none, however it is damaged."""
    return _parsed(json.loads, text)


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text; ValueError where there is none, however it is damaged."""
    if _LONG_KEY.search(text):
        raise ValueError("a key of more than 100 parts")
    return _parsed(tomllib.loads, text)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The table in a TOML file; OSError and ValueError as of :func:`read_json`."""
    return parse_toml(read_text(path, _MOST_TOML))


def _parsed(parse: Callable[[Any], Any], text: Any) -> Any:
    try:
        return parse(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it holds no object, or is larger than any that this program writes.
    """
    value = parse_json(read_text(path))
    if not isinstance(value, dict):
        raise ValueError(f"holds a {type(value).__name__}, expected an object")
    return value


def read_text(path: str | os.PathLike[str], most: int = _MOST_JSON) -> str:
    """The text in a file; OSError, and ValueError if it is none or has more than ``most`` bytes."""
    return read_bytes(path, most).decode("utf-8")


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of a file; OSError, and ValueError if it is none or has more than ``most``."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for its writer
        raise ValueError("a pipe or device, not a file")
    with open(path, "rb") as handle:
        raw = handle.read(most + 1)
    if len(raw) > most:
        raise ValueError(f"{os.stat(path).st_size:,} bytes, expected at most {most:,}")
    return raw


def seal_json(content: Mapping[str, Any]) -> str:
    """``content`` as the text of a JSON file, with a seal over it under the key ``seal``."""
    return json.dumps({**content, "seal": _digest_of(content)}, indent=2) + "\n"


def unseal_json(path: Path) -> dict[str, Any]:
    """The content that :func:`seal_json` wrote to ``path``.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not what was written.
    """
    content = read_json(path)
    if content.pop("seal", None) != _digest_of(content):
        raise ValueError("its seal is broken")
    return content


def _digest_of(content: Mapping[str, Any]) -> str:
    # Through JSON once: what is read has lists for tuples and strings for keys.
    plain = parse_json(_parsed(json.dumps, content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def seal(payload: bytes) -> bytes:
    """``payload`` behind a seal over it."""
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def unseal(data: bytes) -> bytes:
    """The payload that :func:`seal` got; ValueError if ``data`` is not what it gave."""
    start = len(_MAGIC) + 32
    payload = data[start:]
    if data[:start] != _MAGIC + hashlib.sha256(payload).digest():
        raise ValueError("its seal is broken")
    return payload
