"""The local engine: worker processes on this machine, one thread each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from surrogate.errors import SurrogateError
from surrogate.grid.task import Outcome, take_up

__all__ = ["TOGETHER_ON_A_GPU", "LocalEngine", "devices"]

#: As many as the blog's grid has of one configuration.
TOGETHER_ON_A_GPU = 12

#: How long closing waits for running experiments to take a step and save, seconds.
_GRACE_S = 120.0


def devices(wanted: str | None, jobs: int | None) -> list[str]:
    """The device of each worker: one per GPU, or one per CPU core if there is no GPU.

    Parameters
    ----------
    wanted : "cpu" | "cuda" | None
        None takes GPUs where there are any.
    jobs : int or None
        Workers; more than GPUs share them in turn.
    """
    gpus = torch.cuda.device_count() if wanted != "cpu" and torch.cuda.is_available() else 0
    if wanted == "cuda" and not gpus:
        raise SurrogateError("--device cuda: torch finds no CUDA GPU; use --device cpu")
    if gpus:
        return [f"cuda:{index % gpus}" for index in range(jobs or gpus)]
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return ["cpu"] * (jobs or cores)


class LocalEngine:
    """Runs experiments in worker processes, which are started when they are needed.

    A worker that dies is replaced. When this process ends, even by ``kill -9``, the workers notice
    that their pipe is closed, save their state and end.

    Parameters
    ----------
    folder : Path
        The grid's.
    data : str or None
        The data set; None is the bundled sample.
    devices : sequence of str
        The device of each worker.
    together : int
        Experiments of one configuration that a worker trains together, if its memory allows.
    """

    def __init__(
        self, folder: Path, data: str | None, devices: Sequence[str], together: int = 1
    ) -> None:
        self._folder, self._data = str(folder), data
        self._on_device = Counter(devices)
        self._idle: list[_Worker | str] = list(reversed(devices))
        self._busy: dict[tuple[str, ...], _Worker] = {}
        self.together, self.workers, self.queue = together, len(devices), 0

    @property
    def idle(self) -> int:
        """Workers without work."""
        return len(self._idle)

    def submit(self, names: Sequence[str]) -> None:
        """Give experiments to an idle worker."""
        worker = self._idle.pop()
        if isinstance(worker, str):
            worker = _Worker(self._folder, self._data, worker, self._on_device[worker])
        with contextlib.suppress(OSError):  # the worker has died meanwhile; wait() reports it
            worker.connection.send(tuple(names))
        self._busy[tuple(names)] = worker

    def wait(self, seconds: float) -> list[Outcome]:
        """The experiments whose tasks ended, waiting for the first at most ``seconds``."""
        if not self._busy:
            time.sleep(seconds)
            return []
        ready = wait([worker.connection for worker in self._busy.values()], seconds)
        ended = [(names, one) for names, one in self._busy.items() if one.connection in ready]
        return [outcome for names, worker in ended for outcome in self._receive(names, worker)]

    def _receive(self, names: tuple[str, ...], worker: _Worker) -> list[Outcome]:
        del self._busy[names]
        try:
            said = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._idle.append(worker.device)
            cause = worker.bury()
            return [Outcome(name, "died", cause) for name in names]
        if isinstance(said, SurrogateError):
            raise said
        self._idle.append(worker)
        return said

    def close(self) -> None:
        """Let running experiments save and stop, and end the workers."""
        workers = [one for one in self._idle if isinstance(one, _Worker)]
        workers += self._busy.values()
        for worker in workers:
            worker.connection.close()
        deadline = time.monotonic() + _GRACE_S
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._idle, self._busy = [], {}


class _Worker:
    """A worker process and the pipe to it."""

    def __init__(self, folder: str, data: str | None, device: str, sharing: int) -> None:
        # Not fork: torch and HDF5 have threads that a forked child would lack.
        context = multiprocessing.get_context("spawn")
        self.device = device
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, folder, data, device, sharing), daemon=True
        )
        self.process.start()
        theirs.close()

    def bury(self) -> str:
        """Wait for the dead process, and say why it ended."""
        self.connection.close()
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"its worker ended with exit code {code}"
        name = signal.Signals(-code).name
        hint = "; out of memory?" if -code == signal.SIGKILL else ""
        return f"its worker was killed by {name}{hint}"


def _serve(
    connection: Connection, folder: str, data: str | None, device: str, sharing: int
) -> None:
    """What a worker process does: experiments, one after the other, until its pipe is closed."""
    # Ctrl-C in a terminal reaches every process of the group; the parent says when to stop.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = _Stop()
    tasks: queue.SimpleQueue[tuple[str, ...] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, tasks, stop), daemon=True).start()
    while (names := tasks.get()) is not None:
        said: list[Outcome] | SurrogateError
        try:
            said = take_up(folder, names, data, device, stop.event(), sharing)
        except SurrogateError as error:
            said = error
        try:
            connection.send(said)
        except OSError:  # the parent has ended
            return


class _Stop:
    """Gives each experiment an event of its own, and sets it when the pipe is closed."""

    def __init__(self) -> None:
        self._closed = False
        self._current = threading.Event()

    def event(self) -> threading.Event:
        self._current = threading.Event()
        if self._closed:  # checked after it was stored, so that a close in between is noticed
            self._current.set()
        return self._current

    def close(self) -> None:
        self._closed = True
        self._current.set()


def _listen(
    connection: Connection, tasks: queue.SimpleQueue[tuple[str, ...] | None], stop: _Stop
) -> None:
    """Pass on what the parent sends; stop the training when it closes the pipe or dies."""
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, OSError):
        stop.close()
        tasks.put(None)
