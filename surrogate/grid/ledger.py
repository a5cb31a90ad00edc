"""The ledger of a grid: the status of each experiment, read from its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from surrogate.grid.experiment import Experiment
from surrogate.grid.folder import GridFolder
from surrogate.grid.lease import read_lease

__all__ = ["STATUSES", "Ledger", "Row", "read_row"]

#: "pending" includes experiments that were begun and interrupted.
STATUSES = ("done", "unstable", "running", "failed", "pending")


@dataclass(frozen=True)
class Row:
    """The status of one experiment.

    Attributes
    ----------
    experiment : Experiment
    status : str
        One of :data:`STATUSES`.
    seconds : float
        Computing time so far, over all attempts.
    progress : float
        Share of its steps that were taken, 0 to 1: less than 1 if it ended early.
    finished : float or None
        When it was finished, seconds since the epoch.
    roc_auc : float or None
        On the validation trials.
    error : str or None
        Why it failed or is unstable.
    host : str or None
        Where it is running.
    process : int or None
        Its process there.
    """

    experiment: Experiment
    status: str
    seconds: float = 0.0
    progress: float = 0.0
    finished: float | None = None
    roc_auc: float | None = None
    error: str | None = None
    host: str | None = None
    process: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "hash": self.experiment.hash,
            **self.experiment.axes(),
            "status": self.status,
            "progress": round(self.progress, 4),
            "seconds": self.seconds,
            "roc_auc": self.roc_auc,
            "error": self.error,
            "host": self.host,
        }


def read_row(folder: GridFolder, experiment: Experiment) -> Row:
    """The present status of ``experiment``."""
    home = folder.experiment(experiment.hash)
    recipe = experiment.recipe
    if record := home.done():
        return Row(
            experiment,
            record["status"],
            seconds=record["seconds"],
            progress=record["windows"] / (recipe.steps * recipe.batch_size),
            finished=record["finished"],
            roc_auc=record["scores"]["valid"].get("roc_auc"),
            error=record["unstable_reason"],
        )
    if lease := read_lease(home.path):
        steps = lease["steps"]
        return Row(
            experiment,
            "running",
            seconds=lease["seconds"],
            progress=lease["step"] / steps if steps else 0.0,
            host=lease["host"],
            process=lease["pid"],
        )
    if failure := home.failure():
        return Row(experiment, "failed", error=failure["error"])
    return Row(experiment, "pending")


class Ledger:
    """All rows of a grid, in its order.

    Parameters
    ----------
    folder : GridFolder
    experiments : sequence of Experiment
    """

    def __init__(self, folder: GridFolder, experiments: Sequence[Experiment]) -> None:
        self.folder = folder
        self.rows = {one.hash: read_row(folder, one) for one in experiments}

    def refresh(self, names: Iterable[str]) -> None:
        """Read these rows again, given by their experiments' hashes."""
        for name in names:
            self.rows[name] = read_row(self.folder, self.rows[name].experiment)

    def counts(self) -> dict[str, int]:
        """Experiments by status."""
        found = Counter(row.status for row in self.rows.values())
        return {status: found[status] for status in STATUSES}
