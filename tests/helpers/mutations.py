"""Ways to damage files: their bytes, JSON, TOML and folders."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from helpers.faults import Mutation
from surrogate.stored import seal_json, unseal_json

Draw = random.Random

ESCAPES = "\x1b[31m\x1b]0;title\x07\u202e\u2028\r\n"


def on_bytes(change: Callable[[Draw, bytes], bytes]) -> Callable[[Draw, Path], None]:
    """``change`` of a file's content as a change of the file."""

    def apply(draw: Draw, path: Path) -> None:
        path.write_bytes(change(draw, path.read_bytes()))

    return apply


def _span(draw: Draw, content: bytes) -> tuple[int, int]:
    start = draw.randrange(len(content) + 1)
    # Most of what decides lies at the start of a file.
    start = start * start // (len(content) + 1) if draw.random() < 0.5 else start
    return start, min(len(content), start + int(2 ** draw.uniform(0, 10)))


def flip(draw: Draw, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 8))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def overwrite(draw: Draw, content: bytes) -> bytes:
    start, end = _span(draw, content)
    size = end - start
    new = draw.choice((bytes(size), b"\xff" * size, draw.randbytes(size)))
    return content[:start] + new + content[end:]


def truncate(draw: Draw, content: bytes) -> bytes:
    return content[: draw.choice((0, 1, draw.randrange(len(content)), len(content) - 1))]


def insert(draw: Draw, content: bytes) -> bytes:
    start, end = _span(draw, content)
    new = draw.choice((draw.randbytes(end - start), content[start:end] * draw.choice((1, 2, 999))))
    return content[:start] + new + content[start:]


def remove(draw: Draw, content: bytes) -> bytes:
    start, end = _span(draw, content)
    return content[:start] + content[end:]


def splice(draw: Draw, content: bytes) -> bytes:
    (start, end), (other, _) = _span(draw, content), _span(draw, content)
    return content[:start] + content[other : other + end - start] + content[end:]


def of_bytes(*, sealed: bool) -> list[Mutation]:
    """Changes of any file's bytes."""
    changes = (flip, overwrite, truncate, insert, remove, splice)
    return [Mutation(change.__name__, on_bytes(change), sealed) for change in changes]


def hostile_value(draw: Draw) -> Any:
    """A value that JSON can hold and that nobody expects."""
    deep: Any = 0
    for _ in range(draw.choice((1, 3, 400))):
        deep = draw.choice(([deep], {"a": deep}))
    return draw.choice(
        (
            *(None, True, False, 0, 1, -1, 0.5, 2**31, 2**53 + 1, 2**63, -(2**64), 10**400),
            *(1e-320, 1e308, -1e308, float("nan"), float("inf"), -float("inf"), 10**4000),
            *(
                "",
                "x",
                "inf",
                "nan",
                "1",
                "../..",
                "/dev/full",
                "\x00",
                "\ud800",
                ESCAPES,
                "é" * 99,
            ),
            *(draw.choice(string.printable) * 100_000, [], {}, [[]], [{}], [None] * 3, {"": {}}),
            *(deep, list(range(10_000)), dict.fromkeys(map(str, range(1000)), 1)),
        )
    )


def change_json(draw: Draw, value: Any) -> Any:
    """``value`` with a change in one place, any depth."""
    inner = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        inner = list(range(len(value)))
    if not inner or draw.random() < 0.1:
        return hostile_value(draw)
    key = draw.choice(inner)
    changed = value.copy()
    how = draw.random()
    if how < 0.1:
        del changed[key]
    elif how < 0.2:
        changed[key] = changed[draw.choice(inner)]
    elif how < 0.25 and isinstance(changed, dict):
        changed[draw.choice(("", "x", ESCAPES, "__class__", key + "s", "a" * 9999))] = 1
    elif how < 0.25:
        changed *= draw.choice((2, 1000))
    else:
        changed[key] = change_json(draw, changed[key])
    return changed


