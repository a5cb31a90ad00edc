"""Experiments of a grid, as a task that may be started any number of times, anywhere."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import platform
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from surrogate import machine
from surrogate.datasets import Dataset
from surrogate.errors import DataError, SurrogateError
from surrogate.grid.experiment import Experiment
from surrogate.grid.folder import Done, ExperimentFolder, GridFolder
from surrogate.grid.lease import Lease
from surrogate.kernels import PROVIDERS, default_provider
from surrogate.training.finish import finish
from surrogate.training.loop import stop_on_signals, train_together
from surrogate.training.run import open_trainer
from surrogate.training.run_folder import FolderInUse
from surrogate.training.selection import instability
from surrogate.training.trainer import Trainer, TrainingProgress

__all__ = ["Outcome", "run_experiments", "take_up"]

#: Errors that are not an experiment's own: the next experiment would have them too.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)

#: The share of a GPU's free memory that trainings may take; the rest is lost to fragmentation.
_MEMORY_SHARE = 0.7


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes
    ----------
    hash : str
        Of the experiment.
    status : str
        "done" and "unstable": finished, by this task or before it. "failed": recorded, the others
        continue. "busy": another process works on it. "interrupted": saved, not finished.
        "unwritable": nothing can be written. "died": its process ended without reporting.
    message : str or None
        What went wrong, or what the user should know.
    """

    hash: str
    status: str
    message: str | None = None


def take_up(
    path: str,
    names: Sequence[str],
    data: str | None,
    device: str,
    stop: threading.Event,
    sharing: int = 1,
) -> list[Outcome]:
    """:func:`run_experiments` for a worker that only knows the grid's folder.

    Parameters
    ----------
    path : str
        The grid's folder, as this machine sees it.
    names : sequence of str
        Hashes of the experiments: one, or several of one configuration that train together.
    data : str or None
        The data set, as this machine sees it; None is the bundled sample.
    device, stop
        See :func:`run_experiments`.
    sharing : int
        Workers that use the device, this one included.

    Raises
    ------
    SurrogateError
        If grid or data are not here, or are others.
    """
    # Rounding depends on how a batch is divided among threads: with one thread per core, an
    # experiment would end with other weights when another machine continues it.
    torch.set_num_threads(1)
    folder = GridFolder(path)
    grid = folder.grid()
    experiments = {one.hash: one for one in grid.experiments()}
    with grid.open_data(data) as dataset:
        leading = experiments[names[0]]
        window = dataset.bins(leading.recipe.window_ms)
        fit = _fitting(leading, window, device, sharing)
        outcomes: list[Outcome] = []
        for first in range(0, len(names), fit):
            outcomes += run_experiments(
                folder,
                [experiments[name] for name in names[first : first + fit]],
                dataset,
                device,
                stop,
            )
            if any(one.status in ("interrupted", "unwritable") for one in outcomes):
                # A stop reaches only experiments that have begun, so the others are stopped here.
                outcomes += [Outcome(name, "interrupted") for name in names[first + fit :]]
                break
        return outcomes


def _fitting(experiment: Experiment, window: int, device: str, sharing: int) -> int:
    """How many such experiments, with ``window`` bins in a window, fit a GPU's memory, which other
    workers use too.

    At least one. A CPU's memory is left to the user.
    """
    if not device.startswith("cuda"):
        return sys.maxsize
    recipe, spec = experiment.recipe, experiment.spec
    provider = PROVIDERS[default_provider(device, spec=spec)]
    kept = provider.training_bytes(spec, recipe.batch_size, window)
    if kept is None:
        return 1
    # Weights and averages, two moments, gradients, and both in the order that kernels read.
    one = kept + 8 * 4 * spec.parameter_count
    torch.cuda.empty_cache()  # memory that the task before has kept counts as taken
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(_MEMORY_SHARE * free / sharing / one))


def run_experiments(
    folder: GridFolder,
    experiments: Sequence[Experiment],
    dataset: Dataset,
    device: str,
    stop: threading.Event,
) -> list[Outcome]:
    """Train and evaluate ``experiments`` together, from their last checkpoints on.

    Parameters
    ----------
    folder : GridFolder
    experiments : sequence of Experiment
        Of one configuration. Those that are done, or held by another process, are left out.
    dataset : Dataset
    device : str
        "cpu" or a CUDA device.
    stop : threading.Event
        Once it is set the trainings save and end.

    Returns
    -------
    list of Outcome
        Of each experiment. Errors are reported here too, and in ``failed.json``.
    """
    outcomes: list[Outcome] = []
    with contextlib.ExitStack() as held:
        works: dict[Trainer, _Work] = {}
        for experiment in experiments:
            if stop.is_set():
                outcomes.append(Outcome(experiment.hash, "interrupted"))
                continue
            begun = _begin(folder, experiment, dataset, device, len(works))
            if isinstance(begun, Outcome):
                outcomes.append(begun)
            else:
                held.enter_context(begun.held)
                works[begun.trainer] = begun
        together = len(works)
        try:
            running = train_together(
                list(works),
                lambda trainer, progress: works[trainer].note(progress),
                lambda trainer: works[trainer].lost.is_set() or stop.is_set(),
            )
            with stop_on_signals(stop):
                for trainer, error in running:
                    outcomes.append(_end(works.pop(trainer), error, together, len(works)))
        except Exception as error:  # whatever the error, the other experiments continue
            shared = len(works) > 1
            outcomes += [_failed(work.folder, work.name, error, shared) for work in works.values()]
    return outcomes


