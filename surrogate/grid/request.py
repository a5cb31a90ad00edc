"""What a user asks of a grid: from a TOML file, from options, or from both."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import AfterValidator, BeforeValidator, Field

from surrogate.errors import DataError, UsageError
from surrogate.files import explain_os_error
from surrogate.kernels import architecture, join_sizes, parse_sizes
from surrogate.kernels.architectures import GRID_ARCHITECTURES, HIDDEN_SIZES
from surrogate.stored import read_toml
from surrogate.validated import hint, short, validate, validated

__all__ = ["Request", "is_given", "read_grid_file", "read_request"]

#: An experiment takes about 6 kB where a grid is planned, a configuration 2 kB in its file.
MAX_EXPERIMENTS, MAX_CONFIGURATIONS = 100_000, 5_000

T = TypeVar("T")


def _listed(value: Any) -> tuple[Any, ...]:
    """The values of an axis: a list, one value, or on the command line text joined by commas."""
    parts = value if isinstance(value, list | tuple) else [value]
    return tuple(
        piece
        for part in parts
        for piece in (part.replace(" ", "").split(",") if isinstance(part, str) else [part])
    )


def _unique(values: tuple[T, ...]) -> tuple[T, ...]:
    seen = set()
    for value in values:
        if value in seen:
            raise UsageError(f"lists {value} twice; leave one out")
        seen.add(value)
    return values


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        return parse_sizes(value)
    if isinstance(value, list | tuple):  # in the grid's own file
        return tuple(value)
    raise UsageError(f"{short(value)}: expected sizes such as '256-64-2'")


def _number(value: Any) -> Any:
    try:  # on the command line numbers are text
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _weight(value: Any) -> Any:
    number = None if value == "none" else _number(value)
    if isinstance(number, str):
        raise UsageError(f"{short(value)}: expected a number or 'none'")
    return None if number == 1 else number


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    for axis in ("learning_rate", "class_weight"):
        if axis in values:
            raise UsageError(f"sets {axis}, an axis of the grid; give it as one")
    return values


Axis = Annotated[tuple[T, ...], BeforeValidator(_listed), AfterValidator(_unique)]
Settings = Annotated[dict[str, Any], AfterValidator(_settings)]


@validated("grid")
@dataclass(frozen=True)
class Request:
    """Axes and recipe of a grid; by default the blog's 216 experiments.

    Attributes
    ----------
    arch : tuple of str
    hidden : tuple of tuple of int
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
    set : dict
        Recipe values for all experiments.
    set_by_size : dict of str to dict
        Recipe values for the experiments of one size, by its name such as "256-64-2".
    labels : "exact" | "legacy"
    reuse_windows : bool
        Begin anew when the data run out; on the bundled sample always.
    """

    arch: Axis[Annotated[str, AfterValidator(lambda name: architecture(name).name)]] = (
        GRID_ARCHITECTURES
    )
    hidden: Axis[Annotated[tuple[int, ...], BeforeValidator(_sizes)]] = HIDDEN_SIZES
    learning_rate: Axis[Annotated[float, BeforeValidator(_number)]] = (0.001, 0.003, 0.006, 0.01)
    class_weight: Axis[Annotated[float | None, BeforeValidator(_weight)]] = (None, 5.0, 20.0)
    seeds: Annotated[int, Field(ge=1, le=10**9)] = 1
    same_seeds: bool = False
    recipe: str = "blog"
    set: Settings = field(default_factory=dict)
    set_by_size: dict[str, Settings] = field(default_factory=dict)
    labels: Literal["exact", "legacy"] = "exact"
    reuse_windows: bool = False

    def __post_init__(self) -> None:
        configurations = len(self.arch) * len(self.hidden)
        rates = len(self.learning_rate) * len(self.class_weight)
        for what, count, most in (
            ("configurations", configurations, MAX_CONFIGURATIONS),
            ("experiments", configurations * rates * self.seeds, MAX_EXPERIMENTS),
        ):
            if count > most:
                raise UsageError(f"a grid of {count:,} {what}: expected at most {most:,}")
        for size in self.set_by_size:
            if parse_sizes(size) not in self.hidden:
                raise UsageError(
                    f"grid set_by_size names {size}, which is not among its hidden sizes"
                )

    def settings(self, sizes: tuple[int, ...]) -> dict[str, Any]:
        """Recipe values for the experiments of one size."""
        return self.set | self.set_by_size.get(join_sizes(sizes), {})

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
    known = [*get_type_hints(Request), "data", "out", "slurm"]
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key {short(key)}{hint(key, known)}")
    for key in ("data", "out"):
        if key in table:
            table[key] = str(Path(path).parent / validate(str, table[key], f"{path}: {key}"))
    recipe = table.get("recipe")
    if isinstance(recipe, str) and recipe.endswith(".toml"):
        table["recipe"] = str(Path(path).parent / recipe)
    return table


def is_given(value: Any) -> bool:
    """Whether an option says something: it is neither None nor an empty list or table."""
    return value is not None and not (isinstance(value, list | tuple | dict) and not value)


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
    given = {key: value for key, value in table.items() if is_given(value)}
    return validate(Request, given, "grid")
