"""The cluster engine: Dask distributed, on a running scheduler or on SLURM jobs of its own."""

from __future__ import annotations

import queue
import shlex
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surrogate.errors import DataError, SurrogateError, UsageError
from surrogate.grid.folder import GridFolder
from surrogate.grid.lease import read_lease, revoke
from surrogate.grid.task import Outcome, take_up

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["DaskEngine", "connect", "connect_slurm"]

_INSTALL = "python -m pip install 'surrogate-neuron[cluster]'"

#: How long to wait for a scheduler, and at the end for running experiments to save, seconds.
_CONNECT_S = 30.0
_GRACE_S = 120.0

#: How long a task that has been handed to a worker may take until it holds its leases, seconds.
_BEGINNING_S = 2.0


def connect(address: str) -> Client:
    """A client of the Dask scheduler at ``address``.

    Raises
    ------
    UsageError
        If Dask is not installed.
    SurrogateError
        If no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(f"--engine dask needs Dask ({error}); {_INSTALL}") from error
    try:
        return Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SurrogateError(
            f"--scheduler {address}: no Dask scheduler answers ({error}); start one with "
            "`dask scheduler` and give the address it prints"
        ) from error


def connect_slurm(options: Mapping[str, Any]) -> Client:
    """A client of a Dask cluster whose workers are SLURM jobs.

    Parameters
    ----------
    options : mapping
        ``jobs``, the number of jobs, and the arguments of ``dask_jobqueue.SLURMCluster``, such as
        queue, cores, memory, walltime, interface.

    Raises
    ------
    UsageError
        If dask-jobqueue is not installed or an option does not exist.
    """
    try:
        from dask_jobqueue import SLURMCluster
        from distributed import Client
    except ImportError as error:
        raise UsageError(f"[slurm] needs dask-jobqueue ({error}); {_INSTALL}") from error
    arguments = dict(options)
    jobs = arguments.pop("jobs", None)
    if type(jobs) is not int or jobs < 1:
        raise UsageError(f"[slurm] jobs = {jobs!r}: expected the number of jobs, from 1")
    try:
        # Quoted, for the job is a shell script and the path may hold spaces.
        defaults: dict[str, Any] = {
            "cores": 1,
            "processes": 1,
            "python": shlex.quote(sys.executable),
        }
        cluster = SLURMCluster(**(defaults | arguments))
    except (TypeError, ValueError) as error:
        raise UsageError(f"[slurm]: {error}; see dask_jobqueue.SLURMCluster") from error
    # Not scale(): adapting replaces a job that was cancelled.
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
    return Client(cluster, set_as_default=False)


class DaskEngine:
    """Runs experiments as Dask tasks; workers write into the grid's folder, which all must see.

    Parameters
    ----------
    folder : Path
        The grid's, on a file system that every worker shares.
    data : str or None
        The data set; None is the bundled sample.
    client : distributed.Client
        Closed with the engine, and with it a cluster that it started.
    device : "cpu" | "cuda" | None
        None takes a worker's GPU where it has one.
    ship_data : bool
        Send the data set to each worker once, where they do not share the file.
    together : int
        Experiments of one configuration that a worker trains together, if its memory allows.
    """

    def __init__(
        self,
        folder: Path,
        data: str | None,
        client: Client,
        device: str | None = None,
        ship_data: bool = False,
        together: int = 1,
    ) -> None:
        self._folder, self._client = folder.resolve(), client
        self._device, self.together = device, together
        self._data = None if data is None else str(Path(data).resolve())
        self._shipped = ship_data and data is not None
        self._futures: dict[tuple[str, ...], Future] = {}
        self._ended: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
        if self._shipped:
            assert self._data is not None
            client.upload_file(self._data, load=False)
            self._data = Path(self._data).name

    @property
    def workers(self) -> int:
        """Tasks that all workers there are at the moment run at once, at least 1."""
        return max(1, sum(self._client.nthreads().values()))

    @property
    def free(self) -> int:
        """Dask keeps the queue: one more task than workers keeps them all at work."""
        return self.workers + 1 - len(self._futures)

    def submit(self, names: Sequence[str]) -> None:
        """Hand experiments to the scheduler."""
        task = tuple(names)
        future = self._client.submit(
            _take_up_on_worker,
            str(self._folder),
            task,
            self._data,
            self._shipped,
            self._device,
            pure=False,
        )
        self._futures[task] = future
        future.add_done_callback(lambda _: self._ended.put(task))

    def wait(self, seconds: float) -> list[Outcome]:
        """The experiments whose tasks ended, waiting for the first at most ``seconds``."""
        try:
            tasks = [self._ended.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._ended.empty():
            tasks.append(self._ended.get())
        return [
            outcome
            for names in tasks
            for outcome in self._outcomes(names, self._futures.pop(names))
        ]

    def _outcomes(self, names: tuple[str, ...], future: Future) -> list[Outcome]:
        from distributed import KilledWorker

        if future.status == "finished":
            outcomes: list[Outcome] = future.result()
            return outcomes
        error = future.exception() if future.status == "error" else None
        if error is None:  # cancelled, or forgotten by a scheduler that was restarted
            return [Outcome(name, "died", "its Dask worker was lost") for name in names]
        if isinstance(error, KilledWorker):  # Dask itself has tried several workers
            message = "its Dask workers died one after the other; out of memory?"
            if len(names) > 1:  # the scheduler tries each alone
                return [Outcome(name, "died", message) for name in names]
            GridFolder(self._folder).experiment(names[0]).write_failure(message)
            return [Outcome(names[0], "failed", message)]
        if isinstance(error, SurrogateError):
            raise error
        raise SurrogateError(
            f"a Dask worker cannot run experiments: {type(error).__name__}: {error}; install the "
            "same surrogate-neuron there"
        )

    def close(self) -> None:
        """Let running experiments save and stop, and leave the scheduler."""
        homes = []
        for names, future in self._futures.items():
            homes += [GridFolder(self._folder).experiment(name).path for name in names]
            self._client.cancel([future])  # of no use to a task that has begun
        began, asked = time.monotonic(), set[Path]()
        try:
            # Experiments of a task that has just begun take their leases one after the other.
            while homes and (passed := time.monotonic() - began) < _GRACE_S:
                held = [home for home in homes if read_lease(home) is not None]
                if not held and passed > _BEGINNING_S:
                    break
                for home in set(held) - asked:
                    revoke(home)
                asked.update(held)
                time.sleep(0.2)
        finally:
            if self._client.cluster is not None:
                self._client.cluster.close()
            self._client.close()


def _take_up_on_worker(
    folder: str, names: Sequence[str], data: str | None, shipped: bool, device: str | None
) -> list[Outcome]:
    """The task, on a worker."""
    import torch
    from distributed import get_worker

    host = socket.gethostname()
    if shipped:
        data = str(Path(get_worker().local_directory) / str(data))
    if not GridFolder(folder).exists():
        raise DataError(
            f"{folder}: Dask worker on {host} does not see the grid's folder; put it on a file "
            "system that all machines share"
        )
    if data is not None and not Path(data).exists():
        raise DataError(
            f"{data}: Dask worker on {host} does not see the data; put them on a file system that "
            "all machines share, or send them along with --ship-data"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return take_up(folder, names, data, device, threading.Event())
