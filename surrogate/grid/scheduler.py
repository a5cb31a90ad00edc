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
    # Experiments that run already are held by another process, such as another `grid run`.
    elsewhere = {name for name in names if ledger.rows[name].status == "running"}
    waiting, running = deque(name for name in names if name not in elsewhere), set[str]()
    configuration = {name: ledger.rows[name].experiment.configuration for name in names}
    tries: Counter[str] = Counter()
    alone: set[str] = set()  # whose workers died: they are tried alone from now on
    looked = time.monotonic()

    def settle(outcome: Outcome) -> Outcome:
        name = outcome.hash
        running.discard(name)
        ledger.refresh([name])
        row = ledger.rows[name]
        if outcome.status == "unwritable":
            raise DataError(f"{outcome.message}; what is finished is kept, run the grid again")
        if outcome.status == "busy":
            elsewhere.add(name)
        elif outcome.status == "died" and row.status in ("done", "unstable", "failed"):
            outcome = Outcome(name, row.status, row.error)  # it had ended before its worker died
        elif outcome.status in ("died", "interrupted"):
            tries[name] += 1
            if outcome.status == "died":
                alone.add(name)
            if tries[name] < MAX_DEATHS:
                waiting.appendleft(name)
            else:
                error = f"{outcome.message or outcome.status}, {MAX_DEATHS} times"
                ledger.folder.experiment(name).write_failure(error)
                ledger.refresh([name])
        return outcome

    try:
        while waiting or running or elsewhere:
            if stop.is_set():
                raise Interrupted("interrupted")
            idle = engine.idle  # once a round: a worker may come or go meanwhile
            while waiting and idle + engine.queue > 0:
                pack = take_pack(waiting, configuration, max(1, idle), engine.together, alone)
                engine.submit(pack)
                running.update(pack)
                idle -= 1
            for outcome in engine.wait(_POLL_S):
                report(settle(outcome))
            ledger.refresh(running)
            if elsewhere and time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                ledger.refresh(elsewhere)
                left = {name for name in elsewhere if ledger.rows[name].status == "pending"}
                waiting.extend(left)
                elsewhere = {name for name in elsewhere if ledger.rows[name].status == "running"}
            report(None)
    finally:
        engine.close()
        ledger.refresh(running)
