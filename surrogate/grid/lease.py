"""Leases: one process at a time works on an experiment, until it releases it or has ended.

A lease is the file ``lease.json`` in an experiment's folder: who works on it, since when, how far
it is, and when its holder last renewed it. Leases are read and changed under a
short file lock, so that two processes never both find one free.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from surrogate.errors import DataError
from surrogate.files import atomic_write_text, check_is_file, explain_os_error, lock_file
from surrogate.stored import read_json
from surrogate.validated import record, validate

__all__ = ["HEARTBEAT_S", "STALE_S", "Lease", "read_lease"]

#: A holder renews its lease this often, seconds.
HEARTBEAT_S = 5.0

#: A lease held on another host is stale when it was not renewed for this long, seconds. Clocks may
#: differ by less than that.
STALE_S = 120.0


@record
class LeaseRecord(TypedDict):
    """What ``lease.json`` holds."""

    host: str
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    process: str | None
    token: str
    started: float
    heartbeat: float
    step: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]


class Lease:
    """A held lease. It is renewed by a thread from :meth:`renew` to :meth:`release`.

    Attributes
    ----------
    stop : threading.Event
        Set when another process has taken the lease: the holder must stop working.
    step, steps : int
        How far the holder is, for others to see.
    seconds : float
        What the experiment has taken so far.
    """

    def __init__(self, folder: Path, stop: threading.Event) -> None:
        self.folder, self.stop = folder, stop
        self.step = self.steps = 0
        self.seconds = 0.0
        self._token = uuid.uuid4().hex
        self._started = time.time()
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def acquire(cls, folder: Path, stop: threading.Event) -> Lease | None:
        """Take the lease of the experiment in ``folder``, or None if a living process holds it.

        Raises
        ------
        DataError
            If the folder cannot be written to.
        """
        lease = cls(folder, stop)
        with _guarded(folder):
            if read_lease(folder) is not None:
                return None
            lease._write()
        return lease

    def renew(self) -> None:
        """Start the thread that renews the lease and notices when it is lost."""
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the lease."""
        self._released.set()
        if self._thread is not None:
            self._thread.join()
        with _guarded(self.folder):
            if self._is_ours():
                (self.folder / "lease.json").unlink()

    def _keep(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            # A disk that is full for a moment costs one heartbeat, but not the experiment.
            with contextlib.suppress(DataError), _guarded(self.folder):
                if not self._is_ours():
                    self.stop.set()
                    return
                self._write()

    def _is_ours(self) -> bool:
        content = _content(self.folder)
        return content is not None and content["token"] == self._token

    def _write(self) -> None:
        _put(
            self.folder,
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "process": _process_start(os.getpid()),
                "token": self._token,
                "started": self._started,
                "heartbeat": time.time(),
                "step": self.step,
                "steps": self.steps,
                "seconds": round(self.seconds, 3),
            },
        )


def read_lease(folder: Path) -> LeaseRecord | None:
    """The lease of the experiment in ``folder`` if a living process holds it, else None.

    On its own host a lease lives as long as its process; elsewhere, for :data:`STALE_S` seconds
    after its last renewal.
    """
    content = _content(folder)
    if content is None:
        return None
    if content["host"] == socket.gethostname():
        alive = _is_alive(content["pid"], content["process"])
    else:
        # One from the future was written by a clock that is wrong, or damaged.
        alive = abs(time.time() - content["heartbeat"]) < STALE_S
    return content if alive else None


def _content(folder: Path) -> LeaseRecord | None:
    """The content of ``lease.json``; None if there is none or it is damaged."""
    try:
        return validate(LeaseRecord, read_json(folder / "lease.json"), "lease.json")
    except (OSError, ValueError):
        return None


def _put(folder: Path, content: LeaseRecord) -> None:
    atomic_write_text(folder / "lease.json", json.dumps(content) + "\n")


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """A context in which no other process changes this lease."""
    path = folder / ".lease.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            check_is_file(path)
        with open(path, "wb") as handle:
            lock_file(handle, wait=True)
            yield
    except OSError as error:
        raise explain_os_error(error, path) from error


def _is_alive(pid: int, started: str | None) -> bool:
    """Whether process ``pid`` runs and is the one that wrote ``started``."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process, which exists
        return True
    return started is None or _process_start(pid) == started


def _process_start(pid: int) -> str | None:
    """When a process began, in ticks since boot; None on systems other than Linux.

    A special number for a zombie, which has a process id but no longer runs.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # proc(5): the name, in parentheses, may hold anything; state is field 3, starttime 22.
    fields = text.rpartition(")")[2].split()
    return f"zombie {fields[19]}" if fields[0] in "ZX" else fields[19]
