"""The cluster engine: Dask distributed, on a running scheduler or on SLURM jobs of its own."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import shlex
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from surrogate.errors import DataError, SurrogateError, UsageError
from surrogate.grid.folder import GridFolder
from surrogate.grid.lease import HEARTBEAT_S, STALE_S, Lease, read_lease
from surrogate.grid.task import Outcome, take_up
from surrogate.validated import validate

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["DaskEngine", "connect", "connect_slurm"]

_INSTALL = "python -m pip install 'surrogate-neuron[cluster]'"

_JOBS: Any = Annotated[int, Field(ge=1, le=10_000)]

#: How long to wait for a scheduler, and at the end for running experiments to save, seconds.
_CONNECT_S = 30.0
_GRACE_S = 120.0

#: Part of the message when the scheduler is gone; the grid's folder needs no scheduler.
_GONE = "the Dask scheduler is gone ({error}); everything is saved, start it and run the grid again"


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
        # Client itself waits for ever on a port that speaks another protocol, such as the
        # dashboard's.
        with ThreadPoolExecutor(1) as thread:  # a notebook's own thread runs a loop already
            thread.submit(asyncio.run, asyncio.wait_for(_greet(address), _CONNECT_S)).result()
        return Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = str(error) or f"nothing but silence for {_CONNECT_S:g} s"
        raise SurrogateError(
            f"--scheduler {address}: no Dask scheduler answers ({reason}); start one with "
            "`dask scheduler` and give the address it prints, not that of its dashboard"
        ) from error


async def _greet(address: str) -> None:
    """Ask the scheduler at ``address`` who it is."""
    from distributed.core import rpc

    async with rpc(address) as scheduler:
        await scheduler.identity()


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
    jobs = validate(_JOBS, arguments.pop("jobs", None), "[slurm] jobs")
    try:
        # Quoted: the job is a shell script, and the path may contain spaces.
        defaults: dict[str, Any] = {
            "cores": 1,
            "processes": 1,
            "python": shlex.quote(sys.executable),
        }
        cluster = SLURMCluster(**(defaults | arguments))
    except Exception as error:  # wrong values meet it anywhere: Dask does not check them
        raise UsageError(f"[slurm]: {error}; see dask_jobqueue.SLURMCluster") from error
    # Not scale(): adapting replaces a job that was cancelled.
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
    return Client(cluster, set_as_default=False)


class DaskEngine:
    """Runs experiments as Dask tasks; workers write into the grid's folder, which all must share.

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
        self.queue = 1  # one task more than workers: none of them waits for the next submission
        # Workers stop when this lease ends: it is released, or this process has ended.
        self._home = self._folder / "clients" / uuid.uuid4().hex
        self._lease: Lease | None = None
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
        """Tasks that the present workers run at once, at least 1."""
        with _answered():
            return max(1, sum(self._client.nthreads().values()))

    @property
    def idle(self) -> int:
        """Workers without work; -1 where Dask keeps a task that waits for one."""
        return self.workers - len(self._futures)

    def submit(self, names: Sequence[str]) -> None:
        """Hand experiments to the scheduler."""
        if self._lease is None:
            self._lease = _begin_client(self._home)
        task = tuple(names)
        with _answered():
            future = self._client.submit(
                _take_up_on_worker,
                str(self._folder),
                str(self._home),
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
        if isinstance(error, KilledWorker):  # Dask has tried it on several workers
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
        """Let running experiments save and stop, and disconnect from the scheduler."""
        tasks = [self._home / names[0] for names in self._futures]
        try:
            if self._lease is not None:
                self._lease.release()
            with contextlib.suppress(OSError):  # the scheduler is gone
                self._client.cancel(list(self._futures.values()))  # of tasks that have not begun
            deadline = time.monotonic() + _GRACE_S
            while any(map(read_lease, tasks)) and time.monotonic() < deadline:
                time.sleep(0.2)
            _sweep(self._home)
        finally:
            if self._client.cluster is not None:
                self._client.cluster.close()
            self._client.close()


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Turn errors of a scheduler that does not answer into one line."""
    try:
        yield
    except OSError as error:  # time-outs, too
        raise SurrogateError(_GONE.format(error=str(error) or type(error).__name__)) from error


def _begin_client(home: Path) -> Lease:
    """Hold the lease by which workers know that this process waits for them, in its own folder."""
    if home.parent.exists():
        for other in home.parent.iterdir():
            if time.time() - other.stat().st_mtime > STALE_S:  # not of a client that begins now
                _sweep(other)
    lease = Lease.acquire(home, threading.Event())
    assert lease is not None  # the name is new
    lease.renew()
    return lease


def _sweep(home: Path) -> None:
    """Remove a client's folder, and if it was the last the folder of clients, unless it is in use.

    It contains a folder for each task that has begun, with a lease while the task runs.
    """
    if read_lease(home) is None and not any(map(read_lease, home.glob("*/"))):
        shutil.rmtree(home, ignore_errors=True)
        with contextlib.suppress(OSError):
            home.parent.rmdir()


def _take_up_on_worker(
    folder: str,
    client: str,
    names: Sequence[str],
    data: str | None,
    shipped: bool,
    device: str | None,
) -> list[Outcome]:
    """The task, on a worker."""
    import torch

    host, sharing = socket.gethostname(), 1
    with contextlib.suppress(ImportError, ValueError):  # called by hand, not by Dask
        from distributed import get_worker

        worker = get_worker()
        sharing = worker.state.nthreads
        if shipped:
            data = str(Path(worker.local_directory) / str(data))
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
    with _while_wanted(Path(client), names[0]) as stop:
        return take_up(folder, names, data, device, stop, sharing)


@contextlib.contextmanager
def _while_wanted(client: Path, name: str) -> Iterator[threading.Event]:
    """An event that is set when the client ends; meanwhile a lease shows that the task runs."""
    stop, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while read_lease(client) is not None:
            if ended.wait(HEARTBEAT_S):
                return
        stop.set()

    # Before the first check of the client, so that it does not end without knowing of this task.
    lease = Lease.acquire(client / name, threading.Event())
    if lease is not None:  # else another worker runs the task: see its leases
        lease.renew()
    if read_lease(client) is None:
        stop.set()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        ended.set()
        watcher.join()
        if lease is not None:
            lease.release()
        _sweep(client)
