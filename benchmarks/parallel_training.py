"""Training runs in parallel against one after the other.

``python -m surrogate.benchmarks.parallel_training`` prints it as JSON.

Whole optimiser steps of the blog's recipe on the bundled sample, with learning rates and class
weights as in the blog's grid: reading, forward, backward, and each run's AdamW. On a GPU the runs
share every launch; on a CPU nothing is gained.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from surrogate import datasets
from surrogate.datasets import Dataset
from surrogate.errors import SurrogateError
from surrogate.kernels import default_provider
from surrogate.training.loop import train_together
from surrogate.training.recipe import load_recipe
from surrogate.training.run import open_trainer
from surrogate.training.run_config import RunConfig
from surrogate.training.run_folder import RunFolder
from surrogate.training.trainer import Trainer, TrainingProgress

__all__ = ["measure"]

#: Largest relative difference of a step's loss between a run in parallel and the same run alone.
PARITY_BOUND = 1e-4
_CHOICES = tuple(itertools.product((0.001, 0.003, 0.006, 0.01), (1.0, 5.0, 20.0)))


def measure(
    arch: str,
    hidden: str,
    models: int,
    steps: int,
    device: str,
    same_seeds: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """Time ``steps`` steps of ``models`` runs, in parallel and one after the other.

    Parameters
    ----------
    arch, hidden : str
        Such as "lstm" and "32-16-2".
    models, steps : int
        At least 1 and 3; the first step (compilation) and the last (evaluation) are not timed.
    device : str
    same_seeds : bool
        Whether all runs have one seed, and so read each batch once for all of them together.
    changes
        Recipe values other than the blog's.

    Returns
    -------
    dict
        ``config``, ``models``, ``steps``, ``device``, ``provider``, ``same_seeds``; ``parity``,
        the largest relative difference between losses; ``parallel_p50`` and ``sequential_p50``,
        median seconds of one step of all runs; and ``ratio``, sequential over parallel, or None
        where losses disagree.
    """
    batch = changes.get("batch_size", load_recipe("blog", arch).batch_size)
    overrides = {"epochs": 1, "windows_per_epoch": steps * batch, **changes}
    with datasets.open() as dataset, tempfile.TemporaryDirectory(prefix="surrogate-") as folder:

        def runs(kind: str) -> list[Trainer]:
            home = Path(folder) / kind
            return [
                _trainer(
                    dataset,
                    home / str(index),
                    (arch, hidden),
                    index,
                    0 if same_seeds else index,
                    device,
                    overrides,
                )
                for index in range(models)
            ]

        seconds, losses = _time(runs("parallel"))
        singles = [_time([run]) for run in runs("alone")]
    theirs = [loss for _, (loss,) in singles]
    parity = max(
        abs(a - b) / abs(b)
        for one, other in zip(losses, theirs, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    sequential = sum(statistics.median(gaps) for gaps, _ in singles)
    parallel = statistics.median(seconds)
    return {
        "config": f"{arch} {hidden}",
        "models": models,
        "steps": steps,
        "device": device,
        "provider": default_provider(device),
        "same_seeds": same_seeds,
        "parity": parity,
        "parity_bound": PARITY_BOUND,
        "parallel_p50": parallel,
        "sequential_p50": sequential,
        "ratio": sequential / parallel if parity <= PARITY_BOUND else None,
    }


def _trainer(
    dataset: Dataset,
    folder: Path,
    stack: tuple[str, str],
    index: int,
    seed: int,
    device: str,
    overrides: dict[str, Any],
) -> Trainer:
    arch, hidden = stack
    rate, weight = _CHOICES[index % len(_CHOICES)]
    settings = {**overrides, "learning_rate": rate, "class_weight": weight}
    config = RunConfig.for_dataset(dataset, arch, hidden, "blog", settings, seed=seed)
    return open_trainer(config, dataset, RunFolder(folder), device)


def _time(trainers: Sequence[Trainer]) -> tuple[list[float], list[list[float]]]:
    """Seconds between the steps of all ``trainers``, and each one's losses."""
    times: list[float] = []
    losses: dict[Trainer, list[float]] = {trainer: [] for trainer in trainers}

    def note(trainer: Trainer, progress: TrainingProgress) -> None:
        if trainer is trainers[0]:  # the loss is on the CPU, so the GPU has finished the step
            times.append(time.perf_counter())
        losses[trainer].append(progress.loss)

    for _, error in train_together(trainers, note, lambda _: False):
        if error is not None:
            raise error
    return [after - before for before, after in itertools.pairwise(times)][:-1], [*losses.values()]


@click.command()
@click.option("--arch", default="lstm", show_default=True)
@click.option("--hidden", default="32-16-2", show_default=True)
@click.option("--models", default=12, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=12, show_default=True, type=click.IntRange(4))
@click.option("--device", default=None, help="cpu or cuda [default: cuda if there is].")
@click.option("--same-seeds", is_flag=True, help="One seed for all, as with grid run --same-seeds.")
def main(
    arch: str, hidden: str, models: int, steps: int, device: str | None, same_seeds: bool
) -> None:
    """Print how long a step of several runs takes, in parallel and one after the other, as JSON."""
    torch.set_num_threads(1)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        row = measure(arch, hidden, models, steps, device, same_seeds)
    except SurrogateError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from error
    click.echo(json.dumps(row, indent=1))
    if row["ratio"] is None:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
