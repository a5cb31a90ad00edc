"""Runs of one configuration that differ in everything they may, for training together and alone."""

from __future__ import annotations

from pathlib import Path

import torch

from surrogate import datasets
from surrogate.training.loop import train_together
from surrogate.training.run import open_trainer
from surrogate.training.run_config import RunConfig
from surrogate.training.run_folder import RunFolder
from surrogate.training.trainer import Trainer

#: Learning rate, class weight and seed of each run.
CHOICES = ((0.001, 1.0, 0), (0.01, 20.0, 0), (0.006, 5.0, 1))


def trainers(data: Path, folder: Path, arch: str, sizes: tuple[int, ...], **overrides) -> list:
    """A run for each of :data:`CHOICES`, resumed where it has a checkpoint."""
    found = []
    for rate, weight, seed in CHOICES:
        changes = {**overrides, "learning_rate": rate, "class_weight": weight}
        dataset = datasets.open(data)
        config = RunConfig.for_dataset(
            dataset, arch, sizes, "blog", changes, seed=seed, reuse_windows=True
        )
        run = RunFolder(folder / f"{rate} {weight} {seed}")
        found.append(open_trainer(config, dataset, run))
        found[-1].resume()
    return found


def train(*group: Trainer) -> None:
    """Train the runs of ``group`` together to their ends."""
    ended = dict(train_together(group, lambda *_: None, lambda _: False))
    assert set(ended) == set(group)
    assert all(trainer.done and error is None for trainer, error in ended.items())


def assert_same_runs(ours: list[Trainer], alone: list[Trainer]) -> None:
    """Bit for bit: last weights, weights kept, and every epoch's metrics; and no two are equal."""
    for one, other in zip(ours, alone, strict=True):
        for name, value in one.stack.state_dict().items():
            assert torch.equal(value, other.stack.state_dict()[name]), name
        for name, value in one.best_stack().state_dict().items():
            assert torch.equal(value, other.best_stack().state_dict()[name]), name
        assert one.history == other.history
        assert one.input_rate_hz == other.input_rate_hz
    losses = [trainer.history[-1]["loss"] for trainer in ours]
    assert len(set(losses)) == len(losses)
