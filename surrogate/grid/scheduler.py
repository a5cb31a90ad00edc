"""Running a grid to its end: hands experiments to an engine, and deals with what comes back."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from surrogate.errors import DataError
from surrogate.grid.ledger import Ledger
from surrogate.grid.task import Outcome
from surrogate.training import Interrupted

__all__ = ["Engine", "run_grid"]

#: How long to wait for news at a time, seconds.
_POLL_S = 1.0

#: How often to look after experiments that other processes hold, seconds.
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
    def free(self) -> int:
        """Tasks that can be submitted now."""

    def submit(self, names: Sequence[str]) -> None:
        """Take the experiments with these hashes as one task."""

    def wait(self, seconds: float) -> list[Outcome]:
        """The experiments whose tasks ended, waiting for the first at most ``seconds``."""

    def close(self) -> None:
        """Let running experiments save and stop, and give everything back."""


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
    waiting, running, elsewhere = deque(names), set[str](), set[str]()
    tries: Counter[str] = Counter()
    alone: set[str] = set()  # whose workers died: they take no others with them again
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
            while waiting and engine.free > 0:
                names = _take(waiting, engine, ledger, alone)
                engine.submit(names)
                running.update(names)
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


def _take(waiting: deque[str], engine: Engine, ledger: Ledger, alone: Collection[str]) -> list[str]:
    """Take the next experiment out of ``waiting``, and others of its configuration with it.

    Not so many that other workers stay without.
    """
    first = waiting.popleft()
    if engine.together == 1 or first in alone:
        return [first]
    wanted = ledger.rows[first].experiment.configuration
    mates = [
        name
        for name in waiting
        if ledger.rows[name].experiment.configuration == wanted and name not in alone
    ]
    share = -(-(1 + len(mates)) // engine.free)
    mates = mates[: min(engine.together, share) - 1]
    for name in mates:
        waiting.remove(name)
    return [first, *mates]
