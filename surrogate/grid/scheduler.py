"""Runs a grid to its end: gives experiments to an engine and handles their outcomes."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from surrogate.errors import DataError, Interrupted
from surrogate.grid.ledger import Ledger
from surrogate.grid.packs import take_pack
from surrogate.grid.task import Outcome

__all__ = ["Engine", "run_grid"]

#: How long to wait for outcomes at a time, seconds.
_POLL_S = 1.0

#: How often to check experiments that other processes hold, seconds.
_LOOK_S = 3.0

#: An experiment whose workers died this often has failed.
MAX_DEATHS = 3


class Engine(Protocol):
    """Where experiments run."""

    @property
    def together(self) -> int:
        """Experiments of one configuration that one task trains together, at most."""

    @property
    def workers(self) -> int:
        """Tasks that run at once."""

    @property
    def queue(self) -> int:
        """Tasks that it takes beyond its workers, so that none waits for the next one."""

    @property
    def idle(self) -> int:
        """Workers without work; less than 0 where tasks wait for one."""

    def submit(self, names: Sequence[str]) -> None:
        """Take the experiments with these hashes as one task."""

    def wait(self, seconds: float) -> list[Outcome]:
        """The experiments whose tasks ended, waiting for the first at most ``seconds``."""

    def close(self) -> None:
        """Let running experiments save and stop, and release all resources."""


def run_grid(
    names: Sequence[str],
    ledger: Ledger,
    engine: Engine,
    stop: threading.Event,
    report: Callable[[Outcome | None], None],
) -> None:
    """Run experiments until each is finished or has failed.

    Parameters
    ----------
    names : sequence of str
        Hashes of the experiments to run, in this order.
    ledger : Ledger
        Kept up to date.
    engine : Engine
        Closed in the end, whatever happens.
    stop : threading.Event
        Once it is set, running experiments save and stop.
    report : callable
        Called with each outcome, and with None about every second.

    Raises
    ------
    Interrupted
        If ``stop`` was set.
    DataError
        If nothing can be written any more.
    SurrogateError
        If the workers cannot do their work at all.
    """
    work = _Scheduler(names, ledger, engine)
    try:
        while work.unfinished:
            if stop.is_set():
                raise Interrupted("interrupted")
            work.submit()
            for outcome in engine.wait(_POLL_S):
                report(work.settle(outcome))
            ledger.refresh(work.running)
            work.take_back()
            report(None)
    finally:
        engine.close()
        ledger.refresh(work.running)


class _Scheduler:
    """Which experiments wait, run here, or run elsewhere."""

    def __init__(self, names: Sequence[str], ledger: Ledger, engine: Engine) -> None:
        self.ledger, self.engine = ledger, engine
        #: Held by other processes, such as another `grid run`.
        self.elsewhere = {name for name in names if ledger.rows[name].status == "running"}
        self.waiting = deque(name for name in names if name not in self.elsewhere)
        self.running: set[str] = set()
        #: Those whose workers died: they are tried alone from now on.
        self.alone: set[str] = set()
        self.tries: Counter[str] = Counter()
        self.configuration = {name: ledger.rows[name].experiment.configuration for name in names}
        self._looked = time.monotonic()

    @property
    def unfinished(self) -> bool:
        return bool(self.waiting or self.running or self.elsewhere)

    def submit(self) -> None:
        """Give the engine as many tasks as it takes."""
        engine = self.engine
        idle = engine.idle  # once a round: a worker may come or go meanwhile
        while self.waiting and idle + engine.queue > 0:
            pack = take_pack(
                self.waiting, self.configuration, max(1, idle), engine.together, self.alone
            )
            engine.submit(pack)
            self.running.update(pack)
            idle -= 1

    def settle(self, outcome: Outcome) -> Outcome:
        """Note how an experiment's task ended; returns what is to be reported of it."""
        name = outcome.hash
        self.running.discard(name)
        self.ledger.refresh([name])
        row = self.ledger.rows[name]
        if outcome.status == "unwritable":
            raise DataError(f"{outcome.message}; what is finished is kept, run the grid again")
        if outcome.status == "busy":
            self.elsewhere.add(name)
        elif outcome.status == "died" and row.status in ("done", "unstable", "failed"):
            return Outcome(name, row.status, row.error)  # it had ended before its worker died
        elif outcome.status in ("died", "interrupted"):
            self._try_again(outcome)
        return outcome

    def _try_again(self, outcome: Outcome) -> None:
        """Put the experiment first in line, or record its failure if it was tried often enough."""
        name = outcome.hash
        self.tries[name] += 1
        if outcome.status == "died":
            self.alone.add(name)
        if self.tries[name] < MAX_DEATHS:
            self.waiting.appendleft(name)
            return
        error = f"{outcome.message or outcome.status}, {MAX_DEATHS} times"
        self.ledger.folder.experiment(name).write_failure(error)
        self.ledger.refresh([name])

    def take_back(self) -> None:
        """Every few seconds, let those wait again that another process has given up."""
        if not self.elsewhere or time.monotonic() - self._looked <= _LOOK_S:
            return
        self._looked = time.monotonic()
        rows = self.ledger.rows
        self.ledger.refresh(self.elsewhere)
        self.waiting.extend(name for name in self.elsewhere if rows[name].status == "pending")
        self.elsewhere = {name for name in self.elsewhere if rows[name].status == "running"}