def change_arrays(draw: Draw, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``arrays`` with one of another type, shape, name or values."""
    name = draw.choice(sorted(arrays))
    array = arrays[name]
    with np.errstate(all="ignore"):
        changed = draw.choice(
            (
                *(array.astype(draw.choice(("f8", "f2", "i4", "?"))), array.T.copy(), array[:0]),
                *(array[None], array * np.nan, array * np.inf, array * 1e30, array * 0),
                np.zeros((1 << 16, *array.shape[1:]), array.dtype),
            )
        )
    others = {key: value for key, value in arrays.items() if key != name}
    return others | {draw.choice((name, name, name, "x", ESCAPES)): np.ascontiguousarray(changed)}


def _reseal(draw: Draw, path: Path) -> None:
    content = unseal_json(path)
    changed = change_json(draw, content)
    path.write_text(seal_json(changed) if isinstance(changed, dict) else json.dumps(changed))


resealed_json = Mutation("change of sealed JSON", _reseal)

#: Texts that TOML and JSON may hold as values, or may not.
LITERALS = (
    *("1e400", "-1e400", "1e-400", "inf", "-inf", "nan", "+nan", "Infinity", "null", "", "1_0"),
    *("1" * 100_000, "-" + "9" * 5000, "0x" + "f" * 999, "9223372036854775808", "true", "false"),
    *("[]", "{}", "''", '""', "1979-05-27", "07:32:00", '"\\u001b[31m\\u0007"', '"\\ud800"'),
    *("[" * 200_000, "[" * 99 + "]" * 99, "{a=" * 999, '"' + "x" * 100_000 + '"', '"\\u0000"'),
    *("[[1], 2]", "[1, 'a', {}]", "{x = 1}", "a" + ".a" * 50_000),
)


def literal(draw: Draw, content: bytes) -> bytes:
    """Another text in the place of one value of TOML or JSON."""
    lines = content.decode().splitlines(keepends=True)
    places = [number for number, line in enumerate(lines) if "=" in line or ":" in line]
    at = draw.choice(places)
    mark = "=" if "=" in lines[at] else ":"
    start, _, rest = lines[at].partition(mark)
    end = "," if rest.rstrip().endswith(",") else ""
    lines[at] = f"{start}{mark} {draw.choice(LITERALS)}{end}\n"
    return "".join(lines).encode("utf-8", "surrogatepass")


def toml_lines(draw: Draw, content: bytes) -> bytes:
    """Lines of TOML too many, too few, or elsewhere."""
    lines = content.decode().splitlines(keepends=True)
    at = draw.randrange(len(lines))
    new = draw.choice(
        (
            lines[draw.randrange(len(lines))],
            *("[set]\n", "[lstm]\n", "[rnn]\n", "[[arch]]\n", "[slurm]\n", "= 1\n", "\x00\n"),
            *("[a" + ".a" * 50_000 + "]\n", "a" + ".a" * 50_000 + " = 1\n", "\ufeff"),
            *("# \x1b[31m\n", f"{'k' * 100_000} = 1\n", '"\\u001b[31m" = 1\n'),
            *("seeds = 1000000000\n", "epochs = 1000000\n", "windows_per_epoch = 100000000\n"),
            *("learning_rate = [" + "0.1, " * 50_000 + "]\n", "batch_size = 65536\n"),
            *("set = {epochs = 3}\n", "hidden = ['40000-40000-2']\n", "hidden = '1-1'\n"),
        )
    )  # fmt: skip
    lines[at : at + draw.randrange(2)] = draw.choice(([new], [], [new, new]))
    return "".join(lines).encode()


def of_toml() -> list[Mutation]:
    """Changes of a TOML file, bytes included."""
    return [
        *of_bytes(sealed=False),
        *[Mutation(change.__name__, on_bytes(change)) for change in (literal, toml_lines) * 4],
    ]


def of_folder(names: str, *, sealed: bool, resealed: bool = True) -> list[Mutation]:
    """Changes of one file in a folder, of those that match ``names``."""

    def some(draw: Draw, folder: Path) -> Path:
        return draw.choice(
            sorted(path for path in folder.rglob(names) if path.is_file() and path.stat().st_size)
        )

    def inside(change: Callable[[Draw, Path], None]) -> Callable[[Draw, Path], None]:
        return lambda draw, folder: change(draw, some(draw, folder))

    def missing(draw: Draw, folder: Path) -> None:
        some(draw, folder).unlink()

    def another_kind(draw: Draw, folder: Path) -> None:
        path = some(draw, folder)
        path.unlink()
        draw.choice((path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path.name)))()

    def another_file(draw: Draw, folder: Path) -> None:
        shutil.copy(some(draw, folder), aside := folder / "aside")
        shutil.move(aside, some(draw, folder))

    changes = [
        *[Mutation(one.name, inside(one.change), sealed) for one in of_bytes(sealed=sealed)],
        Mutation("missing", missing, sealed),
        Mutation("another kind", another_kind, sealed),
        Mutation("another file", another_file, sealed),
    ]
    if resealed:
        changes += 4 * [Mutation(resealed_json.name, _any_sealed_json)]
    return changes


def _any_sealed_json(draw: Draw, folder: Path) -> None:
    """The files of a folder that are sealed JSON are tried in an order that is drawn."""
    paths = sorted(folder.rglob("*.json"))
    draw.shuffle(paths)
    for path in paths:
        with contextlib.suppress(ValueError):
            _reseal(draw, path)
            return
