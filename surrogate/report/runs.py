"""The finished experiments of a grid, as the report needs them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surrogate.errors import DataError
from surrogate.grid.experiment import Experiment
from surrogate.grid.folder import ExperimentFolder

__all__ = ["Run", "read_run"]


@dataclass(frozen=True)
class Run:
    """A finished experiment.

    Attributes
    ----------
    experiment : Experiment
    folder : Path
    unstable_reason : str or None
        None if it was stable.
    parameters : int
    windows : int
        Windows trained on, repeated ones counted again.
    seconds : float
        Of training and evaluation; of what trained together, an equal share.
    scores : dict
        On the validation trials, by the names of ``docs/evaluation.md``; empty if the run failed
        before an epoch ended.
    versions : dict
        Of what computed it.
    provider, processor : str
        What computed it, and on which.
    """

    experiment: Experiment
    folder: Path
    unstable_reason: str | None
    parameters: int
    windows: int
    seconds: float
    scores: dict[str, Any]
    versions: dict[str, str]
    provider: str
    processor: str

    @property
    def arch(self) -> str:
        """Of its stack."""
        return self.experiment.spec.arch

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Of its stack."""
        return self.experiment.spec.hidden_sizes

    @property
    def unstable(self) -> bool:
        """Whether the training was unstable."""
        return self.unstable_reason is not None

    @property
    def roc_auc(self) -> float | None:
        """On the validation trials, or None: no spikes, or no weights to evaluate."""
        value = self.scores.get("roc_auc")
        return value if isinstance(value, float) and math.isfinite(value) else None

    @property
    def hours(self) -> float:
        """Simulated time trained on, repeated windows counted again."""
        return self.windows * self.experiment.recipe.window_ms / 3.6e6


def read_run(experiment: Experiment, folder: ExperimentFolder) -> Run:
    """What the record of a finished experiment says.

    Raises
    ------
    DataError
        If the record is gone or damaged.
    """
    record = folder.done()
    if record is None:
        raise DataError(
            f"{folder.path}: done.json is gone or damaged; remove it and continue the grid"
        )
    return Run(
        experiment=experiment,
        folder=folder.path,
        unstable_reason=record["unstable_reason"],
        parameters=record["parameters"],
        windows=record["windows"],
        seconds=record["own_seconds"],
        scores=dict(record["scores"]["valid"]),
        versions=record["versions"],
        provider=record["provider"],
        # Reports are passed on: they name the processor, not the machine.
        processor=record["machine"].partition(", ")[2],
    )
