"""What a user asks of a grid: from a TOML file, from options, or from both."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surrogate.errors import DataError, UsageError
from surrogate.files import explain_os_error
from surrogate.kernels import join_sizes, parse_sizes
from surrogate.kernels.architectures import ARCHITECTURES, HIDDEN_SIZES
from surrogate.stored import read_toml

__all__ = ["Request", "read_grid_file", "read_request"]

#: Keys of a grid file. ``data``, ``out`` and ``slurm`` say where to run, the rest what.
_KEYS = (
    *("arch", "hidden", "learning_rate", "class_weight", "seeds", "same_seeds"),
    *("recipe", "labels", "set", "set_by_size", "reuse_windows", "data", "out", "slurm"),
)


@dataclass(frozen=True)
class Request:
    """Axes and recipe of a grid; by default the blog's 216 experiments.

    Attributes
    ----------
    arch : tuple of str
    hidden_sizes : tuple of tuple of int
    learning_rate : tuple of float
    class_weight : tuple of float or None
        None is no weight.
    seeds : int
        How often each combination is trained.
    same_seeds : bool
        Whether all combinations take the seeds 0 to ``seeds - 1``. Otherwise each has seeds of its
        own, so that experiments are independent: a stack's initial weights may decide whether it
        learns at all, and with one seed they are the same for all learning rates and class
        weights.
    recipe : str
        "blog", "tuned" or the path of a recipe file.
    overrides : dict
        Recipe values for all experiments.
    size_overrides : dict of str to dict
        Recipe values for the experiments of one size, by its name such as "256-64-2".
    labels : "exact" | "legacy"
    reuse_windows : bool
        Begin anew when the data run out; on the bundled sample always.
    """

    arch: tuple[str, ...] = tuple(ARCHITECTURES)
    hidden_sizes: tuple[tuple[int, ...], ...] = HIDDEN_SIZES
    learning_rate: tuple[float, ...] = (0.001, 0.003, 0.006, 0.01)
    class_weight: tuple[float | None, ...] = (None, 5.0, 20.0)
    seeds: int = 1
    same_seeds: bool = False
    recipe: str = "blog"
    overrides: dict[str, Any] = field(default_factory=dict)
    size_overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: str = "exact"
    reuse_windows: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        """Read what ``dataclasses.asdict`` gave, back from JSON."""
        axes = ("arch", "learning_rate", "class_weight")
        sizes = tuple(tuple(one) for one in values["hidden_sizes"])
        return cls(**{**values, **{key: tuple(values[key]) for key in axes}, "hidden_sizes": sizes})

    def seed(self, number: int, *axes: object) -> int:
        """The seed of the ``number``-th experiment of a combination, whose values ``axes`` are.

        A function of these alone, so that it is the same in every grid that holds the combination.
        """
        if self.same_seeds:
            return number
        text = json.dumps([number, *axes])
        return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 1_000_000


def read_grid_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The table of a grid file, its keys checked; ``data`` and ``recipe`` relative to the file.

    Raises
    ------
    DataError
        If the file cannot be read or is not TOML.
    UsageError
        If it holds an unknown key; a close one is suggested.
    """
    try:
        table = read_toml(path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    except ValueError as error:
        raise DataError(f"{path}: not a TOML file ({error})") from error
    for key in table:
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(_KEYS)}"
            raise UsageError(f"{path}: unknown key {key!r}: {hint}")
    for key in ("data", "out"):
        if key in table:
            if not isinstance(table[key], str):
                raise UsageError(f"{path}: {key} = {table[key]!r}: expected a path")
            table[key] = str(Path(path).parent / table[key])
    recipe = table.get("recipe")
    if isinstance(recipe, str) and recipe.endswith(".toml"):
        table["recipe"] = str(Path(path).parent / recipe)
    return table


def read_request(table: Mapping[str, Any]) -> Request:
    """Read a request; whatever is left out is the blog's.

    Parameters
    ----------
    table : mapping
        As a grid file holds it. An axis is a list, or a single value; on the command line values
        are text.

    Raises
    ------
    UsageError
        If a value has the wrong form.
    """
    given = {key: value for key, value in table.items() if value not in (None, (), [])}
    values: dict[str, Any] = {}
    if "arch" in given:
        values["arch"] = _unique("arch", [_arch(one) for one in _listed(given["arch"])])
    if "hidden" in given:
        values["hidden_sizes"] = _unique("hidden", [_sizes(s) for s in _listed(given["hidden"])])
    for key, read in (("learning_rate", _rate), ("class_weight", _weight)):
        if key in given:
            values[key] = _unique(key, [read(one) for one in _listed(given[key])])
    if "seeds" in given:
        values["seeds"] = _positive("seeds", given["seeds"])
    for key in ("same_seeds", "reuse_windows"):
        if key in given:
            values[key] = given[key]
            if type(given[key]) is not bool:
                raise UsageError(f"grid {key} = {given[key]!r}: expected true or false")
    if "labels" in given:
        values["labels"] = _one_of("labels", given["labels"], ("exact", "legacy"))
    if "recipe" in given:
        values["recipe"] = str(given["recipe"])
    values["overrides"] = _settings("set", given.get("set", {}))
    values["size_overrides"] = {
        join_sizes(_sizes(size)): _settings(f"set_by_size.{size}", settings)
        for size, settings in _table("set_by_size", given.get("set_by_size", {})).items()
    }
    request = Request(**values)
    for size in request.size_overrides:
        if parse_sizes(size) not in request.hidden_sizes:
            raise UsageError(f"grid set_by_size names {size}, which is not among its hidden sizes")
    return request


def _listed(value: Any) -> list[Any]:
    """The values of an axis; on the command line they may be joined by commas."""
    parts = value if isinstance(value, list | tuple) else [value]
    return [
        piece
        for part in parts
        for piece in (part.replace(" ", "").split(",") if isinstance(part, str) else [part])
    ]


def _unique(key: str, values: Iterable[Any]) -> tuple[Any, ...]:
    listed = list(values)
    for value in listed:
        if listed.count(value) > 1:
            raise UsageError(f"grid {key} lists {value} twice; leave one out")
    return tuple(listed)


def _arch(value: Any) -> str:
    return _one_of("arch", value, tuple(ARCHITECTURES))


def _one_of(key: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UsageError(f"grid {key} = {value!r}: expected {' or '.join(choices)}")
    return str(value)


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, str):
        raise UsageError(f"grid hidden = {value!r}: expected sizes such as '256-64-2'")
    return parse_sizes(value)


def _rate(value: Any) -> float:
    return _number("learning_rate", value)


def _weight(value: Any) -> float | None:
    weight = None if value == "none" else _number("class_weight", value)
    return None if weight == 1 else weight


def _number(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        expected = "a number or 'none'" if key == "class_weight" else "a number"
        raise UsageError(f"grid {key} = {value!r}: expected {expected}") from None


def _positive(key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UsageError(f"grid {key} = {value!r}: expected a whole number from 1")
    return value


def _table(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"grid {key} = {value!r}: expected a table [{key}]")
    return dict(value)


def _settings(key: str, value: Any) -> dict[str, Any]:
    settings = _table(key, value)
    for axis in ("learning_rate", "class_weight"):
        if axis in settings:
            raise UsageError(f"grid {key} sets {axis}, an axis of the grid; give it as one")
    return settings
