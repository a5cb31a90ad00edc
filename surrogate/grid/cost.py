"""The time of experiments, measured on a few steps of each configuration on this machine.

Measurements are kept for a week in the user's cache folder, so that a dry run need not repeat
those of another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from surrogate import machine
from surrogate.datasets import Dataset
from surrogate.errors import DataError
from surrogate.files import atomic_write_text
from surrogate.grid.experiment import Experiment
from surrogate.kernels import PROVIDERS, default_provider
from surrogate.stored import read_json
from surrogate.training.finish import finish
from surrogate.training.loop import train_to_end
from surrogate.training.run import open_trainer
from surrogate.training.run_folder import RunFolder
from surrogate.training.trainer import VALIDATION_SHARE, TrainingProgress
from surrogate.validated import validate, validated
from surrogate.version import __version__

__all__ = ["StepCost", "calibrate", "disk_bytes"]

#: Steps of a measurement. The first, which allocates memory, does not count.
_STEPS = 3

#: Short steps are measured again, for so many seconds and up to so many of them: only after a few
#: do they wait for the batches that they read, as during the rest of a training.
_MEASURED_S = 1.0
_MOST_STEPS = 40
_KEPT_S = 7 * 86400.0


@validated("calibration")
@dataclass(frozen=True)
class StepCost:
    """The time of one configuration on one machine, seconds.

    Attributes
    ----------
    step : float
        An optimiser step, reading its windows included.
    epoch_end : float
        Saving, and the fixed part of the evaluation, on top of the epoch's steps.
    finish : float
        Evaluating the epoch kept on all validation trials and writing the model file.
    time : float
        When it was measured, seconds since the epoch.
    """

    step: Annotated[float, Field(gt=0)]
    epoch_end: Annotated[float, Field(ge=0)]
    finish: Annotated[float, Field(ge=0)]
    time: float = field(default_factory=time.time)

    def seconds(self, experiment: Experiment) -> float:
        """A whole experiment, without early stopping."""
        recipe = experiment.recipe
        steps = recipe.steps * self.step * (1 + VALIDATION_SHARE)
        return steps + recipe.epochs * self.epoch_end + self.finish


def calibrate(
    experiments: Sequence[Experiment],
    dataset: Dataset,
    device: str,
    report: Callable[[str], None] = lambda name: None,
) -> dict[str, float]:
    """Predicted seconds of each experiment on this machine, by its hash.

    Parameters
    ----------
    experiments : sequence of Experiment
    dataset : Dataset
    device : str
    report : callable
        Called with the name of each configuration before it is measured.
    """
    cache = _cache_path()
    known = _read(cache)
    costs: dict[str, float] = {}
    measured: dict[str, StepCost] = {}
    for experiment in experiments:
        key = _key(experiment, device)
        if key not in measured:
            if key not in known:
                report(experiment.configuration)
                known[key] = _measure(experiment, dataset, device)
                with contextlib.suppress(DataError):  # without a cache the next grid measures again
                    _write(cache, known)
            measured[key] = known[key]
        costs[experiment.hash] = measured[key].seconds(experiment)
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # workers use the free memory as a measure
    return costs


def disk_bytes(parameters: int, finished: bool) -> int:
    """Disk space of an experiment: a model file, and until it is finished two checkpoints.

    A checkpoint holds weights, their average, the epoch kept and two moments, 4 bytes each.
    """
    model = 4 * parameters + 100_000
    return model if finished else model + 2 * 5 * 4 * parameters


def _measure(experiment: Experiment, dataset: Dataset, device: str) -> StepCost:
    """Train a few steps, or more if they are short."""
    first = _train(experiment, dataset, device, _STEPS)
    steps = min(_MOST_STEPS, int(_MEASURED_S / first.step))
    return _train(experiment, dataset, device, steps) if steps > _STEPS else first


def _train(experiment: Experiment, dataset: Dataset, device: str, steps: int) -> StepCost:
    """Measure ``steps`` optimiser steps in a temporary folder.

    Where the recipe's epochs are longer than that, in one epoch, else in epochs as it has them.
    """
    batch_size = experiment.recipe.batch_size
    length = min(steps, experiment.recipe.steps_per_epoch)
    recipe = dataclasses.replace(
        experiment.recipe,
        epochs=-(-steps // length),
        windows_per_epoch=length * batch_size,
        patience=0,
        learning_rate=0.0,
        learning_rate_min=0.0,
    )
    config = dataclasses.replace(experiment, recipe=recipe, reuse_windows=True)
    times: list[tuple[float, float]] = []

    def note(progress: TrainingProgress) -> None:
        times.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory(prefix="surrogate-") as folder:
        trainer = open_trainer(config, dataset, RunFolder(folder), device)
        train_to_end(trainer, note)
        began = time.perf_counter()
        finish(trainer, plots=False)
        finishing = time.perf_counter() - began
    # A thread reads the batches; with a worker on every core it has no core of its own.
    gaps = [
        max(after[0] - before[0], after[1] - before[1] if device == "cpu" else 0.0)
        for before, after in itertools.pairwise(times)
    ]
    # The gap before the last step of an epoch holds its end, which runs the evaluation windows.
    ends = gaps[length - 2 :: length] if length > 1 else gaps
    within = [gap for index, gap in enumerate(gaps) if (index + 2) % length] or ends
    settled = within[len(within) // 3 :]
    step = sum(settled) / len(settled)
    ending = sum(ends) / len(ends) - step * (1 + VALIDATION_SHARE * length)
    return StepCost(step, max(0.0, ending), finishing)


def _key(experiment: Experiment, device: str) -> str:
    """Everything that a measurement depends on, as a key."""
    recipe = experiment.recipe
    kernels = PROVIDERS[default_provider(device, spec=experiment.spec)].label
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return " | ".join(
        [
            f"{machine.cpu_name()}, {os.cpu_count()} cores",
            f"{where}, {kernels}, torch {torch.__version__}, surrogate {__version__}",
            f"{experiment.configuration}, {recipe.head}",
            f"{recipe.batch_size} x {recipe.window_ms} ms, {recipe.window_rule}",
            f"{recipe.steps_per_epoch} steps an epoch",
            f"dropped {recipe.event_drop}, moved {recipe.segment_jitter}",
            f"data {experiment.data_digest[:12]}",
        ]
    )


def _cache_path() -> Path:
    return machine.cache_folder() / "calibration.json"


def _write(path: Path, known: Mapping[str, StepCost]) -> None:
    entries = {key: dataclasses.asdict(cost) for key, cost in known.items()}
    atomic_write_text(path, json.dumps(entries, indent=1) + "\n")


def _read(path: Path) -> dict[str, StepCost]:
    """Costs that were measured within a week; damaged entries are left out."""
    try:
        entries = read_json(path)
    except (OSError, ValueError):
        return {}
    known = {}
    for key, entry in entries.items():
        with contextlib.suppress(ValueError):
            cost = validate(StepCost, entry, "calibration")
            if 0 <= time.time() - cost.time < _KEPT_S:
                known[key] = cost
    return known