class _Work:
    """An experiment whose lease this process holds, until :attr:`held` is closed."""

    def __init__(self, folder: ExperimentFolder, experiment: Experiment) -> None:
        self.folder, self.experiment, self.name = folder, experiment, experiment.hash
        self.held = contextlib.ExitStack()
        #: Set when another process has taken the experiment over.
        self.lost = threading.Event()
        self.message: str | None = None
        self.lease: Lease
        self.trainer: Trainer

    def note(self, progress: TrainingProgress) -> None:
        """Write the training's progress into the lease."""
        self.lease.step, self.lease.seconds = progress.step, self.trainer.seconds


def _begin(
    folder: GridFolder,
    experiment: Experiment,
    dataset: Dataset,
    device: str,
    others: int,
) -> _Work | Outcome:
    """Take the experiment's lease and go to its last checkpoint; or why there is nothing to do."""
    work = _Work(folder.experiment(experiment.hash), experiment)
    try:
        with work.held:
            lease = Lease.acquire(work.folder.path, work.lost)
            if lease is None:
                return Outcome(work.name, "busy")
            work.lease = lease
            work.held.callback(lease.release)
            if record := work.folder.done():
                return Outcome(work.name, record["status"])
            if failure := work.folder.failure():  # of a task that a killed worker did not end
                return Outcome(work.name, "failed", failure["error"])
            where = None if dataset.is_sample else str(dataset.path.resolve())
            config = dataclasses.replace(experiment, data=where)
            run = work.folder.run
            work.trainer = open_trainer(config, dataset, run, device)
            work.held.enter_context(run.lock())
            work.message = work.trainer.resume()
            work.folder.note_start(work.trainer.step, work.message)
            lease.step, lease.steps = work.trainer.step, config.recipe.steps
            lease.seconds = work.trainer.seconds
            lease.renew()
            work.held = work.held.pop_all()  # kept beyond this block
            return work
    except FolderInUse:
        return Outcome(work.name, "busy")
    except Exception as error:
        return _failed(work.folder, work.name, error, others > 0)


def _end(work: _Work, error: Exception | None, together: int, others: int) -> Outcome:
    """Evaluate a training that has ended and record it, unless it was stopped before its end."""
    with work.held:  # recorded while this process holds the lease
        try:
            if error is not None:
                raise error
            return _finish(work, together)
        except Exception as failure:
            return _failed(work.folder, work.name, failure, others > 0)


def _finish(work: _Work, together: int) -> Outcome:
    trainer = work.trainer
    if not trainer.done:
        return Outcome(work.name, "interrupted")
    finishing = time.monotonic()
    # A run that failed before its first epoch ended counts as unstable, not as failed.
    result = finish(trainer, plots=False) if trainer.selection.weights is not None else None
    finishing = time.monotonic() - finishing
    record = _record(work.experiment, trainer, result, finishing, together)
    work.folder.write_done(record)
    return Outcome(work.name, record["status"], work.message)


def _record(
    experiment: Experiment,
    trainer: Trainer,
    result: dict[str, Any] | None,
    finishing: float,
    together: int,
) -> Done:
    reason = instability(trainer.history, trainer.failure)
    return {
        "experiment": experiment.axes(),
        "hash": experiment.hash,
        "status": "done" if reason is None else "unstable",
        "unstable_reason": reason,
        "epochs": len(trainer.history),
        "scores": {"valid": result["validation"] if result else {}},
        "parameters": trainer.stack.parameter_count,
        "seconds": round(trainer.seconds + finishing, 3),
        "own_seconds": round(trainer.own_seconds + finishing, 3),
        "together": together,
        "windows": trainer.step * trainer.config.recipe.batch_size,
        "machine": f"{platform.node()}, {machine.cpu_name()}",
        "versions": machine.versions(),
        "provider": default_provider(trainer.device, spec=trainer.config.spec),
        "finished": time.time(),
    }


def _failed(folder: ExperimentFolder, name: str, error: Exception, shared: bool) -> Outcome:
    """The outcome of an error, recorded if it is the experiment's own."""
    known = isinstance(error, SurrogateError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in _UNWRITABLE:
        return Outcome(name, "unwritable", message)
    if shared:
        # One of them may have caused it, or they took too much memory together.
        return Outcome(name, "died", f"training with others: {message}; trying it alone")
    try:
        folder.write_failure(message, None if known else "".join(traceback.format_exception(error)))
    except DataError as unwritable:
        return Outcome(name, "unwritable", str(unwritable))
    return Outcome(name, "failed", message)
