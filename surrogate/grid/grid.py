"""A grid: its axes, the configurations they name, and the experiments that follow."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from surrogate import machine
from surrogate.datasets import Dataset
from surrogate.grid.experiment import Experiment
from surrogate.grid.request import Request
from surrogate.training.windows import plan_run, spiking_trials
from surrogate.validated import validate, validated

__all__ = ["Grid", "plan_grid"]

_FORMAT, _VERSION = "surrogate-grid", 2


@validated("grid")
@dataclass(frozen=True)
class Grid:
    """All experiments of one grid.

    Attributes
    ----------
    request : Request
        Axes, recipe and overrides as the user gave them.
    configurations : tuple of Experiment
        One of each stack, before learning rate, class weight and seed. Kept, so that the grid stays
        what it was when a recipe's file changes.
    """

    request: Request
    configurations: Annotated[tuple[Experiment, ...], Field(min_length=1)]

    @property
    def common(self) -> Experiment:
        """One configuration, for what all have in common: the data."""
        return self.configurations[0]

    def open_data(self, path: str | os.PathLike[str] | None = None) -> Dataset:
        """The grid's data set; see :meth:`RunConfig.open_data`."""
        return self.common.open_data(path, "this grid")

    def experiments(self) -> list[Experiment]:
        """Every combination of the axes, in their order.

        Raises
        ------
        UsageError
            If a combination is no valid recipe.
        """
        request = self.request
        found = {}
        for base, rate, weight, number in itertools.product(
            self.configurations,
            request.learning_rate,
            request.class_weight,
            range(request.seeds),
        ):
            recipe = dataclasses.replace(
                base.recipe, learning_rate=rate, class_weight=1.0 if weight is None else weight
            )
            seed = request.seed(number, base.spec.arch, base.spec.hidden_sizes, rate, weight)
            experiment = dataclasses.replace(base, recipe=recipe, seed=seed)
            found[experiment.hash] = experiment
        return list(found.values())

    def to_dict(self) -> dict[str, Any]:
        """As stored in ``grid.json``."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "request": dataclasses.asdict(self.request),
            "configurations": [one.to_dict() for one in self.configurations],
            "versions": machine.versions(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        """From :meth:`to_dict`'s; ValueError if it is damaged."""
        if (values.get("format"), values.get("version")) != (_FORMAT, _VERSION):
            raise ValueError(f"not a {_FORMAT} of version {_VERSION}")
        stored = {key: values.get(key) for key in ("request", "configurations")}
        return validate(cls, stored, "grid")


def plan_grid(request: Request, dataset: Dataset) -> Grid:
    """The grid that ``request`` means on ``dataset``, with every experiment checked to be possible.

    Parameters
    ----------
    request : Request
    dataset : Dataset
        With trials of the splits "train" and "valid".

    Raises
    ------
    UsageError
        For a stack or recipe that does not exist, or data too small for it.
    """
    configurations = [
        Experiment.for_dataset(
            dataset,
            arch,
            sizes,
            request.recipe,
            request.settings(sizes),
            labels=request.labels,
            reuse_windows=request.reuse_windows,
        )
        for arch, sizes in itertools.product(request.arch, request.hidden)
    ]
    grid = Grid(request, tuple(configurations))
    for split in ("train", "valid"):
        spiking_trials(dataset, split)
    for experiment in {one.configuration: one for one in grid.experiments()}.values():
        plan_run(dataset, experiment.recipe, experiment.seed, experiment.reuse_windows)
    return grid
