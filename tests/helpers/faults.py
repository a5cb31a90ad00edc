"""Seeded mutations of what files hold, and a count of those that were tried."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

#: Tried, by kind; the terminal shows it at the end.
TRIED: Counter[str] = Counter()

_ODD = (
    *(None, True, "", "x", "9" * 5000, "\x1b[31m", [], {}, [[]], [None], {"a": 1}, [1, 2, 3]),
    *(-1, 0, 0.5, 2**31, 2**63, 10**30, 10**400, -1e308, float("nan"), float("inf")),
)


def count(kind: str) -> None:
    """Note that one was tried."""
    TRIED[kind] += 1


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """``content`` with 1 to 4 bytes of another value, or with one bit flipped."""
    changed = bytearray(content)
    if rng.random() < 0.5:
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(changed)


def mutated_value(value: Any, rng: random.Random) -> Any:
    """A JSON value of which a part, however deep, is gone, of another kind or of another name."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    place, key = rng.choice(places)
    if rng.random() < 0.2:
        del place[key]
    elif isinstance(place, dict) and rng.random() < 0.2:
        place[f"{key}s"] = place.pop(key)
    else:
        place[key] = rng.choice(_ODD)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
