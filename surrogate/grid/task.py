"""One experiment of a grid, as a task that may be started any number of times, anywhere."""

from __future__ import annotations

import errno
import os
import platform
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surrogate import datasets
from surrogate.datasets import Dataset
from surrogate.errors import DataError, SurrogateError, UsageError
from surrogate.grid.experiment import Experiment
from surrogate.grid.folder import ExperimentFolder, GridFolder
from surrogate.grid.grid import versions
from surrogate.grid.lease import Lease
from surrogate.kernels import default_provider
from surrogate.run import finish
from surrogate.run_folder import FolderInUse
from surrogate.selection import instability
from surrogate.training import Interrupted, Progress, Trainer

__all__ = ["Outcome", "cpu_model", "run_experiment", "take_up"]

#: What is no experiment's fault: the next one would meet it too.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes
    ----------
    hash : str
        Of the experiment.
    status : str
        "done" and "unstable": finished, by this task or before it. "failed": recorded, the others
        go on. "busy": in another process's hands. "interrupted": saved, not finished. "unwritable":
        nothing can be written. "died": its process ended without a word.
    message : str or None
        What went wrong, or what the user should know.
    """

    hash: str
    status: str
    message: str | None = None


def take_up(path: str, name: str, data: str | None, device: str, stop: threading.Event) -> Outcome:
    """:func:`run_experiment` for a worker that knows no more than where the grid lies.

    Parameters
    ----------
    path : str
        The grid's folder, as this machine sees it.
    name : str
        Hash of the experiment.
    data : str or None
        The data set, as this machine sees it; None is the bundled sample.
    device, stop
        See :func:`run_experiment`.

    Raises
    ------
    SurrogateError
        If grid or data are not here, or are others.
    """
    # Sums are rounded by how a batch is shared out: with as many threads as a machine has cores,
    # an experiment would end elsewhere when another machine goes on with it.
    torch.set_num_threads(1)
    folder = GridFolder(path)
    grid = folder.grid()
    experiments = {one.hash: one for one in grid.experiments()}
    with datasets.open(data) as dataset:
        if dataset.digest != grid.data_digest:
            raise UsageError(
                f"{dataset.path} is not the data set of this grid (digest {dataset.digest[:12]}, "
                f"expected {grid.data_digest[:12]}); give the right one with --data"
            )
        return run_experiment(
            folder.experiment(name), experiments[name], dataset, grid.reuse_windows, device, stop
        )


def run_experiment(
    folder: ExperimentFolder,
    experiment: Experiment,
    dataset: Dataset,
    reuse_windows: bool,
    device: str,
    stop: threading.Event,
) -> Outcome:
    """Train and judge ``experiment``, from its last checkpoint on, unless it is done already.

    Parameters
    ----------
    folder : ExperimentFolder
    experiment : Experiment
    dataset : Dataset
    reuse_windows : bool
    device : str
        "cpu" or a CUDA device.
    stop : threading.Event
        Once it is set the training saves and ends. Set by this function if the lease is lost.

    Returns
    -------
    Outcome
        Errors, too, end up here, and in ``failed.json``.
    """
    name = experiment.hash
    try:
        lease = Lease.acquire(folder.path, stop)
        if lease is None:
            return Outcome(name, "busy")
        try:
            if record := folder.done():
                return Outcome(name, record["status"])
            return _work(folder, experiment, dataset, reuse_windows, device, lease)
        finally:
            lease.release()
    except FolderInUse:
        return Outcome(name, "busy")
    except Interrupted:
        return Outcome(name, "interrupted")
    except Exception as error:  # whatever it is, the other experiments go on
        return _failed(folder, name, error)


def _work(
    folder: ExperimentFolder,
    experiment: Experiment,
    dataset: Dataset,
    reuse_windows: bool,
    device: str,
    lease: Lease,
) -> Outcome:
    run = folder.run
    where = None if dataset.is_sample else str(dataset.path.resolve())
    config = experiment.run_config(where, reuse_windows)
    if not (run.path / "run.json").exists():
        run.create(config)
    with run.lock():
        trainer = Trainer(config, dataset, run, device)
        note = _resume(trainer, folder)
        folder.note_start(trainer.step, note)
        lease.step, lease.steps = trainer.step, trainer.config.recipe.steps
        lease.seconds = trainer.seconds
        lease.renew()

        def report(progress: Progress) -> None:
            lease.step, lease.seconds = progress.step, trainer.seconds

        trainer.run(report, lease.stop)
        judging = time.monotonic()
        # A run that failed before its first epoch ended has found something, too: it is unstable.
        judged = finish(trainer, plots=False) if trainer.selection.weights is not None else None
        seconds = trainer.seconds + time.monotonic() - judging
        record = _record(experiment, trainer, judged, seconds)
        folder.write_done(record)
    return Outcome(experiment.hash, record["status"], note)


def _resume(trainer: Trainer, folder: ExperimentFolder) -> str | None:
    """Go on from the last good checkpoint; from the start if none is readable."""
    try:
        return trainer.resume()
    except DataError:
        folder.drop_checkpoints()
        return "no checkpoint could be read; starting again"


def _record(
    experiment: Experiment, trainer: Trainer, judged: dict[str, Any] | None, seconds: float
) -> dict[str, Any]:
    reason = instability(trainer.history, trainer.failure)
    return {
        "experiment": experiment.axes(),
        "hash": experiment.hash,
        "status": "done" if reason is None else "unstable",
        "unstable_reason": reason,
        "epochs": len(trainer.history),
        "scores": {"valid": judged["validation"] if judged else {}},
        "parameters": trainer.stack.parameter_count,
        "seconds": round(seconds, 3),
        "windows": trainer.step * trainer.config.recipe.batch_size,
        "machine": f"{platform.node()}, {cpu_model()}",
        "versions": versions(),
        "provider": default_provider(trainer.device),
        "finished": time.time(),
    }


def _failed(folder: ExperimentFolder, name: str, error: Exception) -> Outcome:
    known = isinstance(error, SurrogateError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in _UNWRITABLE:
        return Outcome(name, "unwritable", message)
    try:
        folder.write_failure(message, None if known else "".join(traceback.format_exception(error)))
    except DataError as unwritable:
        return Outcome(name, "unwritable", str(unwritable))
    return Outcome(name, "failed", message)


def cpu_model() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine() or os.name)
