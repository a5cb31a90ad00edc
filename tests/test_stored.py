"""Seals show every change, and no text that is read ends in anything but ValueError."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from surrogate.stored import (
    parse_json,
    parse_toml,
    read_json,
    seal,
    seal_json,
    unseal,
    unseal_json,
)

CONTENT = {"seed": 3, "rate": 0.1, "sizes": (32, 2), "name": "µ", "nothing": None, "inf": None}


def test_what_was_sealed_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(seal_json(CONTENT))
    assert unseal_json(tmp_path / "run.json") == CONTENT | {"sizes": [32, 2]}
    assert unseal(seal(b"payload")) == b"payload"


@pytest.mark.parametrize("indent", [None, 4])
def test_another_layout_of_the_same_json_keeps_its_seal(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(seal_json(CONTENT)), indent=indent))
    assert unseal_json(path)["seed"] == 3


def test_no_byte_of_a_sealed_file_changes_silently(tmp_path: Path) -> None:
    """Every byte replaced: the file is refused, or reads as it was."""
    path, text = tmp_path / "run.json", seal_json(CONTENT).encode()
    rng = np.random.default_rng(1)
    path.write_bytes(text)
    expected = unseal_json(path)
    refused = 0
    for at in range(len(text)):
        damaged = bytearray(text)
        damaged[at] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            assert unseal_json(path) == expected
        except ValueError:
            refused += 1
    assert refused > len(text) / 2
    data = seal(b"payload" * 9)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.integers(8)
        with pytest.raises(ValueError, match="seal is broken"):
            unseal(bytes(damaged))


HOSTILE = {
    "deep": "[" * 200_000,
    "deep objects": '{"a":' * 200_000,
    "long integer": "1" * 100_000,
    "long key": "a" + ".a" * 100_000,
    "long quoted key": '"a"' + '. "a" ' * 100_000,
    "nothing": "",
    "no text": "\x00",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("parse", [parse_json, parse_toml])
def test_hostile_text_is_a_value_error(parse, text: str) -> None:
    if parse is parse_toml and not text:
        assert parse_toml(text) == {}
        return
    for wrapped in (text, f"a = {text}"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse(wrapped)


@pytest.mark.parametrize("content", [b"[1]", b"3", b"null", b"\xff", b"{", b'{"seal": 3}'])
def test_a_file_that_is_no_sealed_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "done.json"
    path.write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011
        unseal_json(path)


def test_a_file_larger_than_any_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    with path.open("wb") as handle:
        handle.truncate(1 << 28)
    with pytest.raises(ValueError, match="268,435,456 bytes, expected at most 16,777,216"):
        read_json(path)
