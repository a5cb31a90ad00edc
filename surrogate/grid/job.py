"""A grid from Python and for `surrogate grid`: plan it, run it, look at it, try failures again."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from surrogate import datasets
from surrogate.datasets import Dataset
from surrogate.errors import Interrupted, UsageError
from surrogate.files import GRID_FOLDER
from surrogate.grid.cost import calibrate, disk_bytes
from surrogate.grid.experiment import Experiment
from surrogate.grid.folder import GridFolder
from surrogate.grid.grid import Grid, plan_grid
from surrogate.grid.ledger import Ledger
from surrogate.grid.local import TOGETHER_ON_A_GPU, LocalEngine, devices
from surrogate.grid.request import is_given, read_grid_file, read_request
from surrogate.grid.scheduler import Engine, run_grid
from surrogate.grid.task import Outcome
from surrogate.grid.time_left import in_order, seconds_left
from surrogate.training.loop import stop_on_signals

__all__ = ["GridJob", "GridProgress", "Workers", "plan", "retry", "status", "time_left"]

#: A running experiment, too, may be left to run: its worker may die.
_UNFINISHED = ("pending", "running")


@dataclass(frozen=True)
class Workers:
    """What runs a grid's experiments.

    Attributes
    ----------
    engine : "local" | "dask"
        Worker processes here, or a Dask cluster.
    jobs : int, optional
        Local workers; by default one per GPU, or without one per core.
    together : int, optional
        Experiments of one configuration that a worker trains together; by default 12 on a local
        GPU, where they share every launch, or with device "cuda"; else 1.
    device : "cpu" | "cuda", optional
        By default "cuda" where there is a GPU.
    scheduler : str, optional
        Address of a running Dask scheduler.
    slurm : mapping, optional
        Options of a Dask cluster of SLURM jobs; see docs/grid.md.
    ship_data : bool
        Send the data to Dask workers, once each.
    """

    engine: str = "local"
    jobs: int | None = None
    together: int | None = None
    device: str | None = None
    scheduler: str | None = None
    slurm: Mapping[str, Any] | None = None
    ship_data: bool = False

    def local(self) -> tuple[list[str], int]:
        """The device of each local worker, and how many experiments each trains together."""
        wanted = self.device
        if self.engine == "dask" and not torch.cuda.is_available():
            wanted = None  # the GPUs are the workers'
        found = devices(wanted, self.jobs)
        return found, self.together or (1 if found[0] == "cpu" else TOGETHER_ON_A_GPU)

    def start(
        self, folder: GridFolder, dataset: Dataset, slurm: Mapping[str, Any] | None = None
    ) -> Engine:
        """The engine, with ``slurm`` where no cluster is named; the caller closes it.

        Raises
        ------
        UsageError
            If options do not fit together, or Dask is not installed.
        SurrogateError
            If no scheduler answers.
        """
        data = None if dataset.is_sample else str(dataset.path)
        if self.engine == "local":
            of_dask = {
                "scheduler": self.scheduler,
                "cluster": self.slurm,
                "ship-data": self.ship_data,
            }
            for name, value in of_dask.items():
                if value:
                    raise UsageError(f"--{name} needs --engine dask")
            return LocalEngine(folder.path, data, *self.local())
        from surrogate.grid.cluster import DaskEngine, connect, connect_slurm

        if self.jobs:
            raise UsageError("--jobs is of the local engine; a Dask cluster has its own workers")
        if self.scheduler:
            client = connect(self.scheduler)
        elif isinstance(table := self.slurm or slurm, Mapping):
            client = connect_slurm(table)
        else:
            raise UsageError(
                "--engine dask needs --scheduler ADDRESS, or a [slurm] table in --cluster FILE"
            )
        together = self.together or (TOGETHER_ON_A_GPU if self.device == "cuda" else 1)
        return DaskEngine(folder.path, data, client, self.device, self.ship_data, together)


@dataclass(frozen=True)
class GridProgress:
    """How a running grid stands.

    Attributes
    ----------
    ledger : Ledger
    costs : mapping of str to float
        Predicted seconds of each experiment, by its hash.
    engine : Engine
    outcome : Outcome or None
        Of the task that has just ended, if one has.
    """

    ledger: Ledger
    costs: Mapping[str, float]
    engine: Engine
    outcome: Outcome | None

    @property
    def seconds_left(self) -> float:
        """Wall-clock time until every experiment is finished."""
        rows = list(self.ledger.rows.values())
        return seconds_left(rows, self.costs, self.engine.workers, self.engine.together)


@dataclass(frozen=True)
class GridJob:
    """A planned grid and where it runs.

    Attributes
    ----------
    folder : GridFolder
    grid : Grid
    dataset : Dataset
    slurm : mapping or None
        The grid file's [slurm] table.
    """

    folder: GridFolder
    grid: Grid
    dataset: Dataset
    slurm: Mapping[str, Any] | None = None

    def estimate(
        self, workers: Workers | None = None, say: Callable[[str], None] = lambda _: None
    ) -> dict[str, Any]:
        """What would run, for how long, and the disk space; some training steps are timed.

        Returns
        -------
        dict
            The object of ``surrogate grid run --dry-run --json``; docs/grid.md.
        """
        found, together = (workers or Workers()).local()
        ledger = Ledger(self.folder, self.grid.experiments())
        rows = list(ledger.rows.values())
        costs = self._calibrate([row.experiment for row in rows], found[0], say)
        sizes = sorted((row.experiment.spec.parameter_count for row in rows), reverse=True)
        running = sum(disk_bytes(size, finished=False) for size in sizes[: len(found) * together])
        return {
            "grid": ledger.folder.path,
            "counts": ledger.counts(),
            "jobs": len(found),
            "together": together,
            "estimated_hours": round(seconds_left(rows, costs, len(found), together) / 3600, 5),
            "disk_bytes": sum(disk_bytes(size, finished=True) for size in sizes) + running,
            "experiments": [
                {
                    "hash": row.experiment.hash,
                    **row.experiment.axes(),
                    "parameters": row.experiment.spec.parameter_count,
                    "status": row.status,
                    "estimated_seconds": round(costs[row.experiment.hash], 1),
                }
                for row in rows
            ],
        }

    def run(
        self,
        workers: Workers | None = None,
        progress: Callable[[GridProgress], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Ledger:
        """Run what is left of the grid.

        Parameters
        ----------
        workers : Workers, optional
            By default local ones, one per GPU or core.
        progress : callable
            Called with each outcome, and about every second.
        say : callable
            Called with a line before each longer stage.

        Returns
        -------
        Ledger
            How each experiment ended; failures are in it, not raised.

        Raises
        ------
        Interrupted
            On SIGINT or SIGTERM, after running experiments have saved.
        UsageError
            If the folder holds another grid, or ``workers`` do not fit together.
        DataError
            If nothing can be written any more.
        SurrogateError
            If the workers cannot do their work at all.
        """
        workers = workers or Workers()
        experiments = self.grid.experiments()
        ledger = Ledger(self.folder, experiments)
        left = [one for one in experiments if ledger.rows[one.hash].status in _UNFINISHED]
        say(f"grid folder: {self.folder.path}, {len(left)} of {len(experiments)} to run")
        if not left:
            return ledger
        engine = workers.start(self.folder, self.dataset, self.slurm)
        try:
            self.folder.create(self.grid)
            # As a local worker would take; the first results of a cluster correct it.
            self.folder.write_costs(self._calibrate(left, workers.local()[0][0], say))
        except BaseException:
            engine.close()
            raise
        costs = self.folder.costs()
        stop = threading.Event()
        try:
            with stop_on_signals(stop):
                run_grid(
                    [one.hash for one in in_order(left, costs)],
                    ledger,
                    engine,
                    stop,
                    lambda outcome: progress(GridProgress(ledger, costs, engine, outcome)),
                )
        except Interrupted:
            counts = ledger.counts()
            raise Interrupted(
                f"stopped, everything is saved: {counts['done'] + counts['unstable']} of "
                f"{len(experiments)} experiments are done; continue with: surrogate grid run --out "
                f"{self.folder.path}"
            ) from None
        return ledger

    def _calibrate(
        self, experiments: Sequence[Experiment], device: str, say: Callable[[str], None]
    ) -> dict[str, float]:
        try:
            return calibrate(experiments, self.dataset, device, lambda name: say(f"timing {name}"))
        except Interrupted:
            raise Interrupted(
                "stopped while timing training steps, before anything began"
            ) from None


def plan(
    data: str | os.PathLike[str] | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    **axes: Any,
) -> GridJob:
    """Plan a grid, or find the one that was begun in ``out``; nothing is written.

    Parameters
    ----------
    data : path, optional
        Data set; by default the file's, the begun grid's, or the bundled sample.
    file : path, optional
        A grid file (docs/grid.md); ``axes`` take precedence.
    out : path, optional
        The grid's folder; by default the file's, or ``runs/grid``.
    **axes
        Keys of a grid file: arch, hidden, learning_rate, class_weight (a value or a list), seeds,
        same_seeds, recipe, labels, reuse_windows, set (recipe values by key). What is left out is
        the blog's. With neither ``file`` nor ``axes`` a grid that was begun in ``out`` goes on.

    Raises
    ------
    UsageError
        For a key or value that does not exist, or data that are too small or not the grid's.
    DataError
        If the data, the file or the begun grid cannot be read.

    Examples
    --------
    >>> job = surrogate.grid.plan(arch="lstm", hidden=["32-2", "64-2"])  # doctest: +SKIP
    >>> job.estimate()["estimated_hours"]                                # doctest: +SKIP
    >>> ledger = job.run(surrogate.grid.Workers(jobs=2))                 # doctest: +SKIP
    """
    table = read_grid_file(file) if file else {}
    asked = {key: value for key, value in table.items() if key not in ("data", "out", "slurm")}
    given = {key: value for key, value in axes.items() if value is not False and is_given(value)}
    if "set" in given:
        given["set"] = dict(asked.get("set", {})) | given["set"]
    asked |= given
    folder = GridFolder(out or table.get("out") or GRID_FOLDER)
    where = data or table.get("data")
    if folder.exists() and not asked:
        grid = folder.grid()
        return GridJob(folder, grid, grid.open_data(where), table.get("slurm"))
    dataset = datasets.open(where)
    return GridJob(folder, plan_grid(read_request(asked), dataset), dataset, table.get("slurm"))


def status(folder: str | os.PathLike[str] = GRID_FOLDER) -> Ledger:
    """How each experiment of the grid in ``folder`` stands now, whoever runs it.

    Raises
    ------
    UsageError
        If there is no grid.
    DataError
        If its file is damaged.
    """
    place = GridFolder(folder)
    return Ledger(place, place.grid().experiments())


def retry(
    folder: str | os.PathLike[str] = GRID_FOLDER, experiments: Sequence[str] = ()
) -> list[str]:
    """Put failed experiments back, so that the next run tries them again; returns their hashes.

    Parameters
    ----------
    folder : path
    experiments : sequence of str
        Hashes; none means all that failed.

    Raises
    ------
    UsageError
        If there is no grid, or one of ``experiments`` has not failed.
    """
    ledger = status(folder)
    failed = [name for name, row in ledger.rows.items() if row.status == "failed"]
    for name in experiments:
        if name not in failed:
            raise UsageError(f"{name} is no failed experiment of {folder}; see grid status")
    retried = list(experiments) or failed
    for name in retried:
        ledger.folder.experiment(name).clear_failure()
    return retried


def time_left(ledger: Ledger) -> float | None:
    """Seconds until all is done by the processes that run now; None if nobody predicted costs."""
    costs = ledger.folder.costs()
    rows = list(ledger.rows.values())
    if any(row.experiment.hash not in costs for row in rows if row.finished is None):
        return None
    known = [row for row in rows if row.experiment.hash in costs]
    at_work = Counter((row.host, row.process) for row in rows if row.status == "running")
    return seconds_left(known, costs, max(1, len(at_work)), max(at_work.values(), default=1))
