"""A grid: its axes, the recipe they vary, and the experiments that follow."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from surrogate import datasets, machine
from surrogate.datasets import Dataset
from surrogate.errors import UsageError
from surrogate.grid.experiment import Experiment
from surrogate.grid.request import Request
from surrogate.training.recipe import Recipe, load_recipe
from surrogate.training.windows import plan_windows

__all__ = ["Grid", "plan_grid"]

_FORMAT, _VERSION = "surrogate-grid", 1


@dataclass(frozen=True)
class Grid:
    """All experiments of one grid.

    Attributes
    ----------
    request : Request
        Axes, recipe and overrides as they were asked for.
    recipes : dict of str to Recipe
        The effective recipe of each configuration ("lstm 256-64-2"), before learning rate and class
        weight. Kept, so that the grid stays what it was when a recipe's file changes.
    data : str or None
        Where the data set was; None is the bundled sample.
    data_digest : str
        Of its contents.
    reuse_windows : bool
    """

    request: Request
    recipes: dict[str, Recipe]
    data: str | None
    data_digest: str
    reuse_windows: bool

    def experiments(self) -> list[Experiment]:
        """Every combination of the axes, in their order.

        Raises
        ------
        UsageError
            If a combination is no valid recipe.
        """
        request = self.request
        found = {}
        for arch, sizes, rate, weight, number in itertools.product(
            request.arch,
            request.hidden_sizes,
            request.learning_rate,
            request.class_weight,
            range(request.seeds),
        ):
            recipe = dataclasses.replace(
                self.recipes[_configuration(arch, sizes)],
                learning_rate=rate,
                pos_weight=1.0 if weight is None else weight,
            )
            seed = request.seed(number, arch, sizes, rate, weight)
            experiment = Experiment(arch, sizes, recipe, seed, request.labels, self.data_digest)
            found[experiment.hash] = experiment
        return list(found.values())

    def open_data(self, path: str | Path | None = None) -> Dataset:
        """The data, from where they were or from ``path``; see :func:`datasets.open_recorded`."""
        return datasets.open_recorded(self.data, self.data_digest, "this grid", path)

    def to_json(self) -> str:
        """As stored in ``grid.json``."""
        request = self.request
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "axes": {
                "arch": request.arch,
                "hidden_sizes": request.hidden_sizes,
                "learning_rate": request.learning_rate,
                "class_weight": request.class_weight,
            },
            "seeds": request.seeds,
            "same_seeds": request.same_seeds,
            "recipe": request.recipe,
            "overrides": request.overrides,
            "size_overrides": request.size_overrides,
            "recipes": {name: recipe.to_dict() for name, recipe in self.recipes.items()},
            "labels": request.labels,
            "reuse_windows": self.reuse_windows,
            "data": self.data,
            "data_digest": self.data_digest,
            "versions": machine.versions(),
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Grid:
        """Read :meth:`to_json`'s text; ValueError, TypeError, KeyError… if it is damaged."""
        values = json.loads(text)
        if values["format"] != _FORMAT or values["version"] != _VERSION:
            raise ValueError(f"not a {_FORMAT} of version {_VERSION}")
        axes = values["axes"]
        request = Request(
            arch=tuple(axes["arch"]),
            hidden_sizes=tuple(tuple(sizes) for sizes in axes["hidden_sizes"]),
            learning_rate=tuple(axes["learning_rate"]),
            class_weight=tuple(axes["class_weight"]),
            seeds=values["seeds"],
            same_seeds=values.get("same_seeds", True),  # of before there was a choice
            recipe=values["recipe"],
            overrides=values["overrides"],
            size_overrides=values["size_overrides"],
            labels=values["labels"],
        )
        return cls(
            request=request,
            recipes={name: _recipe(table) for name, table in values["recipes"].items()},
            data=values["data"],
            data_digest=values["data_digest"],
            reuse_windows=values["reuse_windows"],
        )


def plan_grid(request: Request, dataset: Dataset, reuse_windows: bool = False) -> Grid:
    """The grid that ``request`` means on ``dataset``, with every experiment checked to be possible.

    Parameters
    ----------
    request : Request
    dataset : Dataset
        With trials of the splits "train" and "valid".
    reuse_windows : bool
        Begin anew when the data run out; the bundled sample always does.

    Raises
    ------
    UsageError
        For a stack or recipe that does not exist, or data too small for it.
    """
    grid = Grid(
        request=request,
        recipes={
            _configuration(arch, sizes): load_recipe(
                request.recipe,
                arch,
                request.overrides | request.size_overrides.get(_joined(sizes), {}),
            )
            for arch, sizes in itertools.product(request.arch, request.hidden_sizes)
        },
        data=None if dataset.is_sample else str(dataset.path.resolve()),
        data_digest=dataset.digest,
        reuse_windows=reuse_windows or dataset.is_sample,
    )
    dataset.trial_indices("valid")
    for experiment in {one.configuration: one for one in grid.experiments()}.values():
        try:
            experiment.spec(dataset.n_inputs)
        except ValueError as error:
            raise UsageError(str(error)) from error
        recipe = experiment.recipe
        plan_windows(
            recipe.window_rule,
            dataset.trial_indices("train"),
            dataset.n_steps,
            recipe.window_ms,
            recipe.epochs * recipe.windows_per_epoch,
            experiment.seed,
            grid.reuse_windows,
        )
    return grid


def _joined(hidden_sizes: tuple[int, ...]) -> str:
    return "-".join(map(str, hidden_sizes))


def _configuration(arch: str, hidden_sizes: tuple[int, ...]) -> str:
    return f"{arch} {_joined(hidden_sizes)}"


def _recipe(table: Mapping[str, Any]) -> Recipe:
    values: dict[str, Any] = {
        key: math.inf if value == "inf" else value for key, value in table.items()
    }
    return Recipe(**values)
